"""P6: one idempotency key, one job, however many ask at the same time."""

import asyncio

import pytest

from headway import IdempotencyKeyReused, JobState
from tests.end_to_end.stack import Stack, history, journal, kinds, reaches

SUBMITS = 200
CLIENTS = 8


@pytest.fixture
def stack(common_stack: Stack) -> Stack:
    return common_stack


async def test_200_concurrent_submits_with_one_key_are_one_job_that_runs_once(
    stack: Stack,
) -> None:
    """Over several connections; the runs are counted by the handler, not by Headway."""
    path = stack.path("journal")
    payload = {"journal": str(path)}
    async with asyncio.TaskGroup() as group:
        clients = [stack.client() for _ in range(CLIENTS)]
        tasks = [
            group.create_task(
                clients[number % CLIENTS].submit(
                    "e2e.work", payload, idempotency_key="the only one", labels={"a": "b"}
                )
            )
            for number in range(SUBMITS)
        ]
    jobs = [task.result() for task in tasks]
    assert len({job.id for job in jobs}) == 1
    assert sum(bool(job.created) for job in jobs) == 1

    job = await reaches(clients[0], jobs[0].id, JobState.COMPLETED)
    assert kinds(await history(clients[0], job.id)).count("COMPLETED") == 1
    assert [run["job_id"] for run in journal(path)] == [job.id]
    listed = [found.id async for found in clients[0].list(type="e2e.work", labels={"a": "b"})]
    assert listed == [job.id]

    with pytest.raises(IdempotencyKeyReused) as refused:
        await clients[0].submit("e2e.work", {"other": 1}, idempotency_key="the only one")
    assert refused.value.job_id == job.id
    for client in clients:
        await client.close()
