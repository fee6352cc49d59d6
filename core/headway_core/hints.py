"""Hints: lossy words from process to process that something may be worth a look.

A hint wakes somebody earlier than its own poll would, or carries progress that nobody needs for
ever. Everything works, if slower, when all of them are lost.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Never
from uuid import UUID

import structlog
from aio_pika import DeliveryMode
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pydantic import SecretStr

from headway_core.broker import BrokerConnection, Session, open_channel
from headway_core.broker_border import broker_border
from headway_core.content import JSON_MEDIA_TYPE
from headway_core.errors import BrokerUnavailable
from headway_core.hint_codec import (
    CancelHint,
    EventHint,
    Hint,
    HintLoss,
    OutboxHint,
    ProgressHint,
    decode,
    encode,
)
from headway_core.topology import declare_hints, declare_hints_exchange

__all__ = [
    "CancelHint",
    "EventHint",
    "Hint",
    "HintListener",
    "HintLoss",
    "HintPublisher",
    "OutboxHint",
    "ProgressHint",
]

WINDOW_SECONDS: Final = 0.002
"""So much lies between two messages on average."""
BURST_SECONDS: Final = 0.004
"""After a pause a message leaves at once, and those for so many windows after it: a short job's
first word and its last."""
BUSY_WINDOW_SECONDS: Final = 0.02
BUSY_HINTS_MIN: Final = 20
"""After a message of so many hints the busy window holds: each message costs every listener."""
PENDING_MAX: Final = 10_000
"""Hints that wait to be sent; beyond it the oldest are dropped."""
HINTS_PER_MESSAGE: Final = 100
UNREAD_MAX: Final = 10_000
"""Messages received and not yet passed on; beyond it the oldest are dropped."""

CountLost = Callable[[HintLoss, int], None]

_Key = tuple[type[Hint], UUID | None]

log = structlog.get_logger(__name__)


def _count_nothing(_why: HintLoss, _count: int) -> None:
    """Nobody asks how many hints are lost."""


class HintPublisher:
    """Sends hints. `run` belongs into the process's TaskGroup."""

    def __init__(self, url: SecretStr, *, name: str, lost: CountLost = _count_nothing) -> None:
        self._session = Session(url, name=name, use=self._use)
        self._lost = lost
        self._pending: dict[_Key, Hint] = {}
        self._arrived = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether hints are leaving."""
        return self._session.connected

    def send(self, hint: Hint) -> None:
        """Send a hint soon, or never. Does not block.

        Of what waits to be sent, the newest word about each job replaces the older ones.
        """
        key = (type(hint), None if isinstance(hint, OutboxHint) else hint.job_id)
        older = self._pending.get(key)
        self._pending[key] = newer(older, hint) if older else hint
        if len(self._pending) > PENDING_MAX:
            del self._pending[next(iter(self._pending))]
            self._lost(HintLoss.DROPPED, 1)
        self._arrived.set()

    async def run(self) -> Never:
        """Keep a connection and send over it what `send` is given."""
        await self._session.run()

    async def _use(self, connection: AbstractConnection) -> None:
        channel, _ = await open_channel(connection, confirms=False)
        exchange = await declare_hints_exchange(channel)
        underlay = await channel.get_underlay_channel()
        loop = asyncio.get_running_loop()
        next_time = float("-inf")
        while True:
            await self._arrived.wait()
            await asyncio.sleep(next_time - loop.time())
            hints = self._take()
            now = loop.time()
            if BUSY_HINTS_MIN <= len(hints) < HINTS_PER_MESSAGE:
                next_time = now + BUSY_WINDOW_SECONDS
            else:
                next_time = max(next_time, now - BURST_SECONDS) + WINDOW_SECONDS
            properties = Basic.Properties(
                content_type=JSON_MEDIA_TYPE, delivery_mode=DeliveryMode.NOT_PERSISTENT
            )
            # No deadline: an alarm at the broker may block this for long, and is no reason to
            # connect anew. Loss of the connection ends it.
            with broker_border("send hints"):
                await underlay.basic_publish(
                    encode(hints), exchange=exchange.name, properties=properties
                )

    def _take(self) -> list[Hint]:
        keys = [key for key, _ in zip(self._pending, range(HINTS_PER_MESSAGE), strict=False)]
        hints = [self._pending.pop(key) for key in keys]
        if not self._pending:
            self._arrived.clear()
        return hints


class HintListener:
    """Receives everybody's hints. `run` belongs into the process's TaskGroup."""

    def __init__(
        self,
        url: SecretStr,
        *,
        name: str,
        callback: Callable[[Hint], None],
        on_reconnect: Callable[[], None],
        lost: CountLost = _count_nothing,
        wanted: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        """Prepare to listen.

        `wanted` looks at a message before it is read (by the `mark` of a hint): everybody hears all
        hints, and most are of no use to most.

        `callback` and `on_reconnect` are called on the loop, one at a time, and must not block;
        what they raise ends `run`. `on_reconnect` is called whenever a subscription begins to
        stand, the first included: hints from before are lost, so look at the truth now.
        """
        self._session = Session(url, name=name, use=self._use)
        self._callback = callback
        self._on_reconnect = on_reconnect
        self._lost = lost
        self._wanted = wanted
        self._subscribed = False

    @property
    def connected(self) -> bool:
        """Whether hints arrive."""
        return self._subscribed and self._session.connected

    async def run(self) -> Never:
        """Keep a connection and pass on what comes over it."""
        await self._session.run()

    async def _use(self, connection: BrokerConnection) -> None:
        unread: asyncio.Queue[bytes | None] = asyncio.Queue()

        def hear(body: bytes) -> None:
            if unread.qsize() >= UNREAD_MAX:
                unread.get_nowait()
                self._lost(HintLoss.DROPPED, 1)
            unread.put_nowait(body)

        def direct(_consumer: bytes, _tag: int, _properties: bytes, body: bytes) -> bool:
            hear(body)
            return True

        async def receive(message: DeliveredMessage) -> None:
            # aiormq runs it as a task that it cancels with the channel: it hands over, no more.
            hear(message.body)

        def stop(_frame: Basic.Cancel | None = None) -> None:
            unread.put_nowait(None)

        channel, closed = await open_channel(connection, confirms=False)
        closed.add_done_callback(lambda _: stop())
        queue = await declare_hints(channel)
        with broker_border("consume hints"):
            underlay = await channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(stop)
            connection.directs[underlay.number] = direct
            await underlay.basic_consume(queue.name, receive, no_ack=True)
        self._subscribed = True
        try:
            self._on_reconnect()
            while (body := await unread.get()) is not None:
                self._pass_on(body)
                await asyncio.sleep(0)  # hundreds of them may be unread
        finally:
            self._subscribed = False
        raise BrokerUnavailable("the queue for hints was taken away")

    def _pass_on(self, body: bytes) -> None:
        if not self._wanted(body):
            return
        hints, malformed = decode(body)
        if malformed:
            self._lost(HintLoss.MALFORMED, malformed)
            log.debug("hints_malformed", count=malformed)
        for hint in hints:
            self._callback(hint)


def newer(older: Hint, hint: Hint) -> Hint:
    """Choose which of two hints of one kind about one job to send."""
    match older, hint:
        case EventHint(), EventHint() if older.sequence > hint.sequence:
            return older
        case ProgressHint(), ProgressHint() if older.run_epoch > hint.run_epoch:
            return older
        case _:
            return hint
