"""Deliveries: never more than free slots, urgent ones first, each acked once and when told."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import aio_pika
import pytest
from pydantic import SecretStr

from headway_core import messages, trace_context
from headway_core.content import JSON_MEDIA_TYPE
from headway_core.job import Dispatch
from headway_core.topology import JOBS_EXCHANGE, dead_queue, declare, job_queue
from headway_worker.consumer import Consumer
from headway_worker.deliveries import Custody, Delivery
from tests.service.proxy import proxied
from tests.worker.stage import eventually

PATIENCE = 60.0


class Broker:
    """The broker as the tests see it, on a connection of their own."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel) -> None:
        self.channel = channel

    async def publish(
        self, count: int = 1, *, queue: str = "default", priority: int = 4
    ) -> list[UUID]:
        """Publish dispatches as the relay does, and wait until the broker has them."""
        exchange = await self.channel.get_exchange(JOBS_EXCHANGE)
        ids = [uuid4() for _ in range(count)]
        for job_id in ids:
            dispatch = Dispatch(0, job_id, 1, queue, priority, False, "noop", "", "")
            message = aio_pika.Message(
                messages.body(dispatch),
                content_type=JSON_MEDIA_TYPE,
                headers={"traceparent": trace_context.new(sampled=False).traceparent},
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                priority=priority,
                message_id="0-1",
            )
            await exchange.publish(message, routing_key=queue)
        return ids

    async def publish_bare(self, body: bytes) -> None:
        """Publish bytes without properties."""
        await self.channel.default_exchange.publish(
            aio_pika.Message(body), routing_key=job_queue("default")
        )

    async def ready(self, queue: str = "default", *, dead: bool = False) -> int:
        """Messages that are in nobody's hand."""
        name = dead_queue(queue) if dead else job_queue(queue)
        found = await self.channel.declare_queue(name, passive=True)
        return found.declaration_result.message_count or 0


class Desk:
    """Takes deliveries and holds them until the test lets go."""

    def __init__(self) -> None:
        self.consumer: Consumer
        self.held: list[Delivery] = []
        self.seen: list[UUID] = []
        self.most = 0
        self.on_take: Callable[[Delivery], None] = lambda delivery: None

    def take(self, delivery: Delivery) -> None:
        self.held.append(delivery)
        self.seen.append(delivery.job_id)
        self.most = max(self.most, len(self.held))
        self.on_take(delivery)

    def ack(self, delivery: Delivery | None = None) -> Delivery:
        delivery = delivery or self.held[0]
        self.held.remove(delivery)
        self.consumer.ack(delivery)
        return delivery


@pytest.fixture
async def broker(amqp_url: str) -> AsyncIterator[Broker]:
    connection = await aio_pika.connect(amqp_url)
    async with connection, connection.channel() as channel:
        for queue in ("default", "slow", "third"):
            await declare(channel, queue)
        yield Broker(channel)


@asynccontextmanager
async def consuming(
    url: str, desk: Desk, *, slots: int, queues: Sequence[str] = ("default",), handoff: float = 120
) -> AsyncIterator[Consumer]:
    consumer = Consumer(
        SecretStr(url),
        name="test",
        queues=queues,
        slots=slots,
        handoff=timedelta(seconds=handoff),
        intake=desk.take,
        trouble=lambda reason: None,
    )
    desk.consumer = consumer
    async with asyncio.TaskGroup() as group:
        task = group.create_task(consumer.run())
        await asyncio.wait_for(consumer.consuming.wait(), PATIENCE)
        yield consumer
        task.cancel()


async def test_no_more_deliveries_are_held_than_there_are_slots(
    amqp_url: str, broker: Broker
) -> None:
    desk = Desk()
    await broker.publish(20)
    async with consuming(amqp_url, desk, slots=3):
        await eventually(lambda: len(desk.held) == 3)
        await asyncio.sleep(0.2)
        assert len(desk.held) == 3
        assert await broker.ready() == 17
        for _ in range(17):
            desk.ack()
            await eventually(lambda: len(desk.held) == 3)
    assert desk.most == 3


async def test_an_urgent_message_is_next_when_a_slot_is_freed(
    amqp_url: str, broker: Broker
) -> None:
    desk = Desk()
    await broker.publish(50, priority=1)
    async with consuming(amqp_url, desk, slots=1):
        await eventually(lambda: len(desk.held) == 1)
        urgent = await broker.publish(5, priority=9)
        for _ in range(5):
            desk.ack()
            await eventually(lambda: len(desk.held) == 1)
        assert desk.seen[1:] == urgent


