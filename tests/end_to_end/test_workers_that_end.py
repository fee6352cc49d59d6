"""P2, P4, P10: workers are killed and stopped in the middle of jobs, and no job minds."""

import asyncio
import signal
from collections.abc import Iterator

import psutil
import pytest

from headway import JobState
from headway_dev.children import Child
from tests.end_to_end.conftest import MakeStack
from tests.end_to_end.stack import (
    SHORT_LEASES,
    Gate,
    Stack,
    eventually,
    history,
    journal,
    kinds,
    reaches,
)


@pytest.fixture(scope="module")
def stack_of_server(new_stack: MakeStack) -> Stack:
    made = new_stack(**SHORT_LEASES)
    made.start(workers=0)
    return made


@pytest.fixture
def stack(stack_of_server: Stack) -> Iterator[Stack]:
    """A server alone; the workers that a test adds are gone when it is over."""
    yield stack_of_server
    stack_of_server.stop(keep=1)


def family(child: Child) -> list[psutil.Process]:
    process = child.record.find()
    assert process is not None
    return [process, *process.children(recursive=True)]


async def test_the_job_of_a_killed_worker_finishes_on_another(stack: Stack, gate: Gate) -> None:
    """SIGKILL to the supervisor and all below it, as a machine that is switched off."""
    path = stack.path("journal")
    first = stack.start_worker()
    first.await_ready()
    async with stack.client() as client:
        job = await client.submit("e2e.work", {"until": str(gate), "journal": str(path)})
        await eventually(lambda: journal(path), what="it runs")
        second = stack.start_worker()
        second.await_ready()
        first_pids = {process.pid for process in family(first)}
        await asyncio.to_thread(first.kill)

        await eventually(lambda: journal(path)[1:], what="it runs again")
        second_pids = {process.pid for process in family(second)}
        gate.open()
        await reaches(client, job.id, JobState.COMPLETED)
        events = await history(client, job.id)
        lost = next(event for event in events if event.type == "RETRY_SCHEDULED")
        assert lost.job.error is not None
        assert lost.job.error.type == "WorkerLost"
        assert kinds(events).count("STARTED") == 2
        assert kinds(events).count("COMPLETED") == 1
        runs = journal(path)
        assert len(runs) == 2
        assert runs[0]["pid"] in first_pids
        assert runs[1]["pid"] in second_pids


async def test_sigterm_interrupts_a_job_which_finishes_elsewhere_at_no_attempt(
    stack: Stack, gate: Gate
) -> None:
    """A deployment: the worker ends with 0 and leaves no process, the job keeps its budget."""
    path = stack.path("journal")
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
        gate.open()
        done = await reaches(client, job.id, JobState.COMPLETED)
        events = await history(client, job.id)
        assert kinds(events).count("INTERRUPTED") == 1
        assert kinds(events).count("RETRY_SCHEDULED") == 0
        assert [run["attempt"] for run in journal(path)] == [1, 1]
        assert done.attempt == 1
