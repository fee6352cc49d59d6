"""What stands at the broker, and what is done when something else stands there."""

import asyncio

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed
from pamqp.common import FieldTable

from headway_core.broker import open_channel
from headway_core.errors import TopologyMismatch
from headway_core.topology import (
    DEAD_EXCHANGE,
    JOBS_EXCHANGE,
    Topology,
    dead_queue,
    declare,
    declare_hints,
    job_queue,
)


async def test_a_queue_is_declared_as_designed(connection: AbstractConnection) -> None:
    """The broker compares arguments on a second declaration: these are all, and exactly these."""
    channel, _ = await open_channel(connection)
    await declare(channel, "mail")
    arguments: FieldTable = {
        "x-max-priority": 9,
        "x-dead-letter-exchange": "headway.dead",
        "x-dead-letter-routing-key": "mail",
    }
    await channel.declare_queue("headway.v1.mail", durable=True, arguments=arguments)
    await channel.declare_queue("headway.v1.mail.dead", durable=True)
    await channel.declare_exchange("headway.jobs", "direct", durable=True)
    await channel.declare_exchange("headway.dead", "direct", durable=True)


async def test_declaring_again_changes_nothing(connection: AbstractConnection) -> None:
    channel, closed = await open_channel(connection)
    for _ in range(3):
        await declare(channel, "mail")
    assert not closed.done()


async def test_a_rejected_message_becomes_a_dead_letter(connection: AbstractConnection) -> None:
    channel, _ = await open_channel(connection)
    await declare(channel, "mail")
    exchange = await channel.get_exchange(JOBS_EXCHANGE)
    await exchange.publish(Message(b"x"), routing_key="mail")
    queue = await channel.get_queue(job_queue("mail"))
    message = await queue.get(timeout=5)
    await message.reject(requeue=False)
    letters = await channel.get_queue(dead_queue("mail"))
    letter = await letters.get(timeout=5, fail=False)
    while letter is None:
        await asyncio.sleep(0.01)
        letter = await letters.get(timeout=5, fail=False)
    assert letter.body == b"x"
    assert letter.exchange == DEAD_EXCHANGE
    assert letter.routing_key == "mail"
    await letter.ack()


async def test_a_mismatch_names_the_difference_and_heals(connection: AbstractConnection) -> None:
    """It must not be a crash loop, and must go away by itself once the operator mended it."""
    channel, _ = await open_channel(connection)
    arguments: FieldTable = {
        "x-max-priority": 5,
        "x-dead-letter-exchange": "headway.dead",
        "x-dead-letter-routing-key": "mail",
    }
    await channel.declare_queue(job_queue("mail"), durable=True, arguments=arguments)
    topology = Topology(connection)
    with pytest.raises(TopologyMismatch) as caught:
        await topology.declare("mail")
    assert caught.value.queue == "headway.v1.mail"
    assert "x-max-priority" in caught.value.difference
    assert "received '9'" in caught.value.difference
    assert "current is '5'" in caught.value.difference
    assert isinstance(caught.value.__cause__, ChannelPreconditionFailed)
    await topology.declare("other")
    await channel.queue_delete(job_queue("mail"))
    await topology.declare("mail")
    assert topology.knows("mail")


async def test_a_missing_argument_is_a_mismatch_too(connection: AbstractConnection) -> None:
    channel, _ = await open_channel(connection)
    await channel.declare_queue(job_queue("mail"), durable=True)
    with pytest.raises(
        TopologyMismatch, match=r"x-(max-priority|dead-letter-\S+): received .* none"
    ):
        await Topology(connection).declare("mail")


async def test_an_exchange_of_another_kind_is_a_mismatch(connection: AbstractConnection) -> None:
    channel, _ = await open_channel(connection)
    await channel.declare_exchange(JOBS_EXCHANGE, "topic", durable=True)
    with pytest.raises(TopologyMismatch, match=r"headway\.jobs .*type: received 'direct'"):
        await Topology(connection).declare("mail")


async def test_ready_messages_are_counted_without_those_in_hand(
    connection: AbstractConnection,
) -> None:
    channel, _ = await open_channel(connection)
    topology = Topology(connection)
    await topology.declare("mail")
    exchange = await channel.get_exchange(JOBS_EXCHANGE)
    for _ in range(3):
        await exchange.publish(Message(b"x"), routing_key="mail")
    assert await topology.ready_count("mail") == 3
    queue = await channel.get_queue(job_queue("mail"))
    await queue.get(timeout=5)
    assert await topology.ready_count("mail") == 2


async def test_counting_an_unknown_queue_is_no_error(connection: AbstractConnection) -> None:
    """The broker closes the channel for it, which must not be felt by the next call."""
    topology = Topology(connection)
    assert await topology.ready_count("mail") is None
    await topology.declare("mail")
    assert await topology.ready_count("mail") == 0


async def test_a_deleted_queue_is_declared_again_once_forgotten(
    connection: AbstractConnection,
) -> None:
    channel, _ = await open_channel(connection)
    topology = Topology(connection)
    await topology.declare("mail")
    await channel.queue_delete(job_queue("mail"))
    await topology.declare("mail")
    assert await topology.ready_count("mail") is None
    await topology.declare("mail")
    assert await topology.ready_count("mail") == 0


async def test_each_listener_has_a_queue_for_hints_of_its_own(
    connection: AbstractConnection,
) -> None:
    channel, _ = await open_channel(connection)
    first, second = await declare_hints(channel), await declare_hints(channel)
    assert first.name != second.name
