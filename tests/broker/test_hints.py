"""Hints arrive soon, cost little, and are lost in order when there are too many."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from uuid import UUID, uuid4

import orjson
import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from pydantic import SecretStr

from headway_core import hints as hints_module
from headway_core.broker import open_channel
from headway_core.hints import (
    CancelHint,
    EventHint,
    Hint,
    HintListener,
    HintLoss,
    HintPublisher,
    OutboxHint,
    ProgressHint,
)
from headway_core.job import Progress
from headway_core.topology import HINTS_EXCHANGE, declare_hints
from tests.broker.conftest import running, until
from tests.service.proxy import proxied

JOB = "0199f0a1-7c1e-7000-8000-000000000001"


class Ears:
    """A listener that keeps what it heard."""

    def __init__(self, url: SecretStr) -> None:
        self.heard: list[Hint] = []
        self.subscriptions = 0
        self.lost: Counter[HintLoss] = Counter()
        self.listener = HintListener(
            url,
            name="test ears",
            callback=self.heard.append,
            on_reconnect=self._count,
            lost=self._count_lost,
        )

    def _count_lost(self, why: HintLoss, count: int) -> None:
        self.lost[why] += count

    def _count(self) -> None:
        self.subscriptions += 1


def mouth(url: SecretStr) -> HintPublisher:
    return HintPublisher(url, name="test mouth")


def progress(done: float) -> Progress:
    return Progress(update_time=datetime.now(UTC), done=done, total=10, step="a", message="é 雪")


async def test_every_kind_of_hint_reaches_every_listener(url: SecretStr) -> None:
    first, second, publishes = Ears(url), Ears(url), mouth(url)
    job_id = uuid4()
    sent: list[Hint] = [
        EventHint(job_id, 7, done=True),
        ProgressHint(job_id, 3, progress(4)),
        CancelHint(job_id),
        OutboxHint(),
    ]
    async with running(first.listener.run(), second.listener.run(), publishes.run()):
        await until(lambda: first.listener.connected and second.listener.connected)
        for hint in sent:
            publishes.send(hint)
        await until(lambda: len(first.heard) == len(second.heard) == 4)
    assert first.heard == second.heard == sent
    assert first.subscriptions == 1


async def test_the_newest_word_replaces_older_ones_that_have_not_left(url: SecretStr) -> None:
    ears, publishes = Ears(url), mouth(url)
    job_id, other = uuid4(), uuid4()
    async with running(ears.listener.run(), publishes.run()):
        await until(lambda: ears.listener.connected and publishes.connected)
        for step in range(100):
            publishes.send(ProgressHint(job_id, 2, progress(step)))
            publishes.send(EventHint(job_id, step, done=False))
            publishes.send(OutboxHint())
        publishes.send(ProgressHint(job_id, 1, progress(1000)))
        publishes.send(EventHint(job_id, 5, done=False))
        publishes.send(EventHint(other, 1, done=False))
        await until(lambda: len(ears.heard) >= 4)
        await asyncio.sleep(0.05)
    by_kind = {(type(hint), getattr(hint, "job_id", None)): hint for hint in ears.heard}
    assert len(ears.heard) == len(by_kind) == 4
    newest = by_kind[ProgressHint, job_id]
    assert isinstance(newest, ProgressHint)
    assert (newest.run_epoch, newest.progress.done) == (2, 99)
    assert by_kind[EventHint, job_id] == EventHint(job_id, 99, done=False)


@pytest.mark.alone
async def test_a_hint_takes_milliseconds(url: SecretStr) -> None:
    ears, publishes = Ears(url), mouth(url)
    loop = asyncio.get_running_loop()
    delays = []
    async with running(ears.listener.run(), publishes.run()):
        await until(lambda: ears.listener.connected and publishes.connected)
        for sequence in range(1, 31):
            begun = loop.time()
            publishes.send(EventHint(uuid4(), sequence, done=False))
            await until(lambda: len(ears.heard) >= sequence)  # noqa: B023 -- called at once
            delays.append(loop.time() - begun)
    assert sorted(delays)[15] < 0.05, delays


async def test_the_first_and_the_last_word_about_a_short_job_leave_at_once(
    url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three messages after a pause, no more before the next window: each costs every listener."""
    scale = 3_600 / hints_module.WINDOW_SECONDS
    monkeypatch.setattr(hints_module, "WINDOW_SECONDS", hints_module.WINDOW_SECONDS * scale)
    monkeypatch.setattr(hints_module, "BURST_SECONDS", hints_module.BURST_SECONDS * scale)
    ears, publishes = Ears(url), mouth(url)
    async with running(ears.listener.run(), publishes.run()):
        await until(lambda: ears.listener.connected and publishes.connected)
        for sequence in range(1, 4):
            publishes.send(EventHint(UUID(JOB), sequence, done=False))
            await until(lambda: len(ears.heard) == sequence)  # noqa: B023 -- called at once
        publishes.send(EventHint(UUID(JOB), 4, done=True))
        await asyncio.sleep(0.1)
        assert publishes._pending


