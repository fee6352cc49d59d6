"""P1, P2, P3: the way between the broker and a worker is cut, and queues are robbed."""

import asyncio
import time
from datetime import timedelta
from uuid import uuid4

import aio_pika
import pytest
from pydantic import SecretStr

from headway_core import broker, messages
from headway_core.job import Dispatch
from headway_core.topology import JOBS_EXCHANGE, declare, job_queue
from headway_worker.consumer import Consumer
from headway_worker.deliveries import Delivery
from tests.faults.broker import QUEUE
from tests.faults.proxy import Deed, proxied
from tests.faults.queues import age, all_queued
from tests.faults.rig import Rig
from tests.faults.waiting import promised, until

SWEPT_SECONDS_MAX = 20.0
QUEUED_LONG_SECONDS = 30.0
HALF_OPEN_SECONDS_MAX = 15.0


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
            await until(fault.struck.is_set, "the frame comes by")
            await until(lambda: len(journal.runs()) == 6, "all have begun")
            gate.touch()
            await rig.done()
        assert set(journal.runs().values()) == {1}
        await rig.judge(without_fault=True)


async def test_a_half_open_connection_is_found_by_its_heartbeats(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1, P3: it is a black hole from a delivery on, with heartbeats of 1 s, not 10."""
    monkeypatch.setattr(broker, "HEARTBEAT_SECONDS", 1)
    taken: list[Delivery] = []
    async with proxied(amqp_url) as proxy, await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        await declare(channel, QUEUE)
        consumer = Consumer(
            SecretStr(proxy.url),
            name="half open",
            queues=[QUEUE],
            slots=2,
            handoff=timedelta(hours=1),
            intake=taken.append,
            trouble=lambda _: None,
        )
        consuming = asyncio.create_task(consumer.run())
        try:
            await until(consumer.consuming.is_set, "it consumes")
            fault = proxy.on("< basic.deliver", Deed.BLACK_HOLE)
            dispatch = Dispatch(0, uuid4(), 1, QUEUE, 4, False, "noop", "", "")
            exchange = await channel.get_exchange(JOBS_EXCHANGE)
            await exchange.publish(aio_pika.Message(messages.body(dispatch)), QUEUE)
            await until(fault.struck.is_set, "the frame comes by")
            assert not taken
            took = await until(lambda: taken, "it comes again, by another connection")
            assert [delivery.job_id for delivery in taken] == [dispatch.job_id]
        finally:
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)
    promised("half open, heartbeats of 1 s -> delivered again", took, HALF_OPEN_SECONDS_MAX)


@pytest.mark.parametrize(
    ("robbery", "aged"),
    [
        ("deleted", True),
        ("purged", True),
        ("unbound", False),
        pytest.param("deleted", False, marks=pytest.mark.slow_faults),
        pytest.param("purged", False, marks=pytest.mark.slow_faults),
    ],
)
async def test_a_queue_that_is_robbed_fills_again(rig: Rig, robbery: str, *, aged: bool) -> None:
    """P1, P2: what waited in it is swept after 30 s of being QUEUED (aged by hand in `make test`);
    a message that no queue takes comes back as unroutable, the queue is bound again, and it is
    published once more.
    """
    journal, gate = rig.journal(), rig.gate()
    await rig.worker("--concurrency", "2")
    async with rig.client() as client:
        await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        await rig.submit(client, 5, journal=str(journal))
        await until(lambda: all_queued(rig, 5), "five are queued")
        async with await aio_pika.connect(rig.stack.amqp_url) as connection:
            queue = await (await connection.channel()).get_queue(job_queue(QUEUE))
            match robbery:
                case "purged":
                    assert (await queue.purge()).message_count == 5
                case "deleted":
                    deleted = await queue.delete(if_unused=False, if_empty=False)
                    assert deleted.message_count == 5
                case "unbound":
                    assert await _is_bound(rig)
                    await queue.unbind(JOBS_EXCHANGE, QUEUE)
                    assert not await _is_bound(rig)
        await rig.submit(client, 3, journal=str(journal))
        gate.touch()
        if aged:
            await age(rig)
        began = time.monotonic()
        await rig.done()
        took = time.monotonic() - began
    wait = QUEUED_LONG_SECONDS if robbery != "unbound" and not aged else 0
    promised(f"queue {robbery} -> all done", took, wait + SWEPT_SECONDS_MAX)
    assert await _is_bound(rig)
    assert set(journal.runs().values()) == {1}
    await rig.judge(without_fault=True)


async def _is_bound(rig: Rig) -> bool:
    vhost = rig.stack.amqp_url.rpartition("/")[2]
    listed = await asyncio.to_thread(
        rig.services.rabbitmqctl, "list_bindings", "-p", vhost, "source_name", "destination_name"
    )
    return [JOBS_EXCHANGE, job_queue(QUEUE)] in [line.split() for line in listed.splitlines()]
