"""Runs in child processes: their death is their own, and they can be killed."""

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from headway_core import jobs as store
from headway_core import leases
from headway_core.content import Content, ContentKind
from headway_core.hints import ProgressHint
from headway_core.leases import LeaseEnd
from headway_core.states import JobState
from headway_worker import Context, Jobs
from tests.worker import handlers
from tests.worker.stage import Stage, alive, eventually

Payload = dict[str, Any]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


async def test_an_isolated_handler_runs_in_another_process(stage: Stage) -> None:
    async with stage.engine(handlers.jobs):
        job_id = await stage.submit("isolated.echo", {"a": [1]}, labels={"team": "red"})
        found = await stage.result(job_id)
        job = await stage.job(job_id)
        await eventually(
            lambda: [h for h in stage.hints if isinstance(h, ProgressHint) and h.job_id == job_id]
        )
    assert found.pop("pid") not in (os.getpid(), None)
    assert found == {"a": [1], "labels": {"team": "red"}, "key": f"{job_id}:a"}
    assert job.progress is not None
    assert (job.progress.fraction, job.progress.step) == (0.5, "half")


async def test_bytes_cross_the_pipe_as_they_are(stage: Stage) -> None:
    data = bytes(range(256)) * 1_000
    async with stage.engine(handlers.jobs):
        job_id = await stage.submit(
            "isolated.data", given=Content(ContentKind.DATA, data, "image/png")
        )
        job = await stage.wait(job_id)
    assert job.result == Content(ContentKind.DATA, data[::-1])


@pytest.mark.parametrize(
    ("how", "type_", "retryable", "attempts"),
    [
        ("error", "ValueError", True, 2),
        ("permanent", "PermanentError", False, 1),
        ("exit", "SystemExit", True, 2),
        ("result", "ResultRefused", False, 1),
    ],
)
async def test_an_exception_in_a_child_is_what_it_is_elsewhere(
    stage: Stage, how: str, type_: str, retryable: bool, attempts: int
) -> None:
    async with stage.engine(handlers.jobs):
        job = await stage.wait(await stage.submit("isolated.raise", {"how": how}))
    assert job.state is JobState.DEAD
    assert job.error is not None
    assert (job.error.type, job.error.retryable) == (type_, retryable)
    assert job.attempt == attempts


async def test_a_child_that_dies_is_charged_to_its_job_alone(stage: Stage) -> None:
    async with stage.engine(handlers.jobs) as running:
        job_id = await stage.submit("isolated.raise", {"how": "hard"})
        other = await stage.submit("echo", {})
        job = await stage.wait(job_id)
        await stage.wait(other, JobState.COMPLETED)
        assert running.engine.consumer.consuming.is_set()
    assert job.state is JobState.DEAD
    assert job.error is not None
    assert job.error.type == "WorkerLost"
    assert "exited with code 7" in job.error.message
    assert (await stage.history(job_id)).count("STARTED") == 3


async def test_a_child_is_killed_at_its_timeout_with_all_it_started(
    stage: Stage, log: Path, tmp_path: Path
) -> None:
    async with stage.engine(handlers.jobs):
        job_id = await stage.submit(
            "isolated.hold",
            {"log": str(log), "until": str(tmp_path / "never")},
            timeout=timedelta(seconds=5),
        )
        (line,) = await eventually(lambda: lines(log))
        family = [psutil.Process(int(pid)) for pid in line.split()]
        job = await stage.wait(job_id)
        await eventually(lambda: not any(map(alive, family)))
    assert job.error is not None
    assert (job.state, job.error.type) == (JobState.DEAD, "Timeout")


async def test_a_child_that_ignores_a_cancel_request_is_killed_after_the_grace(
    stage: Stage, log: Path, tmp_path: Path
) -> None:
    async with stage.engine(handlers.jobs, HEADWAY_GRACE_SECONDS="0.5") as running:
        job_id = await stage.submit(
            "isolated.hold", {"log": str(log), "until": str(tmp_path / "never")}
        )
        await eventually(lambda: lines(log))
        await store.cancel(stage.database, job_id, reason="")
        running.engine.cancel(job_id)
        assert (await stage.wait(job_id)).state is JobState.CANCELLED


@pytest.mark.parametrize("type_", ["isolated.polite", "isolated.async"])
async def test_a_child_is_asked_first(stage: Stage, log: Path, type_: str) -> None:
    async with stage.engine(handlers.jobs) as running:
        job_id = await stage.submit(type_, {"log": str(log)})
        await eventually(lambda: lines(log))
        await store.cancel(stage.database, job_id, reason="")
        running.engine.cancel(job_id)
        assert (await stage.wait(job_id)).state is JobState.CANCELLED
    assert lines(log) == ["begun", "stopped"]


@pytest.mark.parametrize("type_", ["isolated.steps", "isolated.async.steps"])
async def test_steps_in_a_child_run_once(stage: Stage, log: Path, type_: str) -> None:
    async with stage.engine(handlers.jobs):
        job_id = await stage.submit(type_, {"log": str(log)})
        found = await stage.result(job_id)
    assert set(found.values()) <= {1, 2}
    assert lines(log) == ["step", "step"]
    assert (await stage.history(job_id)).count("STEP_COMPLETED") == 2


async def test_a_child_that_wants_too_much_memory_fails_alone(stage: Stage) -> None:
    async with stage.engine(handlers.jobs):
        job = await stage.wait(await stage.submit("isolated.hungry", {}))
    assert job.state is JobState.DEAD
    assert job.error is not None
    assert job.error.type == "MemoryError"


