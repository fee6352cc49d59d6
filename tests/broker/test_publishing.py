"""What the publisher says is with the broker is with the broker, and trouble is never raised."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest
from aio_pika import DeliveryMode
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr

from headway_core import publishing, trace_context
from headway_core.broker import open_channel
from headway_core.confirming import Confirmation, ConfirmChannel, Outgoing
from headway_core.messages import Delivered, decode
from headway_core.metrics import Metrics
from headway_core.publishing import Publisher
from headway_core.telemetry import Telemetry
from headway_core.topology import JOBS_EXCHANGE, dead_queue, job_queue
from tests.broker.conftest import PATIENCE_SECONDS, dispatch, running, until
from tests.service.proxy import proxied


def publisher(url: SecretStr, telemetry: Telemetry | None = None) -> Publisher:
    return Publisher(
        url, name="test publish", telemetry=telemetry or Telemetry.off(), metrics=Metrics.off()
    )


async def take(
    connection: AbstractConnection, queue: str, count: int
) -> list[AbstractIncomingMessage]:
    """Take messages out of one of the broker's queues."""
    channel, _ = await open_channel(connection)
    found = await channel.get_queue(queue)
    taken: list[AbstractIncomingMessage] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(taken) < count:
            message = await found.get(fail=False)
            if message:
                await message.ack()
                taken.append(message)
    assert await found.get(fail=False) is None
    return taken


async def test_a_confirmed_message_is_in_its_queue(
    url: SecretStr, connection: AbstractConnection
) -> None:
    job_id = uuid4()
    ours = dispatch("mail", job_id=job_id, dispatch_no=7, priority=0)
    publishes = publisher(url)
    async with running(publishes.run()):
        await publishes.wait_ready()
        assert await publishes.publish([ours]) == [True]
        assert await publishes.ready_count("mail") == 1
    (message,) = await take(connection, job_queue("mail"), 1)
    assert decode(message) == Delivered(job_id, 7, None)  # nobody records its trace
    assert message.exchange == JOBS_EXCHANGE
    assert message.routing_key == "mail"
    assert message.delivery_mode is DeliveryMode.PERSISTENT
    assert message.priority == 0
    assert message.content_type == "application/json"


async def test_a_dead_letter_goes_to_the_dead_queue(
    url: SecretStr, connection: AbstractConnection
) -> None:
    publishes = publisher(url)
    async with running(publishes.run()):
        await publishes.wait_ready()
        assert await publishes.publish([dispatch("mail", dead=True)]) == [True]
    assert len(await take(connection, dead_queue("mail"), 1)) == 1


