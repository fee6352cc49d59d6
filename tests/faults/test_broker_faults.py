"""P1, P2, P3, P9: RabbitMQ is killed, wiped, cut off and robbed of its queues while jobs run."""

import asyncio
import time

import aio_pika
import pytest

from headway_core.topology import JOBS_EXCHANGE, job_queue
from tests.faults.proxy import Deed, proxied
from tests.faults.rig import QUEUE, Rig, until

MOVING_SECONDS_MAX = 10.0
BACKLOG = 500
QUEUED_LONG_SECONDS = 30
SWEEPS_SECONDS_MAX = 45.0


@pytest.mark.faults
async def test_a_killed_broker_holds_up_no_submit_and_its_backlog_moves_again(
    service_rig: Rig,
) -> None:
    """P1, P2, P9: SIGKILL with jobs queued and running. Recovery: backlog moving in ≤ 10 s."""
    rig = service_rig
    await rig.worker("--concurrency", "4")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 4, journal=str(journal), until=str(gate))
        await rig.submit(client, 20, journal=str(journal))
        await journal.begun(4)
        await asyncio.to_thread(rig.services.rabbitmq.kill)
        assert not rig.services.rabbitmq.is_running
        begun = time.monotonic()
        await rig.submit(client, 20, journal=str(journal))
        assert time.monotonic() - begun < 2, "a submit waits for the broker"
        gate.touch()
        await until(lambda: len(journal.lines("end")) == 4, "what runs goes on without it")
        await asyncio.to_thread(rig.services.rabbitmq.start)
        count = len(journal.lines())
        took = await until(lambda: len(journal.lines()) > count, "the backlog moves")
        print(f"broker back -> backlog moving: {took:.2f} s")
        await rig.done()
    assert set(journal.runs().values()) == {1}
    await rig.judge()
    assert took <= MOVING_SECONDS_MAX


@pytest.mark.faults
async def test_a_broker_that_lost_its_data_is_filled_again_from_the_rows(service_rig: Rig) -> None:
    """P1, P2: killed and wiped with 500 jobs QUEUED, of which it knows nothing any more."""
    rig = service_rig
    async with rig.client() as client:
        await rig.submit(client, BACKLOG)
        await until(lambda: _all_queued(rig, BACKLOG), "all are queued")
        assert await rig.ready_messages() == BACKLOG
        await asyncio.to_thread(rig.services.rabbitmq.wipe)
        await asyncio.to_thread(rig.services.rabbitmq.start)
        rig.wiped = True
        await rig.worker("--concurrency", "50")
        assert await rig.ready_messages() == 0
        await _age(rig)
        begun = time.monotonic()
        await rig.done(seconds=SWEEPS_SECONDS_MAX)
        print(f"{BACKLOG} jobs done {time.monotonic() - begun:.2f} s after their time to be swept")
    await rig.judge(without_fault=True)


async def test_a_reset_between_commit_and_ack_makes_no_second_run(rig: Rig) -> None:
    """P2, P3: the delivery comes again, and its claim finds nothing to do."""
    async with proxied(rig.stack.amqp_url) as proxy:
        await rig.worker("--concurrency", "4", HEADWAY_AMQP_URL=proxy.url)
        journal = rig.journal()
        async with rig.client() as client:
            fault = proxy.on("> basic.ack", Deed.RESET, only="headway-worker", times=2)
            await rig.submit(client, 12, journal=str(journal))
            await until(lambda: fault.count >= 2, "two acks are lost")
            await rig.done()
        assert set(journal.runs().values()) == {1}
        await rig.judge(without_fault=True)