async def make_suspect(stage: Stage, job_id: UUID, isolation: int) -> None:
    """Let the job look as if it had been there when workers died."""
    await stage.database.execute("UPDATE jobs SET isolation = $2 WHERE id = $1", job_id, isolation)


async def test_a_suspect_runs_in_a_child_process(stage: Stage) -> None:
    jobs = handlers.jobs
    async with stage.engine(jobs) as running:
        running.engine.consumer.quiet("drain")
        await running.engine.consumer.wait_quiet()
        job_id = await stage.submit("echo", {})
        await make_suspect(stage, job_id, 1)
        running.engine.consumer.resume("drain")
        assert (await stage.result(job_id))["pid"] != os.getpid()


async def test_a_suspect_of_the_second_degree_runs_alone(stage: Stage, log: Path) -> None:
    """It waits for the others to end, and none begins while it runs."""
    here = Jobs()
    here.include(handlers.jobs)
    neighbours = {"running": 0}
    go_on = asyncio.Event()

    @here.handler("neighbour")
    async def neighbour(ctx: Context, payload: Payload) -> Payload:
        neighbours["running"] += 1
        await go_on.wait()
        neighbours["running"] -= 1
        return {}

    until = log.with_name("until")
    async with stage.engine(here, slots=3) as running:
        first = await stage.submit("neighbour")
        await stage.wait(first, JobState.RUNNING)
        running.engine.consumer.quiet("drain")
        await running.engine.consumer.wait_quiet()
        alone = await stage.submit("hold", {"log": str(log), "until": str(until)})
        await make_suspect(stage, alone, 2)
        await stage.wait(alone, JobState.QUEUED)
        running.engine.consumer.resume("drain")
        await eventually(lambda: running.engine.consumer.held == 2)
        await asyncio.sleep(0.3)
        assert not lines(log), "it began beside another"
        go_on.set()
        await stage.wait(alone, JobState.RUNNING)
        go_on.clear()
        after = await stage.submit("neighbour")
        await eventually(lambda: lines(log))
        await asyncio.sleep(0.3)
        assert neighbours["running"] == 0, "another began beside it"
        assert (await stage.job(after)).state is not JobState.RUNNING
        until.touch()
        assert (await stage.wait(alone)).state is JobState.COMPLETED
        await stage.wait(after, JobState.RUNNING)
        go_on.set()
        await stage.wait(after, JobState.COMPLETED)


async def test_suspects_of_the_second_degree_run_one_after_another(stage: Stage, log: Path) -> None:
    until = log.with_name("until")
    async with stage.engine(handlers.jobs, slots=3) as running:
        running.engine.consumer.quiet("drain")
        await running.engine.consumer.wait_quiet()
        ids = [await stage.submit("hold", {"log": str(log), "until": str(until)}) for _ in range(3)]
        for job_id in ids:
            await make_suspect(stage, job_id, 2)
            await stage.wait(job_id, JobState.QUEUED)
        running.engine.consumer.resume("drain")
        await eventually(lambda: lines(log) == ["begun"])
        await asyncio.sleep(0.5)
        states = [(await stage.job(job_id)).state for job_id in ids]
        assert states.count(JobState.RUNNING) == 1
        until.touch()
        for job_id in ids:
            assert (await stage.wait(job_id)).state is JobState.COMPLETED


@pytest.mark.parametrize("die", [True, False])
async def test_forks_that_a_child_leaves_behind_hold_nobody_up(
    stage: Stage, log: Path, *, die: bool
) -> None:
    async with stage.engine(handlers.jobs):
        job_id = await stage.submit("isolated.forks", {"log": str(log), "die": die})
        job = await stage.wait(job_id, JobState.COMPLETED, JobState.FAILED, JobState.DEAD)
        forks = [psutil.Process(int(pid)) for pid in lines(log) if psutil.pid_exists(int(pid))]
        await eventually(lambda: not any(map(alive, forks)))
    assert (job.state is JobState.COMPLETED) is not die


async def test_a_lost_run_in_a_child_is_killed_at_once(
    stage: Stage, log: Path, tmp_path: Path
) -> None:
    async with stage.engine(handlers.jobs, beats=0.2, slots=1) as running:
        await stage.submit("isolated.hold", {"log": str(log), "until": str(tmp_path / "never")})
        (line,) = await eventually(lambda: lines(log))
        child = psutil.Process(int(line.split()[0]))
        running.engine.consumer.quiet("drain")
        running.keep = False
        await leases.end(
            stage.database, running.worker_id, how=LeaseEnd.STOPPED, message="for the test"
        )
        running.engine.confirm_lease(asyncio.get_running_loop().time() + 1_000)
        await eventually(lambda: not alive(child))


async def test_a_child_dies_with_its_executor(stage: Stage, log: Path, tmp_path: Path) -> None:
    async with stage.worker("tests.worker.handlers:jobs") as worker:
        await worker.ready()
        await stage.submit("isolated.hold", {"log": str(log), "until": str(tmp_path / "never")})
        (line,) = await eventually(lambda: lines(log))
        child = psutil.Process(int(line.split()[0]))
        program = psutil.Process(int(line.split()[1]))
        (executor,) = worker.children()
        executor.send_signal(signal.SIGKILL)
        await eventually(lambda: not alive(child))
        if alive(program):  # nobody was left to kill it
            program.kill()
        worker.signal(signal.SIGTERM)
        await worker.exit_code()
