"""The one place inside aiormq: counting wrong there would confirm messages that are not there."""

import asyncio
from uuid import uuid4

import pytest
from aio_pika.abc import AbstractConnection, DeliveryMode
from aiormq import Channel

from headway_core import messages
from headway_core.broker import open_channel
from headway_core.confirming import Confirmation, ConfirmChannel, Outgoing
from headway_core.content import JSON_MEDIA_TYPE
from headway_core.errors import BrokerUnavailable, Defect
from headway_core.topology import JOBS_EXCHANGE, declare, job_queue
from headway_core.trace_context import TraceContext
from tests.broker.conftest import PATIENCE_SECONDS, dispatch

CONTEXT = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "é=b")


def outgoing(
    queue: str = "mail", body: bytes = b"x", *, exchange: str = JOBS_EXCHANGE, priority: int = 0
) -> Outgoing:
    properties = messages.properties(dispatch(priority=priority), CONTEXT)
    return Outgoing(exchange, queue, properties, body)


@pytest.fixture
async def underlay(connection: AbstractConnection) -> Channel:
    channel, _ = await open_channel(connection)
    await declare(channel, "mail")
    found = await channel.get_underlay_channel()
    assert isinstance(found, Channel)
    return found


async def test_each_message_has_its_own_outcome(underlay: Channel) -> None:
    confirming = ConfirmChannel(underlay)
    batch = [outgoing(), outgoing("nowhere"), outgoing(), outgoing("nowhere"), outgoing()]
    confirmed, returned = Confirmation.CONFIRMED, Confirmation.RETURNED
    for _ in range(3):
        outcomes = await confirming.publish(batch)
        assert outcomes == [confirmed, returned, confirmed, returned, confirmed]
    assert await confirming.publish([]) == []


async def test_outcomes_stay_apart_when_batches_overlap(underlay: Channel) -> None:
    confirming = ConfirmChannel(underlay)
    queues = ["mail" if number % 3 else "nowhere" for number in range(200)]
    batches = await asyncio.gather(
        *(confirming.publish([outgoing(queue), outgoing("mail")]) for queue in queues)
    )
    expected = [
        Confirmation.CONFIRMED if queue == "mail" else Confirmation.RETURNED for queue in queues
    ]
    assert [first for first, _ in batches] == expected
    assert {second for _, second in batches} == {Confirmation.CONFIRMED}


async def test_nothing_is_left_behind_in_the_channel(underlay: Channel) -> None:
    confirming = ConfirmChannel(underlay)
    await confirming.publish([outgoing(), outgoing("nowhere")] * 50)
    await asyncio.sleep(0.1)
    assert not underlay.confirmations
    assert not underlay.message_id_delivery_tag


async def test_a_batch_that_was_cancelled_before_it_was_sent_does_not_count(
    underlay: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker numbers what it receives: one number off, and every confirmation is another's."""
    confirming = ConfirmChannel(underlay)
    assert await confirming.publish([outgoing()]) == [Confirmation.CONFIRMED]
    with monkeypatch.context() as patch:
        full: asyncio.Queue[object] = asyncio.Queue(1)
        full.put_nowait(None)
        patch.setattr(underlay, "write_queue", full)
        task = asyncio.create_task(confirming.publish([outgoing(), outgoing()]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(PATIENCE_SECONDS):
        outcomes = await confirming.publish([outgoing(), outgoing("nowhere"), outgoing()])
    assert outcomes == [Confirmation.CONFIRMED, Confirmation.RETURNED, Confirmation.CONFIRMED]


async def test_what_is_unconfirmed_when_the_channel_closes_is_lost(underlay: Channel) -> None:
    confirming = ConfirmChannel(underlay)
    batch = [outgoing(), outgoing(exchange="no-such-exchange"), outgoing()]
    async with asyncio.timeout(PATIENCE_SECONDS):
        outcomes = await confirming.publish(batch)
    assert outcomes[1:] == [Confirmation.LOST, Confirmation.LOST]
    with pytest.raises(BrokerUnavailable, match="publish"):
        await confirming.publish([outgoing()])


async def test_what_is_sent_is_what_arrives(
    underlay: Channel, connection: AbstractConnection
) -> None:
    body = uuid4().bytes * 500
    confirming = ConfirmChannel(underlay)
    batch = [outgoing(body=body, priority=7), outgoing(body=b"")]
    assert await confirming.publish(batch) == [Confirmation.CONFIRMED] * 2
    channel, _ = await open_channel(connection)
    queue = await channel.get_queue(job_queue("mail"))
    first, second = await queue.get(), await queue.get()
    assert first is not None
    assert second is not None
    assert (first.body, first.priority, first.content_type) == (body, 7, JSON_MEDIA_TYPE)
    assert first.headers == CONTEXT._asdict()
    assert first.delivery_mode == DeliveryMode.PERSISTENT
    assert second.body == b""
    assert first.message_id != second.message_id


async def test_a_channel_without_confirms_is_not_taken(connection: AbstractConnection) -> None:
    """Silence would be taken for trouble for ever."""
    channel, _ = await open_channel(connection, confirms=False)
    with pytest.raises(Defect):
        await ConfirmChannel.on(channel)
