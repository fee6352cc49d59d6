"""Put dispatches into the broker's hands, and know which of them it has.

The connection is used for nothing else: an alarm for memory or disk space at the broker blocks it,
and must block neither acks nor hints.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Final, Never

import structlog
from aio_pika.abc import AbstractConnection
from pydantic import SecretStr

from headway_core import messages
from headway_core.broker import Session, open_channel
from headway_core.confirming import Confirmation, ConfirmChannel, Outgoing
from headway_core.errors import BrokerUnavailable, TopologyMismatch
from headway_core.job import Dispatch
from headway_core.metrics import Metrics, Publish
from headway_core.spans import PublishSpan
from headway_core.telemetry import Telemetry
from headway_core.topology import DEAD_EXCHANGE, JOBS_EXCHANGE, Topology

LANES: Final = 4
"""Batches that are with the broker at the same time."""
BATCH_MAX: Final = 64
"""Times LANES this is what may be unconfirmed: 256, so that heartbeats find room between them."""
WAITING_MAX: Final = 8_192
"""Dispatches that may wait for a lane; more are turned away."""
PUBLISH_SECONDS_MAX: Final = 5.0
SILENCE_SECONDS_MAX: Final = 20.0
"""A broker that confirms nothing for so long, and does not say that an alarm blocks it, is given
another connection: what it was given may be published twice, once in such a time."""
SILENCE_LOOK_SECONDS: Final = 1.0
MISMATCH_SECONDS: Final = 5.0
"""How long a queue with other properties is left alone before it is looked at again."""

RESULTS: Final[Mapping[Confirmation, Publish]] = {
    Confirmation.CONFIRMED: Publish.CONFIRMED,
    Confirmation.RETURNED: Publish.RETURNED,
    Confirmation.REFUSED: Publish.REFUSED,
    Confirmation.LOST: Publish.LOST,
}

log = structlog.get_logger(__name__)


class Publisher:
    """Publishes dispatches with confirms. `run` belongs into the process's TaskGroup."""

    def __init__(
        self, url: SecretStr, *, name: str, telemetry: Telemetry, metrics: Metrics
    ) -> None:
        self._session = Session(url, name=name, use=self._use)
        self._telemetry = telemetry
        self._metrics = metrics
        self._waiting: deque[_Try] = deque()
        self._arrived = asyncio.Event()
        self._flowing = asyncio.Event()
        self._in_flight = 0
        self._topology: Topology | None = None
        self._mismatches: dict[str, _Mismatch] = {}

    async def run(self) -> Never:
        """Keep the connection, and publish over it what `publish` is given."""
        await self._session.run()

    @property
    def ready(self) -> bool:
        """Whether a publish has good prospects: there is a connection, and the broker confirms."""
        return self._flowing.is_set()

    async def wait_ready(self) -> None:
        """Wait until `ready`. A relay does, before it takes rows out of the outbox."""
        await self._flowing.wait()

    @property
    def trouble(self) -> str | None:
        """Why not `ready`, in one line without secrets."""
        if self.ready:
            return None
        return self._session.trouble or "the broker confirms nothing (a memory or disk alarm?)"

    @property
    def mismatches(self) -> Mapping[str, TopologyMismatch]:
        """Queues that cannot be published to, since they exist with other properties."""
        return {queue: mismatch.error for queue, mismatch in self._mismatches.items()}

    async def publish(self, dispatches: Sequence[Dispatch]) -> list[bool]:
        """Publish; True for each that the broker has confirmed. Takes PUBLISH_SECONDS_MAX at most.

        False means that it may or may not be with the broker: publish it again later, with the same
        dispatch_no. Trouble with the broker is never raised; when not `ready`, all are False at
        once.
        """
        if not dispatches:
            return []
        if not self.ready or len(self._waiting) + len(dispatches) > WAITING_MAX:
            self._metrics.published(Publish.NOT_SENT, len(dispatches))
            return [False] * len(dispatches)
        call = _Call(len(dispatches))
        self._waiting.extend(
            _Try(call, index, dispatch, self._telemetry.publish_span(dispatch))
            for index, dispatch in enumerate(dispatches)
        )
        self._arrived.set()
        try:
            async with asyncio.timeout(PUBLISH_SECONDS_MAX):
                await call.settled.wait()
        except TimeoutError:
            # What is written stays in its lane until the broker speaks, so that an alarm of an
            # hour does not pile up copies; the first confirmation opens the way again.
            if self._in_flight:
                self._flowing.clear()
            log.warning("publish_timed_out", unconfirmed=call.results.count(None))
        finally:
            call.abandoned = True
        answers = [result is Publish.CONFIRMED for result in call.results]
        self._metrics.published(Publish.CONFIRMED, sum(answers))
        if not all(answers):
            others = Counter(result or Publish.LOST for result in call.results)
            del others[Publish.CONFIRMED]
            for result, count in others.items():
                self._metrics.published(result, count)
        return answers

    async def ready_count(self, queue: str) -> int | None:
        """Count the messages waiting at the broker. None: it is away, or has no such queue."""
        if self._topology is None:
            return None
        try:
            return await self._topology.ready_count(queue)
        except BrokerUnavailable:
            return None

    async def _use(self, connection: AbstractConnection) -> None:
        channel, closed = await open_channel(connection)
        confirming = await ConfirmChannel.on(channel)
        self._topology = Topology(connection)
        self._in_flight = 0
        self._flowing.set()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(LANES):
                    group.create_task(self._lane(confirming, self._topology))
                group.create_task(self._watch_silence(connection))
                raise BrokerUnavailable(f"the channel for publishing closed: {await closed}")
        finally:
            self._flowing.clear()
            self._topology = None
            while self._waiting:
                self._waiting.popleft().end(Publish.NOT_SENT)

    async def _watch_silence(self, connection: AbstractConnection) -> Never:
        loop = asyncio.get_running_loop()
        silent_since = loop.time()
        while True:
            await asyncio.sleep(SILENCE_LOOK_SECONDS)
            if self.ready or not self._in_flight or await _is_blocked(connection):
                silent_since = loop.time()
            elif loop.time() - silent_since > SILENCE_SECONDS_MAX:
                raise BrokerUnavailable(f"no confirm within {SILENCE_SECONDS_MAX:g} s")

    async def _lane(self, channel: ConfirmChannel, topology: Topology) -> Never:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._take()
            try:
                await self._declare({one.dispatch.queue for one in batch}, topology)
                routable = [one for one in batch if one.dispatch.queue not in self._mismatches]
                self._in_flight += len(routable)
                results = await channel.publish([one.outgoing() for one in routable])
                self._in_flight -= len(routable)
                for one, result in zip(routable, results, strict=True):
                    self._conclude(one, result, topology)
            finally:
                # The rest: of a queue that cannot be published to, or the connection is lost.
                for one in batch:
                    one.end(Publish.LOST)

    def _take(self) -> "list[_Try]":
        batch: list[_Try] = []
        while self._waiting and len(batch) < BATCH_MAX:
            one = self._waiting.popleft()
            if one.call.abandoned:
                one.end(Publish.NOT_SENT)
            else:
                batch.append(one)
        return batch

    def _conclude(self, one: "_Try", result: Confirmation, topology: Topology) -> None:
        if result is Confirmation.RETURNED:
            # Somebody deleted or unbound the queue: declare it before the next try.
            topology.forget(one.dispatch.queue)
        if result is Confirmation.LOST:
            # The channel has closed, which `_use` is about to learn.
            self._flowing.clear()
        else:
            self._flowing.set()
        confirmed = result is Confirmation.CONFIRMED  # nearly always; an enum's hash takes long
        one.end(Publish.CONFIRMED if confirmed else RESULTS[result])

    async def _declare(self, queues: set[str], topology: Topology) -> None:
        now = asyncio.get_running_loop().time()
        for queue in queues:
            known = self._mismatches.get(queue)
            if topology.knows(queue) or (known and now < known.look_again):
                continue
            try:
                await topology.declare(queue)
            except TopologyMismatch as error:
                self._mismatches[queue] = _Mismatch(error, now + MISMATCH_SECONDS)
                log.error("topology_mismatch", queue=queue, reason=str(error))  # noqa: TRY400 -- no bug
            else:
                self._mismatches.pop(queue, None)


