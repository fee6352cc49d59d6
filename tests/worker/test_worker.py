"""Whole workers: supervisor, executors, signals and deaths."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from pydantic import SecretStr

from headway_core import jobs as store
from headway_core.hints import CancelHint, HintPublisher
from headway_core.states import JobState
from tests.service.proxy import proxied
from tests.worker import handlers
from tests.worker.stage import PATIENCE, ROOT, Stage, WorkerProcess, alive, eventually

QUICK = {"HEADWAY_LEASE_SECONDS": "2", "HEADWAY_HEARTBEAT_SECONDS": "0.3"}
# Nothing that takes a heartbeat or the end of a lease happens while a test waits.
LONG = {"HEADWAY_LEASE_SECONDS": "600", "HEADWAY_HEARTBEAT_SECONDS": "200"}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def until(tmp_path: Path) -> Path:
    return tmp_path / "until"


def let_go(until: Path) -> None:
    until.touch()


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


async def test_a_worker_says_when_it_is_ready_and_drains_on_sigterm(stage: Stage) -> None:
    async with stage.worker("tests.worker.handlers:jobs", "--processes", "2") as worker:
        line = await worker.ready()
        assert "queues=default" in line
        assert "echo" in line.split("types=")[1].split(",")
        assert len(worker.children()) == 2
        assert await stage.result(await stage.submit("echo", {"a": 1}))
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "MODULE:JOBS"),
        (["a.b:jobs", "--concurrency", "0"], "1 to"),
        (["a.b:jobs", "--queues", "A"], "[a-z0-9_-]"),
    ],
)
async def test_wrong_use_is_told_with_code_2(stage: Stage, arguments: list[str], said: str) -> None:
    code, _, errors = await run_to_end(stage, *arguments)
    assert code == 2
    assert said in errors


async def test_all_wrong_settings_are_told_together(stage: Stage) -> None:
    code, _, errors = await run_to_end(
        stage, "a.b:jobs", HEADWAY_LEASE_SECONDS="soon", HEADWAY_HANDOFF_SECONDS="x"
    )
    assert code == 2
    assert "HEADWAY_LEASE_SECONDS" in errors
    assert "HEADWAY_HANDOFF_SECONDS" in errors


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("import nothing_of_the_kind\n", "nothing_of_the_kind"),
        ("import os\nos.kill(os.getpid(), 9)\n", "SIGKILL"),
        ("jobs = 5\n", "Jobs is wanted"),
        ("import sys\nsys.exit(0)\n", "SystemExit"),
    ],
)
async def test_a_module_that_cannot_be_imported_ends_the_worker_with_its_traceback(
    stage: Stage, tmp_path: Path, module: str, said: str
) -> None:
    write(tmp_path / "broken_module.py", module)
    code, _, errors = await run_to_end(
        stage, "broken_module:jobs", PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])
    )
    assert code == 1
    assert said in errors


def write(path: Path, text: str) -> None:
    path.write_text(text)


async def run_to_end(stage: Stage, *arguments: str, **environ: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.worker.run_worker", *arguments),
        cwd=ROOT,
        env={**os.environ, **stage.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_a_killed_executor_is_noticed_at_once_and_its_job_finishes_on_another(
    stage: Stage, log: Path, until: Path
) -> None:
    async with stage.worker(**LONG) as worker:
        await worker.ready()
        job_id = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        (executor,) = worker.children()
        executor.kill()
        # The lease would last longer than we wait; the supervisor does not wait for it.
        await eventually(lambda: len(lines(log)) == 2)
        let_go(until)
        found = await stage.result(job_id)
        assert found["pid"] != executor.pid
        assert found["attempt"] == 1
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code() == 0


async def test_a_killed_worker_takes_its_executors_along_and_its_jobs_finish_elsewhere(
    stage: Stage, log: Path, until: Path
) -> None:
    async with stage.worker(**QUICK) as first:
        await first.ready()
        job_id = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        (executor,) = first.children()
        first.signal(signal.SIGKILL)
        await eventually(lambda: not alive(executor))
    let_go(until)
    async with stage.engine(handlers.jobs):
        assert await stage.result(job_id)
        assert len(lines(log)) == 2


async def test_a_drain_lets_jobs_finish(stage: Stage, log: Path, until: Path) -> None:
    async with stage.worker() as worker:
        await worker.ready()
        job_id = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        worker.signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        later = await stage.submit("echo", {})
        let_go(until)
        assert await worker.exit_code() == 0
    assert (await stage.job(job_id)).state is JobState.COMPLETED
    assert await stage.history(later) == ["SUBMITTED"]


@pytest.mark.parametrize("type_", ["hold", "hold.thread", "isolated.hold"])
@pytest.mark.parametrize("signals", [1, 2])
async def test_a_drain_releases_what_does_not_finish_and_it_costs_no_attempt(
    stage: Stage, log: Path, until: Path, type_: str, signals: int
) -> None:
    drain = "2" if signals == 1 else "600"
    async with stage.worker(HEADWAY_DRAIN_SECONDS=drain, HEADWAY_GRACE_SECONDS="1") as worker:
        await worker.ready()
        job_id = await stage.submit(type_, {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        worker.children()
        for _ in range(signals):
            worker.signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
        assert await worker.exit_code() == 0
        await eventually(lambda: was(stage, job_id, "INTERRUPTED"))
    job = await stage.job(job_id)
    assert job.error is None
    let_go(until)
    async with stage.engine(handlers.jobs):
        await stage.result(job_id)
    assert (await stage.job(job_id)).attempt == 1


async def was(stage: Stage, job_id: UUID, event: str) -> bool:
    return event in await stage.history(job_id)


async def test_signals_to_an_executor_are_left_to_the_supervisor(
    stage: Stage, log: Path, until: Path
) -> None:
    async with stage.worker() as worker:
        await worker.ready()
        job_id = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        (executor,) = worker.children()
        executor.send_signal(signal.SIGTERM)
        executor.send_signal(signal.SIGINT)
        await asyncio.sleep(0.3)
        let_go(until)
        assert (await stage.result(job_id))["pid"] == executor.pid
        worker.signal(signal.SIGINT)
        assert await worker.exit_code() == 0


async def test_a_blocked_loop_is_not_mistaken_for_death(stage: Stage, log: Path) -> None:
    """It is blocked for longer than a lease, which the supervisor keeps alive."""
    async with stage.worker(**QUICK) as worker:
        await worker.ready()
        (executor,) = worker.children()
        job_id = await stage.submit("block", {"log": str(log), "seconds": 3})
        assert (await stage.result(job_id))["pid"] == executor.pid
    assert lines(log) == ["begun"]


async def test_who_blocks_the_loop_for_good_is_charged_and_next_runs_in_a_child(
    stage: Stage, log: Path, until: Path
) -> None:
    async with stage.worker(**QUICK, HEADWAY_GRACE_SECONDS="1") as worker:
        await worker.ready()
        neighbour = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        job_id = await stage.submit("block.forever", {"log": str(log)})
        assert await stage.result(job_id)
        let_go(until)
        await stage.result(neighbour)
    assert "INTERRUPTED" in await stage.history(neighbour)
    assert (await stage.job(neighbour)).attempt == 1
    assert (await stage.job(job_id)).attempt == 2


async def test_who_keeps_the_interpreter_lock_for_good_ends_up_in_a_child(
    stage: Stage, log: Path, until: Path
) -> None:
    async with stage.worker(**QUICK) as worker:
        await worker.ready()
        neighbour = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        job_id = await stage.submit("block.interpreter", {"log": str(log)})
        assert await stage.result(job_id)
        let_go(until)
        await stage.result(neighbour)
    assert (await stage.job(neighbour)).attempt == 1


async def test_a_thread_that_ignores_its_timeout_is_ended_and_its_neighbour_interrupted(
    stage: Stage, log: Path, until: Path
) -> None:
    async with stage.worker(HEADWAY_GRACE_SECONDS="0.5") as worker:
        await worker.ready()
        (executor,) = worker.children()
        neighbour = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        job_id = await stage.submit("hold.stubborn", {"log": str(log)})
        found = await stage.result(job_id)
        assert found["pid"] != executor.pid
        let_go(until)
        await stage.result(neighbour)
    history = await stage.history(job_id)
    assert history == ["SUBMITTED", "STARTED", "RETRY_SCHEDULED", "STARTED", "COMPLETED"]
    job = await stage.job(neighbour)
    assert job.attempt == 1
    assert "INTERRUPTED" in await stage.history(neighbour)


async def test_a_poison_job_dies_of_its_own_deaths_and_takes_no_innocent_along(
    stage: Stage, log: Path, until: Path
) -> None:
    async with stage.worker("tests.worker.handlers:jobs", "--concurrency", "4") as worker:
        await worker.ready()
        innocents = [
            await stage.submit("hold", {"log": str(log.with_name("other")), "until": str(until)})
            for _ in range(2)
        ]
        await eventually(lambda: len(lines(log.with_name("other"))) == 2)
        job_id = await stage.submit("die", {"log": str(log)})
        job = await stage.wait(job_id)
        assert job.state is JobState.DEAD
        assert job.error is not None
        assert job.error.type == "WorkerLost"
        let_go(until)
        for innocent in innocents:
            assert (await stage.wait(innocent)).state is JobState.COMPLETED
            assert (await stage.job(innocent)).attempt == 1
    assert len(lines(log)) <= 4


@pytest.mark.slow
async def test_a_job_that_takes_its_whole_worker_down_each_time_dies_alone(
    stage: Stage, log: Path, until: Path
) -> None:
    async with stage.worker("tests.worker.handlers:jobs", "--concurrency", "4") as worker:
        await worker.ready()
        innocent = await stage.submit(
            "hold", {"log": str(log.with_name("other")), "until": str(until)}
        )
        await eventually(lambda: lines(log.with_name("other")))
        job_id = await stage.submit("die.with.worker", {"log": str(log)})

        async def run_is_alone_or_over() -> bool:
            job = await stage.job(job_id)
            isolation = await stage.database.fetchval(
                "SELECT isolation FROM jobs WHERE id = $1", job_id
            )
            return job.state is JobState.DEAD or isolation == 2

        await eventually(run_is_alone_or_over)
        let_go(until)
        job = await stage.wait(job_id)
        assert job.state is JobState.DEAD
        assert (await stage.wait(innocent)).state is JobState.COMPLETED
        assert (await stage.job(innocent)).attempt == 1


async def test_an_executor_whose_lease_was_ended_is_replaced_under_a_new_name(
    stage: Stage,
) -> None:
    async with stage.worker(**QUICK) as worker:
        await worker.ready()
        (old,) = worker.children()
        await stage.database.execute("UPDATE workers SET ended_time = now(), ended_how = 4")
        await eventually(lambda: replaced(worker, old))
        assert (await stage.result(await stage.submit("echo", {})))["pid"] != old.pid
    assert await stage.database.fetchval("SELECT count(*) FROM workers") >= 2


def replaced(worker: WorkerProcess, old: psutil.Process) -> bool:
    children = worker.children()
    return bool(children) and old.pid not in [child.pid for child in children]


async def test_a_paused_executor_is_ended_and_its_job_runs_on(
    stage: Stage, log: Path, until: Path
) -> None:
    """Silent for two leases while heartbeats succeed."""
    async with stage.worker(**QUICK) as worker:
        await worker.ready()
        (old,) = worker.children()
        job_id = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        old.suspend()
        await eventually(lambda: replaced(worker, old))
        let_go(until)
        assert (await stage.result(job_id))["pid"] != old.pid


async def test_a_paused_worker_finds_its_jobs_taken_over_and_changes_nothing(
    stage: Stage, log: Path, until: Path
) -> None:
    # One slot: else the broker would send the next delivery to the paused one, which has credit.
    slots = ("--concurrency", "1")
    async with stage.worker("tests.worker.handlers:jobs", *slots, **QUICK) as zombie:
        await zombie.ready()
        job_id = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        family = [psutil.Process(zombie.process.pid), *zombie.children()]
        for process in family:
            process.suspend()
        async with stage.worker(**QUICK) as second:
            await second.ready()
            await eventually(lambda: len(lines(log)) == 2)
            (executor,) = second.children()
            for process in reversed(family):
                process.resume()
            await asyncio.sleep(1)
            let_go(until)
            found = await stage.result(job_id)
            # Its worker was lost with it: it now runs in a child process.
            assert found["parent"] == executor.pid
    history = await stage.history(job_id)
    assert history.count("COMPLETED") == 1


async def test_a_cancel_request_reaches_a_running_job_by_its_hint(
    stage: Stage, log: Path, until: Path
) -> None:
    async with stage.worker(**LONG) as worker:
        await worker.ready()
        job_id = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        hints = HintPublisher(SecretStr(stage.amqp_url), name="test")
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(hints.run())
            await store.cancel(stage.database, job_id, reason="enough")
            hints.send(CancelHint(job_id))
            job = await stage.wait(job_id)
            sending.cancel()
        assert job.state is JobState.CANCELLED


async def test_a_worker_started_while_both_services_are_away_works_when_they_are_back(
    stage: Stage,
) -> None:
    async with (
        proxied(stage.database_url) as (postgres, database_url),
        proxied(stage.amqp_url) as (rabbit, amqp_url),
    ):
        postgres.cut()
        rabbit.cut()
        async with stage.worker(
            HEADWAY_DATABASE_URL=database_url, HEADWAY_AMQP_URL=amqp_url
        ) as worker:
            await asyncio.sleep(2)
            postgres.heal()
            await asyncio.sleep(1)
            rabbit.heal()
            await worker.ready()
            assert await stage.result(await stage.submit("echo", {}))


async def test_a_worker_told_to_leave_before_postgres_is_there_leaves(stage: Stage) -> None:
    async with stage.worker(HEADWAY_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none") as worker:
        await eventually(lambda: catches(worker.process.pid, signal.SIGTERM))
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code() == 0


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal by now (Linux; elsewhere it is believed)."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return True
    (caught,) = (line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


async def test_a_drain_without_postgres_ends_in_time(stage: Stage, log: Path, until: Path) -> None:
    async with (
        proxied(stage.database_url) as (postgres, database_url),
        stage.worker(HEADWAY_DATABASE_URL=database_url, HEADWAY_DRAIN_SECONDS="2") as worker,
    ):
        await worker.ready()
        job_id = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await eventually(lambda: lines(log))
        postgres.cut()
        let_go(until)
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code() == 0
        postgres.heal()
    # It ended, and nobody could be told: the reaper gives it to the next worker.
    await stage.database.execute("UPDATE workers SET lease_expires = now()")
    async with stage.engine(handlers.jobs):
        await stage.result(job_id)


@pytest.mark.parametrize("module", ["app", "executor", "child"])
async def test_no_process_of_a_worker_imports_grpc(stage: Stage, module: str) -> None:
    code = f"import sys, headway_worker.{module}; sys.exit('grpc' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


async def test_the_spans_of_a_child_process_are_in_the_jobs_trace(
    stage: Stage, tmp_path: Path, log: Path
) -> None:
    traces = tmp_path / "traces"
    async with stage.worker(HEADWAY_TRACE_DIR=str(traces)) as worker:
        await worker.ready()
        job_id = await stage.submit("isolated.steps", {"log": str(log)})
        await stage.result(job_id)
        worker.signal(signal.SIGTERM)
        assert await worker.exit_code() == 0
    spans = read_spans(traces)
    runs = {span["spanId"] for span in spans if span["name"] == "process default"}
    assert len(runs) == 2
    steps = {span["name"]: span["parentSpanId"] for span in spans if span["name"][:4] == "step"}
    assert set(steps) == {"step one", "step two"}
    assert set(steps.values()) == runs


def read_spans(directory: Path) -> list[dict[str, str]]:
    return [
        span
        for file in directory.iterdir()
        for line in file.read_text().splitlines()
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