async def test_thousands_at_once_are_all_confirmed_and_never_too_many_unconfirmed(
    url: SecretStr, connection: AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    outstanding = [0, 0]  # now, most
    write = ConfirmChannel.publish

    async def counting(self: ConfirmChannel, batch: Sequence[Outgoing]) -> list[Confirmation]:
        outstanding[0] += len(batch)
        outstanding[1] = max(outstanding)
        try:
            return await write(self, batch)
        finally:
            outstanding[0] -= len(batch)

    monkeypatch.setattr(ConfirmChannel, "publish", counting)
    dispatches = [dispatch("mail") for _ in range(2_000)]
    publishes = publisher(url)
    async with running(publishes.run()):
        await publishes.wait_ready()
        first, second = await asyncio.gather(
            publishes.publish(dispatches[:1_000]), publishes.publish(dispatches[1_000:])
        )
        assert first == second == [True] * 1_000
    messages = await take(connection, job_queue("mail"), 2_000)
    assert outstanding[1] <= 256
    assert {decode(message).job_id for message in messages} == {  # type: ignore[union-attr]
        one.job_id for one in dispatches
    }
    assert len({message.message_id for message in messages}) == 2_000


async def test_an_unroutable_message_is_not_confirmed_and_its_queue_declared_again(
    url: SecretStr, connection: AbstractConnection
) -> None:
    """A returned message is confirmed by the broker all the same: without care it would be lost."""
    channel, _ = await open_channel(connection)
    publishes = publisher(url)
    async with running(publishes.run()):
        await publishes.wait_ready()
        job_id = uuid4()
        both = [dispatch("mail", job_id=job_id), dispatch("other", job_id=job_id)]
        assert await publishes.publish(both) == [True, True]
        await channel.queue_delete(job_queue("mail"))
        assert await publishes.publish(both * 2) == [False, True, False, True]
        assert await publishes.publish(both) == [True, True]
        assert await publishes.ready_count("mail") == 1
        assert await publishes.ready_count("other") == 4


async def test_a_missing_exchange_heals(url: SecretStr, connection: AbstractConnection) -> None:
    """The broker closes the channel for it, with all that is unconfirmed."""
    channel, _ = await open_channel(connection)
    publishes = publisher(url)
    async with running(publishes.run()):
        await publishes.wait_ready()
        assert await publishes.publish([dispatch()]) == [True]
        await channel.exchange_delete(JOBS_EXCHANGE)
        assert await publishes.publish([dispatch(), dispatch()]) == [False, False]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await publishes.publish([dispatch()]) != [True]:
                await publishes.wait_ready()


async def test_a_lost_connection_fails_what_is_outstanding_at_once(
    url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "PUBLISH_SECONDS_MAX", 100.0)
    async with proxied(url.get_secret_value()) as (proxy, through):
        publishes = publisher(SecretStr(through))
        async with running(publishes.run()):
            await publishes.wait_ready()
            assert await publishes.publish([dispatch()]) == [True]
            proxy.freeze()
            outstanding = asyncio.create_task(publishes.publish([dispatch()] * 300))
            await asyncio.sleep(0.2)
            proxy.cut()
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await outstanding == [False] * 300
            assert not publishes.ready
            assert await publishes.publish([dispatch()]) == [False]
            await until(lambda: publishes.trouble is not None)
            proxy.heal()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await publishes.wait_ready()
            assert await publishes.publish([dispatch()]) == [True]


async def test_a_broker_that_does_not_confirm_is_given_no_more(
    url: SecretStr, connection: AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an alarm for memory or disk: it may last for hours, and must not pile up copies."""
    monkeypatch.setattr(publishing, "PUBLISH_SECONDS_MAX", 0.5)
    async with proxied(url.get_secret_value()) as (proxy, through):
        publishes = publisher(SecretStr(through))
        async with running(publishes.run()):
            await publishes.wait_ready()
            assert await publishes.publish([dispatch("mail")]) == [True]
            proxy.freeze()
            again = [dispatch("mail") for _ in range(400)]
            loop = asyncio.get_running_loop()
            begun = loop.time()
            assert await publishes.publish(again) == [False] * 400
            assert loop.time() - begun > 0.4
            assert not publishes.ready
            assert str(publishes.trouble).startswith("the broker confirms nothing")
            monkeypatch.setattr(publishing, "PUBLISH_SECONDS_MAX", 100.0)
            async with asyncio.timeout(PATIENCE_SECONDS):  # nothing is waited for
                for _ in range(20):
                    assert await publishes.publish(again) == [False] * 400
            proxy.heal()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await publishes.wait_ready()
            assert not publishes.trouble
            assert await publishes.publish([dispatch("mail")]) == [True]
            count = await publishes.ready_count("mail")
            assert count is not None
            assert count <= 1 + 256 + 1


async def test_a_timeout_with_nothing_at_the_broker_leaves_the_way_open(
    url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no confirmation would ever come to open it again."""
    monkeypatch.setattr(publishing, "PUBLISH_SECONDS_MAX", 0.0)
    publishes = publisher(url)
    async with running(publishes.run()):
        await publishes.wait_ready()
        await publishes.publish([dispatch()])
        monkeypatch.setattr(publishing, "PUBLISH_SECONDS_MAX", 5.0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await publishes.publish([dispatch()]) != [True]:
                await publishes.wait_ready()


async def test_a_mismatched_queue_does_not_hold_up_the_others(
    url: SecretStr, connection: AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "MISMATCH_SECONDS", 0.3)
    channel, _ = await open_channel(connection)
    await channel.declare_queue(job_queue("wrong"), durable=True)
    publishes = publisher(url)
    async with running(publishes.run()):
        await publishes.wait_ready()
        both = [dispatch("wrong"), dispatch("mail")]
        assert await publishes.publish(both) == [False, True]
        assert await publishes.publish(both) == [False, True]
        assert "x-" in publishes.mismatches["wrong"].difference
        assert publishes.ready
        await channel.queue_delete(job_queue("wrong"))
        await asyncio.sleep(0.35)
        assert await publishes.publish(both) == [True, True]
        assert not publishes.mismatches


async def test_nothing_is_published_before_there_is_a_connection(url: SecretStr) -> None:
    publishes = publisher(url)
    assert await publishes.publish([dispatch()]) == [False]
    assert await publishes.publish([]) == []
    assert await publishes.ready_count("mail") is None
    assert publishes.trouble == "not connected yet"


async def test_a_cancelled_publish_leaves_the_publisher_sound(url: SecretStr) -> None:
    publishes = publisher(url)
    async with running(publishes.run()):
        await publishes.wait_ready()
        task = asyncio.create_task(publishes.publish([dispatch()] * 1_000))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await publishes.publish([dispatch()] * 100) == [True] * 100


async def test_the_headers_carry_the_publish_span_below_the_jobs_own(
    url: SecretStr, connection: AbstractConnection
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    stored = trace_context.new(sampled=True)
    traced = dispatch("mail", traceparent=stored.traceparent, tracestate="vendor=1")
    publishes = publisher(url, Telemetry(provider))
    async with running(publishes.run()):
        await publishes.wait_ready()
        assert await publishes.publish([traced, dispatch("mail")]) == [True, True]
    (span,) = exporter.get_finished_spans()
    assert span.name == "publish headway.jobs"
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == stored.span_id
    assert span.attributes is not None
    assert UUID(str(span.attributes["headway.job.id"])) == traced.job_id
    messages = await take(connection, job_queue("mail"), 2)
    delivered = [decode(message) for message in messages]
    (linked,) = [
        one
        for one in delivered
        if isinstance(one, Delivered) and one.context and one.context.sampled
    ]
    assert linked.context is not None
    assert span.context is not None
    assert linked.context.span_id == f"{span.context.span_id:016x}"
    assert linked.context.trace_id == stored.trace_id
    assert linked.context.tracestate == "vendor=1"