class _Call:
    """What one call of `publish` waits for."""

    def __init__(self, count: int) -> None:
        self.results: list[Publish | None] = [None] * count
        self.settled = asyncio.Event()
        self.abandoned = False
        self._left = count

    def settle(self, index: int, result: Publish) -> None:
        self.results[index] = result
        self._left -= 1
        if not self._left:
            self.settled.set()


class _Try:
    """One try to publish one dispatch."""

    __slots__ = ("_ended", "_index", "_span", "call", "dispatch")

    def __init__(self, call: _Call, index: int, dispatch: Dispatch, span: PublishSpan) -> None:
        self.call = call
        self.dispatch = dispatch
        self._index = index
        self._span = span
        self._ended = False

    def outgoing(self) -> Outgoing:
        return Outgoing(
            DEAD_EXCHANGE if self.dispatch.dead else JOBS_EXCHANGE,
            self.dispatch.queue,
            messages.properties(self.dispatch, self._span.context),
            messages.body(self.dispatch),
        )

    def end(self, result: Publish) -> None:
        """Tell the caller; the first result counts."""
        if self._ended:
            return
        self._ended = True
        self._span.end(None if result is Publish.CONFIRMED else result.value)
        self.call.settle(self._index, result)


class _Mismatch:
    def __init__(self, error: TopologyMismatch, look_again: float) -> None:
        self.error = error
        self.look_again = look_again


async def _is_blocked(connection: AbstractConnection) -> bool:
    """Whether the broker has said that an alarm for memory or disk space blocks this connection."""
    transport = connection.transport
    if transport is None:
        return False
    try:
        # aiormq tells no other way: it waits while the connection is blocked.
        async with asyncio.timeout(0.1):
            await transport.connection.ready()
    except TimeoutError:
        return True
    return False