async def test_nothing_is_acked_before_it_is_told(amqp_url: str, broker: Broker) -> None:
    desk = Desk()
    await broker.publish(3)
    async with consuming(amqp_url, desk, slots=3):
        await eventually(lambda: len(desk.held) == 3)
        desk.ack(desk.held[1])
        await eventually(lambda: not desk.consumer._holdings.acks.pending)
        await asyncio.sleep(0.1)
    await eventually(lambda: broker_has(broker, 2))


async def broker_has(broker: Broker, count: int, **where: str) -> bool:
    return await broker.ready(**where) == count


async def test_a_rejected_delivery_is_dead_lettered_by_the_broker(
    amqp_url: str, broker: Broker
) -> None:
    desk = Desk()
    await broker.publish(1)
    async with consuming(amqp_url, desk, slots=2):
        await eventually(lambda: len(desk.held) == 1)
        desk.consumer.reject(desk.held.pop())
        queue = await broker.channel.get_queue(dead_queue("default"))
        message = await eventually(lambda: queue.get(no_ack=True, fail=False))
    assert message.headers["x-death"][0]["reason"] == "rejected"


async def test_no_message_overtakes_one_that_is_written_otherwise(
    amqp_url: str, broker: Broker
) -> None:
    """Ours come by a shorter way than others; acks rely on the broker's order of both."""
    desk = Desk()
    expected: list[UUID] = []
    for _ in range(10):
        expected += await broker.publish(3, priority=0)
        job_id = uuid4()
        expected.append(job_id)
        await broker.publish_bare(b'{ "job_id": "%s", "dispatch_no": 1 }' % str(job_id).encode())
        expected += await broker.publish(1, priority=0)
        for junk in (b"junk", b"", b"x" * 20_000, b"x" * 200_000):
            await broker.publish_bare(junk)
            expected += await broker.publish(1, priority=0)
    async with consuming(amqp_url, desk, slots=100):
        await eventually(lambda: len(desk.held) == len(expected))
        assert desk.seen == expected
        acks = desk.consumer._holdings.acks
        while desk.held:
            desk.ack()
        await eventually(lambda: not desk.consumer._holdings.acks.pending)
        assert desk.consumer._holdings.acks is acks  # the channel is still the same
        (more,) = await broker.publish()
        await eventually(lambda: desk.seen[-1] == more)
        desk.ack()
    await eventually(lambda: broker_has(broker, 0))
    await eventually(lambda: broker_has_dead(broker, 40))


async def test_a_malformed_message_is_dead_lettered_and_holds_nobody_up(
    amqp_url: str, broker: Broker
) -> None:
    desk = Desk()
    bodies = [b"", b"\xff\xfe", b"{}", b'{"job_id":"x","dispatch_no":1}', b"x" * 100_000]
    async with consuming(amqp_url, desk, slots=1):
        for body in bodies:
            await broker.publish_bare(body)
        # Last in the queue: a higher priority would take the only slot before the last of them.
        (sound,) = await broker.publish(1, priority=0)
        await eventually(lambda: desk.seen == [sound])
        await eventually(lambda: broker_has_dead(broker, len(bodies)))


async def broker_has_dead(broker: Broker, count: int) -> bool:
    return await broker.ready(dead=True) == count


async def test_an_old_delivery_is_handed_off_and_its_slot_stays_taken(
    amqp_url: str, broker: Broker
) -> None:
    desk = Desk()
    await broker.publish(4)
    async with consuming(amqp_url, desk, slots=2, handoff=0.2) as consumer:
        await eventually(lambda: len(desk.held) == 2)
        old, other = desk.held
        consumer.claimed(old)
        await eventually(lambda: old.custody is Custody.DATABASE)
        assert other.in_hand
        assert len(desk.seen) == 2, "the slot of a handed-off delivery was given away"
        desk.ack(other)
        await eventually(lambda: len(desk.seen) == 3)
        desk.ack(old)
        await eventually(lambda: len(desk.seen) == 4)
    assert desk.most == 2
    await eventually(lambda: broker_has(broker, 2))


async def test_a_delivery_whose_end_is_being_written_is_not_handed_off(
    amqp_url: str, broker: Broker
) -> None:
    desk = Desk()
    await broker.publish(1)
    async with consuming(amqp_url, desk, slots=2, handoff=0.1) as consumer:
        await eventually(lambda: desk.held)
        (delivery,) = desk.held
        consumer.claimed(delivery)
        assert consumer.settling(delivery)
        await asyncio.sleep(0.4)
        assert delivery.in_hand
        consumer.reject(delivery)
        await eventually(lambda: broker_has_dead(broker, 1))