async def test_a_burst_leaves_in_few_messages(
    url: SecretStr, connection: AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ears, publishes = Ears(url), mouth(url)
    messages = []
    passed_on = HintListener._pass_on

    def noting(self: HintListener, body: bytes) -> None:
        messages.append(body)
        passed_on(self, body)

    monkeypatch.setattr(HintListener, "_pass_on", noting)
    async with running(ears.listener.run(), publishes.run()):
        await until(lambda: ears.listener.connected and publishes.connected)
        for sequence in range(1_000):
            publishes.send(EventHint(uuid4(), sequence, done=False))
        await until(lambda: len(ears.heard) == 1_000)
    assert len(messages) <= 12
    sequences = [hint.sequence for hint in ears.heard if isinstance(hint, EventHint)]
    assert sequences == sorted(sequences)


async def test_what_waits_to_be_sent_is_bounded_and_the_oldest_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hints_module, "PENDING_MAX", 3)
    lost: list[tuple[HintLoss, int]] = []
    publishes = HintPublisher(
        SecretStr("amqp://x/"), name="test", lost=lambda *loss: lost.append(loss)
    )
    for sequence in range(5):
        publishes.send(EventHint(UUID(int=sequence), sequence, done=False))
    assert lost == [(HintLoss.DROPPED, 1)] * 2
    assert [hint.sequence for hint in publishes._take() if isinstance(hint, EventHint)] == [2, 3, 4]


@pytest.mark.parametrize(
    ("body", "malformed"),
    [
        (b"", 1),
        (b"not json", 1),
        (b"{}", 1),
        (b'"event"', 1),
        (b"[" * 2000 + b"]" * 2000, 1),
        (b"x" * 2_000_000, 1),
        (b'["outbox"]', 1),
        (orjson.dumps([["event", "no-uuid", 1, True]]), 1),
        (orjson.dumps([["event", JOB, True, True]]), 1),
        (orjson.dumps([["event", JOB, "1", True]]), 1),
        (orjson.dumps([["event", JOB, 1]]), 1),
        (orjson.dumps([["progress", JOB, 1, [1, 2]]]), 1),
        (orjson.dumps([["progress", JOB, 1, [1e300, 0, 0, 0, "", "", 0]]]), 1),
        (orjson.dumps([["progress", JOB, 1, [1, 0, 0, 0, "", "", 1e300]]]), 1),
        (orjson.dumps([["progress", JOB, 1, ["x", 0, 0, 0, "", "", 1]]]), 1),
        (orjson.dumps([["cancel"], ["unknown", 1], None, 3]), 4),
        (b"[]", 0),
    ],
)
async def test_what_strangers_send_is_counted_and_ignored(
    url: SecretStr, connection: AbstractConnection, body: bytes, malformed: int
) -> None:
    ears = Ears(url)
    async with running(ears.listener.run()):
        await until(lambda: ears.listener.connected)
        channel, _ = await open_channel(connection)
        exchange = await channel.get_exchange(HINTS_EXCHANGE)
        for sent in (body, b'[["outbox"]]'):
            await exchange.publish(Message(sent), routing_key="")
        await until(lambda: len(ears.heard) == 1)
    assert ears.heard == [OutboxHint()]
    assert ears.lost[HintLoss.MALFORMED] == malformed


async def test_a_malformed_hint_takes_no_sound_one_with_it(
    url: SecretStr, connection: AbstractConnection
) -> None:
    ears = Ears(url)
    async with running(ears.listener.run()):
        await until(lambda: ears.listener.connected)
        channel, _ = await open_channel(connection)
        exchange = await channel.get_exchange(HINTS_EXCHANGE)
        await exchange.publish(Message(b'[["outbox"], ["nonsense"], ["outbox"]]'), routing_key="")
        await until(lambda: len(ears.heard) == 2)
    assert ears.lost[HintLoss.MALFORMED] == 1


async def test_a_lost_subscription_comes_back_and_says_so(url: SecretStr) -> None:
    """Whoever listens has to look at the truth then: hints were lost meanwhile."""
    async with proxied(url.get_secret_value()) as (proxy, through):
        ears, publishes = Ears(SecretStr(through)), mouth(SecretStr(through))
        async with running(ears.listener.run(), publishes.run()):
            await until(lambda: ears.subscriptions == 1 and publishes.connected)
            proxy.cut()
            await until(lambda: not ears.listener.connected and not publishes.connected)
            job_id = uuid4()
            publishes.send(EventHint(job_id, 1, done=False))
            proxy.heal()
            await until(lambda: ears.subscriptions == 2 and publishes.connected)
            publishes.send(EventHint(job_id, 2, done=True))
            await until(lambda: EventHint(job_id, 2, done=True) in ears.heard)


async def test_a_listener_whose_queue_is_deleted_subscribes_anew(
    url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker cancels the consumer and keeps the channel: silence, for who does not watch."""
    names = []

    async def noting(channel: AbstractChannel) -> AbstractQueue:
        queue = await declare_hints(channel)
        names.append((channel, queue.name))
        return queue

    monkeypatch.setattr(hints_module, "declare_hints", noting)
    ears = Ears(url)
    async with running(ears.listener.run()):
        await until(lambda: ears.subscriptions == 1)
        channel, name = names[0]
        await channel.queue_delete(name)
        await until(lambda: ears.subscriptions == 2)


async def test_a_callback_that_raises_ends_the_listener(url: SecretStr) -> None:
    def fail(hint: Hint) -> None:
        raise LookupError("ours")

    listener = HintListener(url, name="test", callback=fail, on_reconnect=lambda: None)
    publishes = mouth(url)

    async def hear_one() -> None:
        async with running(listener.run(), publishes.run()):
            await until(lambda: listener.connected and publishes.connected)
            publishes.send(OutboxHint())
            await asyncio.sleep(10)

    with pytest.raises(ExceptionGroup) as caught:
        await hear_one()
    assert caught.group_contains(LookupError)
