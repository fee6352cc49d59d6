"""What other files try with short leases, once more with the times that are shipped."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from headway_core.topology import job_queue
from tests.faults import test_bad_handlers, test_killed_workers, test_postgres_faults
from tests.faults.broker import QUEUE
from tests.faults.rig import INTERRUPTED_ONCE, Rig
from tests.faults.waiting import until

pytestmark = [pytest.mark.slow_faults, pytest.mark.faults, pytest.mark.timeout(400)]

CASES = [
    test_killed_workers.test_a_worker_that_slept_beyond_its_lease_changes_nothing,
    test_killed_workers.test_a_paused_supervisor_costs_its_executor_the_lease,
    test_postgres_faults.test_an_executor_cut_off_from_postgres_is_ended,
    test_postgres_faults.test_a_worker_with_a_black_hole_for_a_postgres_comes_back,
    test_bad_handlers.test_a_blocked_loop_or_interpreter_is_not_taken_for_death,
]
DRAIN_SECONDS_MIN, DRAIN_SECONDS_MAX = 25.0, 32.0
"""Of 30 s; the last ones are for letting go."""
HANDOFF_SECONDS, HANDOFF_SECONDS_MAX = 120.0, 135.0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.removeprefix("test_"))
async def test_with_default_times(default_rig: Rig, case: Callable[[Rig], Awaitable[None]]) -> None:
    """Leases of 15 s, beats every 5 s."""
    await case(default_rig)


async def test_a_drain_lasts_thirty_seconds(default_rig: Rig) -> None:
    """P10: what is not done by then is interrupted, uncharged, and runs elsewhere."""
    rig = default_rig
    first = await rig.worker()
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        jobs = await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        await rig.worker()
        begun = time.monotonic()
        first.supervisor.send_signal(signal.SIGTERM)
        await first.ended()
        took = time.monotonic() - begun
        await journal.begun(4)
        gate.touch()
        await rig.done()
        for job in jobs:
            events = await rig.history(job.id)
            assert events == INTERRUPTED_ONCE
            assert (await client.get(job.id)).attempt == 1
    await rig.judge()
    print(f"drain: {took:.1f} s")
    assert DRAIN_SECONDS_MIN <= took <= DRAIN_SECONDS_MAX


async def test_a_delivery_is_handed_off_after_two_minutes(default_rig: Rig) -> None:
    """P3: the broker has its ack while the job runs on, once."""
    rig = default_rig
    await rig.worker()
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        begun = time.monotonic()
        await rig.submit(client, 1, journal=str(journal), until=str(gate), patience=180)
        await journal.begun(1)
        assert await _in_hand(rig) == 1
        await until(lambda: _handed_off(rig), "it is handed off", seconds=HANDOFF_SECONDS_MAX)
        took = time.monotonic() - begun
        assert not journal.lines("end")
        gate.touch()
        await rig.done()
    await rig.judge(without_fault=True)
    print(f"hand-off: {took:.1f} s")
    assert took >= HANDOFF_SECONDS - 1


async def _in_hand(rig: Rig) -> int:
    """Messages that the broker has sent and that nobody has acked."""
    vhost = rig.stack.amqp_url.rpartition("/")[2].partition("?")[0]
    listed = await asyncio.to_thread(
        rig.services.rabbitmqctl, "list_queues", "-p", vhost, "name", "messages_unacknowledged"
    )
    counts = dict(line.split() for line in listed.splitlines() if line.startswith("headway."))
    return int(counts[job_queue(QUEUE)])


async def _handed_off(rig: Rig) -> bool:
    return await _in_hand(rig) == 0