async def test_thousands_of_hand_offs_lose_and_overcommit_nothing(
    amqp_url: str, broker: Broker
) -> None:
    """The credit pool under load: one job in ten outlives the hand-off."""
    desk, count, slots = Desk(), 1_500, 20
    finished: Counter[UUID] = Counter()

    def work(delivery: Delivery) -> None:
        desk.consumer.claimed(delivery)
        seconds = 0.15 if delivery.tag % 10 == 0 else 0.002
        asyncio.get_running_loop().call_later(seconds, finish, delivery)

    def finish(delivery: Delivery) -> None:
        finished[delivery.job_id] += 1
        desk.consumer.settling(delivery)
        desk.ack(delivery)

    desk.on_take = work
    ids = await broker.publish(count)
    async with consuming(amqp_url, desk, slots=slots, handoff=0.05):
        await eventually(lambda: len(finished) == count)
        await eventually(lambda: not desk.consumer._holdings.acks.pending)
        await eventually(lambda: desk.consumer._credit.uncovered == 0)
    assert set(finished) == set(ids)
    assert set(finished.values()) == {1}, "delivered again: a channel was lost"
    assert desk.most <= slots
    await asyncio.sleep(0.1)
    assert await broker.ready() == 0


async def test_closing_gives_everything_in_hand_to_others(amqp_url: str, broker: Broker) -> None:
    desk = Desk()
    await broker.publish(3)
    async with consuming(amqp_url, desk, slots=3) as consumer:
        await eventually(lambda: len(desk.held) == 3)
        running = desk.held[0]
        consumer.claimed(running)
        consumer.close("lease")
        for delivery in desk.held[1:]:
            consumer.abandon(delivery)
        await eventually(lambda: broker_has(broker, 3))
        assert not running.in_hand
        consumer.resume("lease")
        await eventually(lambda: len(desk.seen) == 5)
        await asyncio.sleep(0.1)
        assert len(desk.seen) == 5, "the slot of the one that runs on was given away"
        consumer.ack(running)
        await eventually(lambda: len(desk.seen) == 6)


async def test_what_was_abandoned_goes_back_even_if_consuming_resumes_at_once(
    amqp_url: str, broker: Broker
) -> None:
    desk = Desk()
    await broker.publish(1)
    async with consuming(amqp_url, desk, slots=1) as consumer:
        await eventually(lambda: desk.held)
        consumer.close("lease")
        consumer.abandon(desk.held[0])
        consumer.resume("lease")
        await eventually(lambda: len(desk.seen) == 2)


async def test_quiet_takes_nothing_new_and_keeps_what_is_in_hand(
    amqp_url: str, broker: Broker
) -> None:
    desk = Desk()
    await broker.publish(1)
    async with consuming(amqp_url, desk, slots=2) as consumer:
        await eventually(lambda: len(desk.held) == 1)
        consumer.quiet("drain")
        await consumer.wait_quiet()
        await broker.publish(2)
        await asyncio.sleep(0.2)
        assert len(desk.held) == 1
        desk.ack()
        await consumer.wait_acks_written()
        await asyncio.sleep(0.1)
        assert len(desk.seen) == 1
        consumer.resume("drain")
        await eventually(lambda: len(desk.held) == 2)


async def test_a_busy_queue_takes_the_slots_that_an_idle_one_leaves(
    amqp_url: str, broker: Broker
) -> None:
    desk = Desk()
    await broker.publish(50, queue="slow")
    async with consuming(amqp_url, desk, slots=8, queues=("default", "slow")):
        await eventually(lambda: len(desk.held) == 7)
        (other,) = await broker.publish(1, queue="default")
        await eventually(lambda: other in desk.seen)
        assert desk.most == 8


async def test_two_busy_queues_get_their_share_of_the_slots(amqp_url: str, broker: Broker) -> None:
    desk = Desk()
    done: Counter[str] = Counter()

    def work(delivery: Delivery) -> None:
        done[delivery.queue] += 1
        asyncio.get_running_loop().call_later(0.02, desk.ack, delivery)

    desk.on_take = work
    await broker.publish(1_000, queue="slow")
    await broker.publish(1_000, queue="default")
    async with consuming(amqp_url, desk, slots=8, queues=("default", "slow")):
        await eventually(lambda: done.total() >= 600)
    assert desk.most <= 8
    assert min(done["default"], done["slow"]) >= 200, done


