"""P2, P4, P10: workers are killed and stopped in the middle of jobs, and no job minds."""

import asyncio
import signal

import psutil
import pytest

from headway import JobState
from headway_dev.children import Child
from tests.end_to_end.conftest import MakeStack
from tests.end_to_end.stack import (
    SHORT_LEASES,
    Stack,
    eventually,
    history,
    journal,
    kinds,
    reaches,
)

LAPSE_SECONDS_MAX = 20.0


@pytest.fixture
def stack(new_stack: MakeStack) -> Stack:
    made = new_stack(**SHORT_LEASES)
    server = made.start_server()
    server.await_ready()
    yield made
    made.stop()


def family(child: Child) -> list[psutil.Process]:
    process = child.record.find()
    assert process is not None
    return [process, *process.children(recursive=True)]


async def test_the_job_of_a_killed_worker_finishes_on_another(stack: Stack) -> None:
    """SIGKILL to the supervisor and all below it, as a machine that is switched off."""
    gate, path = stack.path("gate"), stack.path("journal")
    first = stack.start_worker()
    first.await_ready()
    async with stack.client() as client:
        job = await client.submit("e2e.work", {"until": str(gate), "journal": str(path)})
        await eventually(lambda: journal(path), what="it runs")
        second = stack.start_worker()
        second.await_ready()
        first_pids = {process.pid for process in family(first)}
        await asyncio.to_thread(first.kill)

        runs = await eventually(
            lambda: journal(path)[1:], what="it runs again", seconds=LAPSE_SECONDS_MAX
        )
        gate.touch()
        await reaches(client, job.id, JobState.COMPLETED)
        events = await history(client, job.id)
        lost = next(event for event in events if event.type == "RETRY_SCHEDULED")
        assert lost.job.error is not None
        assert lost.job.error.type == "WorkerLost"
        assert kinds(events).count("STARTED") == 2
        assert kinds(events).count("COMPLETED") == 1
        assert journal(path)[0]["pid"] in first_pids
        assert runs[0]["pid"] in {process.pid for process in family(second)}


async def test_sigterm_interrupts_a_job_which_finishes_elsewhere_at_no_attempt(
    stack: Stack,
) -> None:
    """A deployment: the worker ends with 0 and leaves no process, the job keeps its budget."""
    gate, path = stack.path("gate"), stack.path("journal")
    first = stack.start_worker(HEADWAY_DRAIN_SECONDS="0.5")
    first.await_ready()
    async with stack.client() as client:
        job = await client.submit("e2e.work", {"until": str(gate), "journal": str(path)})
        await eventually(lambda: journal(path), what="it runs")
        second = stack.start_worker()
        second.await_ready()
        before = family(first)
        before[0].send_signal(signal.SIGTERM)

        await eventually(lambda: first.exit_code is not None, what="the first worker ended")
        assert first.exit_code == 0
        _, alive = psutil.wait_procs(before, timeout=2)
        assert alive == []

        await eventually(lambda: journal(path)[1:], what="it runs again")
        gate.touch()
        done = await reaches(client, job.id, JobState.COMPLETED)
        events = await history(client, job.id)
        assert kinds(events).count("INTERRUPTED") == 1
        assert kinds(events).count("RETRY_SCHEDULED") == 0
        assert [run["attempt"] for run in journal(path)] == [1, 1]
        assert done.attempt == 1
