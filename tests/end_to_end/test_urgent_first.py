"""P8: with one slot, what is urgent starts before everything that waits."""

import pytest

from headway import JobState, Submission
from tests.end_to_end.stack import Gate, Stack, eventually, journal, reaches

WAITING, URGENT = 300, 10


@pytest.fixture
def stack(one_slot_stack: Stack) -> Stack:
    return one_slot_stack


async def test_ten_urgent_jobs_start_before_300_waiting_ones(stack: Stack, gate: Gate) -> None:
    """No low one may already be in the worker's hand: it would start before them."""
    path = stack.path("journal")
    async with stack.client() as client:
        blocker = await client.submit("e2e.work", {"until": str(gate)})
        await reaches(client, blocker.id, JobState.RUNNING)
        low = Submission("e2e.work", {"journal": str(path)}, priority=1)
        waiting = await client.submit_many([low] * WAITING)
        for job in waiting:
            await reaches(client, job.id, JobState.QUEUED)

        high = Submission("e2e.work", {"journal": str(path)}, priority=9)
        urgent = await client.submit_many([high] * URGENT)
        for job in urgent:
            await reaches(client, job.id, JobState.QUEUED)
        gate.open()

        await eventually(lambda: len(journal(path)) >= URGENT + WAITING, what="all ran")
        order = [run["job_id"] for run in journal(path)]
        assert set(order[:URGENT]) == {job.id for job in urgent}
        assert set(order[URGENT:]) == {job.id for job in waiting}
        starts = {job.id: str(job.start_time) async for job in client.list()}
        last_urgent = max(starts[job.id] for job in urgent)
        assert last_urgent <= min(starts[job.id] for job in waiting)
