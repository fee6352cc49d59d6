"""P3: the broker keeps the delivery of a job until a commit makes the job safe without it."""

import asyncio

import pytest

from headway import Event, JobState
from headway_dev.services import Services
from tests.end_to_end.stack import Gate, Stack, eventually, history, journal, kinds, query, reaches

QUEUE = "headway.v1.default"
# So long a job has to be QUEUED before a sweep, every 10 s, takes its message for lost.
QUEUED_LONG_SECONDS = 30
IDLE_SECONDS = 1.5


def broker_counts(services: Services, vhost: str) -> tuple[int, int]:
    """How many messages are ready and how many are in workers' hands, as the broker says."""
    listed = services.rabbitmqctl(
        "list_queues",
        *("-p", vhost, "--no-table-headers"),
        *("name", "messages_ready", "messages_unacknowledged"),
    )
    for line in listed.splitlines():
        name, ready, unacked = line.split("\t")
        if name == QUEUE:
            return int(ready), int(unacked)
    raise AssertionError(f"no queue {QUEUE} in {listed!r}")


def vhost_of(stack: Stack) -> str:
    return stack.amqp_url.rpartition("/")[2]


@pytest.fixture
def stack(one_slot_stack: Stack) -> Stack:
    return one_slot_stack


async def test_the_broker_holds_the_delivery_of_a_running_job_until_it_is_done(
    stack: Stack, gate: Gate
) -> None:
    """Acked on arrival, a job would be lost with its worker; the lease alone would have to find it.

    Both counts are the broker's own.
    """
    async with stack.client() as client:
        job = await client.submit("e2e.work", {"until": str(gate)})
        await reaches(client, job.id, JobState.RUNNING)
        assert await asyncio.to_thread(broker_counts, stack.services, vhost_of(stack)) == (0, 1)
        gate.open()
        await reaches(client, job.id, JobState.COMPLETED)
        await eventually_counts(stack.services, vhost_of(stack), (0, 0))


async def test_nothing_starts_from_a_purged_queue_until_the_sweep(stack: Stack, gate: Gate) -> None:
    """The broker decides order and pace, so a free worker that sees the row still waits for a
    message; and the row alone is enough to bring one back.
    """
    path = stack.path("journal")
    async with stack.client() as client:
        blocker = await client.submit("e2e.work", {"until": str(gate)})
        await reaches(client, blocker.id, JobState.RUNNING)
        job = await client.submit("e2e.work", {"journal": str(path)})
        await reaches(client, job.id, JobState.QUEUED)
        await asyncio.to_thread(
            stack.services.rabbitmqctl, "purge_queue", "-p", vhost_of(stack), QUEUE
        )
        gate.open()
        await reaches(client, blocker.id, JobState.COMPLETED)

        await asyncio.sleep(IDLE_SECONDS)  # a free slot, a waiting row, no message
        assert (await client.get(job.id)).state is JobState.QUEUED
        assert journal(path) == []

        # Instead of waiting for half a minute.
        query(
            stack.database_url,
            "UPDATE jobs SET wait_time = wait_time - make_interval(secs => $1) WHERE state = 2",
            QUEUED_LONG_SECONDS,
        )
        await reaches(client, job.id, JobState.COMPLETED)
        assert len(journal(path)) == 1
        assert kinds(await history(client, job.id)).count("COMPLETED") == 1


@pytest.mark.faults
async def test_a_job_that_ends_while_postgres_is_away_is_acked_only_once_it_is_stored(
    fault_stack: Stack, gate: Gate
) -> None:
    """The worker holds on to the result and to the delivery, and stores the one before it gives
    back the other.
    """
    stack = fault_stack
    await asyncio.to_thread(stack.start, options=("--processes", "1"))
    path = stack.path("journal")
    services, vhost = stack.services, vhost_of(stack)
    async with stack.client() as client:
        job = await client.submit("e2e.work", {"until": str(gate), "journal": str(path)})
        await reaches(client, job.id, JobState.RUNNING)

        await asyncio.to_thread(services.postgres.stop)
        gate.open()
        await eventually(lambda: journal(path, "end"), what="the handler returned")
        await asyncio.sleep(IDLE_SECONDS)
        assert await asyncio.to_thread(broker_counts, services, vhost) == (0, 1)

        await asyncio.to_thread(services.postgres.start)
        done = await eventually_done(stack, job.id)
        assert done[-1].type == "COMPLETED"
        assert kinds(done).count("COMPLETED") == 1
        assert kinds(done).count("STARTED") == 1
        assert len(journal(path)) == 1
        await eventually_counts(services, vhost, (0, 0))


async def eventually_done(stack: Stack, job_id: str) -> list[Event]:
    async with stack.client() as client:
        await client.wait(job_id, timeout=60)
        return await history(client, job_id)


async def eventually_counts(services: Services, vhost: str, wanted: tuple[int, int]) -> None:
    found = None
    for _ in range(10):
        found = await asyncio.to_thread(broker_counts, services, vhost)
        if found == wanted:
            return
    raise AssertionError(f"the broker counts {found}, not {wanted}")