@pytest.mark.parametrize("deed", [Deed.RESET, Deed.HALF_CLOSE], ids=lambda deed: deed.name)
async def test_a_delivery_that_never_arrives_comes_again(rig: Rig, deed: Deed) -> None:
    """P1, P2: the consuming connection is lost at a delivery; jobs in hand run on."""
    async with proxied(rig.stack.amqp_url) as proxy:
        await rig.worker("--concurrency", "3", HEADWAY_AMQP_URL=proxy.url)
        journal, gate = rig.journal(), rig.gate()
        async with rig.client() as client:
            await rig.submit(client, 2, journal=str(journal), until=str(gate))
            await journal.begun(2)
            fault = proxy.on("< basic.deliver", deed, only=r"headway-worker [0-9a-f]")
            await rig.submit(client, 4, journal=str(journal))
            await asyncio.wait_for(fault.struck.wait(), 10)
            await until(lambda: len(journal.runs()) == 6, "all have begun")
            gate.touch()
            await rig.done()
        assert set(journal.runs().values()) == {1}
        await rig.judge(without_fault=True)


@pytest.mark.parametrize(
    "robbery",
    [
        "deleted",
        pytest.param("purged", marks=pytest.mark.slow_faults),
        pytest.param("unbound", marks=pytest.mark.slow_faults),
    ],
)
async def test_a_queue_that_is_robbed_fills_again(rig: Rig, robbery: str) -> None:
    """P1, P2: what waited in it is swept after 30 s of being QUEUED (aged here); a message that no
    queue takes comes back as unroutable, the queue is bound again, and it is published once more.
    """
    journal, gate = rig.journal(), rig.gate()
    await rig.worker("--concurrency", "2")
    async with rig.client() as client:
        await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        await rig.submit(client, 5, journal=str(journal))
        await until(lambda: _all_queued(rig, 5), "five are queued")
        async with await aio_pika.connect(rig.stack.amqp_url) as connection:
            queue = await (await connection.channel()).get_queue(job_queue(QUEUE))
            match robbery:
                case "purged":
                    assert (await queue.purge()).message_count == 5
                case "deleted":
                    await queue.delete(if_unused=False, if_empty=False)
                case "unbound":
                    await queue.unbind(JOBS_EXCHANGE, QUEUE)
        await rig.submit(client, 3, journal=str(journal))
        gate.touch()
        if robbery != "unbound":
            await _age(rig)
        await rig.done(seconds=SWEEPS_SECONDS_MAX)
    assert set(journal.runs().values()) == {1}
    await rig.judge(without_fault=True)


@pytest.mark.faults
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
            assert time.monotonic() - begun < 2
            gate.touch()
            await until(lambda: len(journal.lines("end")) == 2, "what runs ends")
            await asyncio.sleep(1)
            assert len(journal.lines()) == 2, "something was published"
        finally:
            await asyncio.to_thread(rig.services.rabbitmqctl, "set_disk_free_limit", "50MB")
        took = await until(lambda: len(journal.runs()) == 12, "the backlog moves")
        print(f"disk alarm over -> backlog done: {took:.2f} s")
    await rig.judge()


TIMEOUT = (
    "application:set_env(rabbit, consumer_timeout, {timeout}),"
    " application:set_env(rabbit, channel_tick_interval, 500)."
)


@pytest.mark.faults
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
                closed = "broker_connection_lost" in worker.child.log.read_text()
                assert closed == closures, worker.child.log.read_text()[-2000:]
                await worker.drain()
        assert set(journal.runs().values()) == {1}
    finally:
        await asyncio.to_thread(rig.services.rabbitmqctl, "eval", TIMEOUT.format(timeout=1800000))
    await rig.judge(without_fault=True)


async def _all_queued(rig: Rig, count: int) -> bool:
    rows = await rig.query("SELECT count(*) FROM jobs WHERE state = 2")
    return bool(rows) and rows[0][0] == count


async def _age(rig: Rig) -> None:
    """Make jobs look as if they had been QUEUED for half a minute."""
    await rig.query(
        "UPDATE jobs SET wait_time = wait_time - make_interval(secs => $1) WHERE state = 2",
        QUEUED_LONG_SECONDS,
    )
