"""P1, P2, P3, P9, P11: RabbitMQ is killed, wiped, full and impatient while jobs run."""

import asyncio
import time

import pytest

from headway import RetryPolicy
from tests.faults.queues import age, all_queued
from tests.faults.rig import Rig
from tests.faults.waiting import promised, until

pytestmark = pytest.mark.faults

MOVING_SECONDS_MAX = 10.0
SWEPT_SECONDS_MAX = 45.0
BACKLOG = 500
SUBMIT_SECONDS_MAX = 2.0
ONCE = RetryPolicy(max_attempts=1)


async def test_a_killed_broker_holds_up_no_submit_and_its_backlog_moves_again(
    service_rig: Rig,
) -> None:
    """P1, P2, P9: SIGKILL with jobs queued and running. Recovery: backlog moving in ≤ 10 s.

    One dies while there is no broker, and the notice of it is there in the end.
    """
    rig = service_rig
    await rig.worker("--concurrency", "4")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        payload = {"journal": str(journal), "until": str(gate)}
        await rig.submit(client, 3, **payload)
        rig.accept(
            [await client.submit("fault.work", payload | {"failures": 1}, retry_policy=ONCE)]
        )
        await rig.submit(client, 20, journal=str(journal))
        await journal.begun(4)
        await asyncio.to_thread(rig.services.rabbitmq.kill)
        assert not rig.services.rabbitmq.is_running
        begun = time.monotonic()
        await rig.submit(client, 20, journal=str(journal))
        promised("a submit without a broker", time.monotonic() - begun, SUBMIT_SECONDS_MAX)
        gate.touch()
        await until(lambda: len(journal.lines("end")) == 3, "what runs goes on without it")
        await asyncio.to_thread(rig.services.rabbitmq.start)
        count = len(journal.lines())
        took = await until(lambda: len(journal.lines()) > count, "the backlog moves")
        await rig.done()
    assert set(journal.runs().values()) == {1}
    await rig.judge(without_fault=True)
    promised("broker back -> backlog moving", took, MOVING_SECONDS_MAX)


async def test_a_broker_that_lost_its_data_is_filled_again_from_the_rows(service_rig: Rig) -> None:
    """P1, P2: killed and wiped with 500 jobs QUEUED, of which it knows nothing any more.

    One of them dies then, and its notice is there.
    """
    rig = service_rig
    async with rig.client() as client:
        await rig.submit(client, BACKLOG - 1)
        rig.accept([await client.submit("fault.work", {"failures": 1}, retry_policy=ONCE)])
        await until(lambda: all_queued(rig, BACKLOG), "all are queued")
        assert await rig.broker.ready() == BACKLOG
        await rig.wipe()
        await rig.worker("--concurrency", "50")
        assert await rig.broker.ready() == 0
        await age(rig)
        begun = time.monotonic()
        await rig.done(seconds=4 * SWEPT_SECONDS_MAX)
        took = time.monotonic() - begun
    await rig.judge(without_fault=True)
    promised(f"wiped with {BACKLOG} queued, may be swept -> all done", took, SWEPT_SECONDS_MAX)


async def test_a_disk_alarm_blocks_publishes_and_nothing_else(service_rig: Rig) -> None:
    """P9, P11: submits are accepted, acks go through; when it is over the backlog moves."""
    rig = service_rig
    await rig.worker("--concurrency", "2")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        await asyncio.to_thread(rig.services.rabbitmqctl, "set_disk_free_limit", "900000GB")
        try:
            alarms = await asyncio.to_thread(
                rig.services.rabbitmqctl, "eval", "rabbit_alarm:get_alarms()."
            )
            assert "disk" in alarms
            begun = time.monotonic()
            await rig.submit(client, 10, journal=str(journal))
            promised("a submit, disk alarm", time.monotonic() - begun, SUBMIT_SECONDS_MAX)
            gate.touch()
            await until(lambda: len(journal.lines("end")) == 2, "what runs ends")
            await asyncio.sleep(1)
            assert len(journal.lines()) == 2, "something was published"
        finally:
            await asyncio.to_thread(rig.services.rabbitmqctl, "set_disk_free_limit", "50MB")
        took = await until(lambda: len(journal.runs()) == 12, "the backlog moves")
    await rig.judge(without_fault=True)
    promised("disk alarm over -> backlog done", took, MOVING_SECONDS_MAX)


TIMEOUT = (
    "application:set_env(rabbit, consumer_timeout, {timeout}),"
    " application:set_env(rabbit, channel_tick_interval, 500)."
)


async def test_jobs_longer_than_the_consumer_timeout_run_once(service_rig: Rig) -> None:
    """P3: scaled: a timeout of 2 s, jobs of 4 s, handed off after 0.7 s; no channel is closed.

    That the timeout is real is shown by a worker that would hand off later: its channel is closed,
    and even then the jobs run once, on their leases.
    """
    rig = service_rig
    await asyncio.to_thread(rig.services.rabbitmqctl, "eval", TIMEOUT.format(timeout=2000))
    try:
        journal = rig.journal()
        async with rig.client() as client:
            for handoff, closures in (("0.7", False), ("60", True)):
                worker = await rig.worker("--concurrency", "3", HEADWAY_HANDOFF_SECONDS=handoff)
                await rig.submit(client, 3, journal=str(journal), seconds=4)
                await rig.done()
                closed = "broker_connection_lost" in worker.log
                assert closed == closures, worker.log[-2000:]
                await worker.drain()
        assert set(journal.runs().values()) == {1}
    finally:
        await asyncio.to_thread(rig.services.rabbitmqctl, "eval", TIMEOUT.format(timeout=1800000))
    await rig.judge(without_fault=True)