@pytest.mark.parametrize("slots", [1, 2])
async def test_with_fewer_slots_than_queues_none_of_them_starves(
    amqp_url: str, broker: Broker, slots: int
) -> None:
    desk, queues = Desk(), ("default", "slow", "third")
    for queue in queues:
        await broker.publish(2_000, queue=queue)
    done: Counter[str] = Counter()

    def work(delivery: Delivery) -> None:
        done[delivery.queue] += 1
        asyncio.get_running_loop().call_later(0.005, desk.ack, delivery)

    desk.on_take = work
    async with consuming(amqp_url, desk, slots=slots, queues=queues):
        await eventually(lambda: min(done[queue] for queue in queues) >= 10)
    assert desk.most <= slots


async def test_a_message_for_a_queue_without_a_slot_does_not_wait_long(
    amqp_url: str, broker: Broker
) -> None:
    desk = Desk()
    async with consuming(amqp_url, desk, slots=1, queues=("default", "slow", "third")):
        for queue in ("third", "slow", "default", "third"):
            (job_id,) = await broker.publish(1, queue=queue)
            await eventually(lambda wanted=job_id: wanted in desk.seen, within=10)
            desk.ack()


async def test_stale_deliveries_are_forgotten_when_the_connection_is_lost(
    amqp_url: str, broker: Broker
) -> None:
    desk = Desk()
    await broker.publish(2)
    async with proxied(amqp_url) as (proxy, url), consuming(url, desk, slots=2) as consumer:
        await eventually(lambda: len(desk.held) == 2)
        first, second = list(desk.held)
        proxy.cut()
        proxy.heal()
        await eventually(lambda: not first.in_hand)
        desk.ack(first)
        await eventually(lambda: len(desk.seen) == 3)
        assert second.custody is Custody.DATABASE
        assert not consumer.settling(second)
        desk.consumer.reject(second)
        await eventually(lambda: len(desk.seen) == 4)
        assert await broker.ready(dead=True) == 0


async def test_a_hand_off_cut_off_in_the_middle_frees_its_slot_once(
    amqp_url: str, broker: Broker
) -> None:
    """The loser is the hand-off: its channel goes while it waits for the broker's cancel-ok."""
    desk = Desk()
    await broker.publish(3)
    async with (
        proxied(amqp_url) as (proxy, url),
        consuming(url, desk, slots=2, handoff=0.3) as consumer,
    ):
        await eventually(lambda: len(desk.held) == 2)
        old, _ = desk.held
        proxy.freeze()
        consumer.claimed(old)
        await eventually(lambda: old.custody is Custody.HANDING_OFF)
        desk.ack(old)
        proxy.cut()
        proxy.heal()
        await eventually(lambda: len(desk.seen) == 3)
        await asyncio.sleep(0.2)
        assert len(desk.held) == 2
        assert old.custody is Custody.DATABASE


async def test_a_queue_that_is_deleted_is_consumed_again(amqp_url: str, broker: Broker) -> None:
    desk = Desk()
    async with consuming(amqp_url, desk, slots=2):
        await broker.channel.queue_delete(job_queue("default"))
        await eventually(lambda: queue_is_consumed(broker))
        (job_id,) = await broker.publish(1)
        await eventually(lambda: job_id in desk.seen)


async def queue_is_consumed(broker: Broker) -> bool:
    connection = broker.channel._connection
    async with connection.channel() as channel:
        try:
            queue = await channel.declare_queue(job_queue("default"), passive=True)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return False
    # Consumed is later than bound: what is published before that has no way to the queue.
    return bool(queue.declaration_result.consumer_count)


async def test_a_queue_with_other_properties_is_reported_and_not_fatal(amqp_url: str) -> None:
    told: list[str] = []
    desk = Desk()
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        async with connection.channel() as channel:
            await channel.declare_queue(job_queue("default"), durable=True)
        consumer = Consumer(
            SecretStr(amqp_url),
            name="test",
            queues=("default",),
            slots=1,
            handoff=timedelta(seconds=120),
            intake=desk.take,
            trouble=told.append,
        )
        async with asyncio.TaskGroup() as group:
            task = group.create_task(consumer.run())
            await eventually(lambda: told)
            assert "x-max-priority" in told[0] or "x-dead-letter" in told[0]
            async with connection.channel() as channel:
                await channel.queue_delete(job_queue("default"))
            await asyncio.wait_for(consumer.consuming.wait(), PATIENCE)
            task.cancel()
