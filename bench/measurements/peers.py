"""What a user would pick instead, doing the same durable jobs on the same services.

Each peer has a Python environment of its own with pinned versions (`peers/requirements/`), one
client process with 64 submits in flight, and one worker at its best setting.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from bench.measurements.plan import Measurement, Plan
from bench.program import ROOT, Program
from bench.rows import Row, Samples
from bench.stage import Stage
from headway_dev import ports, processes

# How many jobs a repetition has: 1 to 3 seconds.
PEERS = {
    "taskiq": 4_000,
    "celery": 1_000,
    "procrastinate": 1_200,
    "pgqueuer": 4_000,
    "dbos": 1_000,
    "dramatiq": 4_000,
    "saq": 4_000,
    "arq": 4_000,
}
# Headway's row and a peer's, must and aim of their ratio.
COMPARISONS = {
    "submit_batch32_to_taskiq": ("submit_batch32", "taskiq_submit", 1.5, 2.5),
    "end_to_end_unary_to_taskiq": ("end_to_end_unary", "taskiq_end_to_end", 1, None),
    "end_to_end_unary_to_celery": ("end_to_end_unary", "celery_end_to_end", 4, None),
    "end_to_end_unary_to_procrastinate": ("end_to_end_unary", "procrastinate_end_to_end", 4, None),
    "end_to_end_unary_to_dbos": ("end_to_end_unary", "dbos_end_to_end", 4, None),
    "end_to_end_batch32_to_taskiq": ("end_to_end_batch32", "taskiq_end_to_end", 1.5, 3),
}
ON_REDIS = frozenset({"dramatiq", "saq", "arq"})
WARM_UP_JOBS = 64
REDIS_SECONDS = 10.0
STOP_SECONDS = 10.0
ENVIRONMENTS = ROOT / ".cache" / "peers"
REQUIREMENTS = ROOT / "bench" / "peers" / "requirements"


def rows_of(peer: str) -> tuple[str, str, str]:
    """Name the rows of a peer."""
    return f"{peer}_submit", f"{peer}_drain", f"{peer}_end_to_end"


ROWS = (
    *(Row(name, "jobs/s") for peer in PEERS for name in rows_of(peer)),
    *(
        Row(name, "jobs/s", must, aim, has_floor=True)
        for name, (_, _, must, aim) in COMPARISONS.items()
    ),
)


def compare(samples: Samples) -> None:
    """Set Headway's figures beside those of peers in the same run."""
    for name, (ours, theirs, _, _) in COMPARISONS.items():
        if samples.values[ours] and samples.values[theirs]:
            samples.values[name] = samples.values[ours]
            samples.floors[name] = samples.values[theirs]


def redis_server() -> str | None:
    """Find Redis, which is not installed for this alone."""
    return os.environ.get("HEADWAY_BENCH_REDIS") or shutil.which("redis-server")


def missing() -> list[str]:
    """The peers that cannot be measured here."""
    return [] if redis_server() else sorted(ON_REDIS)


def install() -> None:
    """Make the environments that are not there yet, or not as pinned."""
    for peer in PEERS:
        if peer in missing():
            continue
        requirements = REQUIREMENTS / f"{peer}.txt"
        stamp = ENVIRONMENTS / peer / "installed.txt"
        if stamp.exists() and stamp.read_text() == requirements.read_text():
            continue
        print(f"bench: installing {peer} into {ENVIRONMENTS / peer}", file=sys.stderr)
        _install(ENVIRONMENTS / peer, requirements)
        stamp.write_text(requirements.read_text())


def _install(environment: Path, requirements: Path) -> None:
    uv = shutil.which("uv") or str(ROOT / ".cache" / "tools" / "bin" / "uv")
    python = environment / "bin" / "python"
    if Path(uv).exists():
        _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, environment)
        _run(uv, "pip", "install", "--quiet", "--python", python, "-r", requirements)
    else:
        _run(sys.executable, "-m", "venv", "--clear", environment)
        _run(python, "-m", "pip", "install", "--quiet", "-r", requirements)


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


@asynccontextmanager
async def _service(
    stage: Stage,
    name: str,
    command: list[str],
    *,
    environment: Mapping[str, str],
    stop_signal: int = signal.SIGTERM,
) -> AsyncIterator[None]:
    """Run a process that the guardian of the services ends if we cannot."""
    state, log = stage.services.state, stage.directory / f"{name}.log"
    process = processes.start(command, environment=environment, log=log, owner=stage.directory)
    record = processes.describe(
        process, marker=command[-1], stop_signal=stop_signal, stop_seconds=STOP_SECONDS
    )
    state.record(name, record)
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended:\n{processes.log_tail(log)}")
    finally:
        await asyncio.to_thread(processes.stop, record)
        await asyncio.to_thread(process.wait)
        state.forget(name)


@asynccontextmanager
async def _redis(stage: Stage) -> AsyncIterator[str]:
    """Run a private Redis that syncs every write to disk, as PostgreSQL does every commit."""
    binary, port = redis_server(), ports.free_port()
    assert binary is not None
    with tempfile.TemporaryDirectory(dir=stage.directory, prefix="redis-") as directory:
        command = [binary, "--bind", ports.LOOPBACK, "--dir", directory, "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--port", str(port)]
        async with _service(stage, "redis", command, environment={}):
            async with asyncio.timeout(REDIS_SECONDS):
                while not ports.answers(port):  # noqa: ASYNC110 - it says nothing when ready
                    await asyncio.sleep(0.02)
            yield f"redis://{ports.LOOPBACK}:{port}/0"


async def peer(plan: Plan, *, name: str) -> None:
    """Submit without a worker, drain that, then both at a time."""
    jobs, warm_up = plan.jobs(PEERS[name]), plan.jobs(WARM_UP_JOBS)
    python = ENVIRONMENTS / name / "bin" / "python"
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(plan.stage.place(migrated=False))
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir=plan.stage.directory))
        started = Path(directory) / "started"
        environment = {
            **os.environ,
            "BENCH_DATABASE_URL": place.database_url,
            "BENCH_AMQP_URL": place.amqp_url,
            "BENCH_STARTED_FILE": str(started),
            "PYTHONPATH": str(ROOT),
        }
        if name in ON_REDIS:
            environment["BENCH_REDIS_URL"] = await stack.enter_async_context(_redis(plan.stage))
        client = await stack.enter_async_context(
            await Program.start(
                "bench.peers.client", python=python, environment=environment, peer=name
            )
        )
        submitted = await client.go(submit=jobs)
        command = [str(python), *client.greeting["worker"]]
        await stack.enter_async_context(
            _service(plan.stage, f"{name}-worker", command, environment=environment)
        )
        drained = await client.go(until=jobs)
        first = float(started.read_text())
        await client.go(submit=warm_up)
        await client.go(until=jobs + warm_up)
        begun = (await client.go(submit=jobs))["begun"]
        ended = (await client.go(until=2 * jobs + warm_up))["ended"]
    submit_row, drain_row, end_to_end_row = rows_of(name)
    plan.samples.add(submit_row, jobs / submitted["seconds"])
    plan.samples.add(drain_row, jobs / (drained["ended"] - first))
    plan.samples.add(end_to_end_row, jobs / (ended - begun))


MEASUREMENTS = tuple(
    Measurement(rows_of(name), partial(peer, name=name)) for name in PEERS if name not in missing()
)
