"""Deliveries from the broker: taken, handed over, acked. The only file that acks.

One channel on a connection of its own, rebuilt on loss. How many deliveries each queue may have
out to us is the credit ledger's business (credit.py): with one queue that is one consumer whose
prefetch is the number of slots, so that the broker's priorities are strict; with several, shares
follow the demand.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import count
from typing import Final, Never

import structlog
from aiormq.abc import AbstractChannel as Channel
from pydantic import SecretStr

from headway_core.broker import BrokerConnection, Session, open_channel
from headway_core.broker_border import broker_border
from headway_core.errors import BrokerUnavailable, TopologyMismatch
from headway_core.failpoints import failpoint
from headway_core.topology import Topology
from headway_worker.acks import Ack, AckLedger, Reject
from headway_worker.balance import balance
from headway_worker.credit import CreditLedger
from headway_worker.deliveries import Delivery
from headway_worker.holdings import Holdings
from headway_worker.inlet import Inlet
from headway_worker.pauses import Pauses, Reason

COALESCE_SECONDS: Final = 0.005
"""Freed slots are gathered this long before their credit is dealt out again."""
LOOKS_PER_HANDOFF: Final = 8
LOOK_SECONDS_MAX: Final = 5.0

log = structlog.get_logger(__name__)


class Consumer:
    """Deliveries of the given queues, never more at a time than there are free slots.

    Each is handed to `intake` (sync, on the loop), whose task then owns it and ends with exactly
    one `ack`, `reject` or `abandon`, whatever has become of it meanwhile; only that frees the
    slot.
    """

    def __init__(
        self,
        url: SecretStr,
        *,
        name: str,
        queues: Sequence[str],
        slots: int,
        handoff: timedelta,
        intake: Callable[[Delivery], None],
        trouble: Callable[[str], None],
    ) -> None:
        """`trouble` is told when nothing can be consumed because a queue has other properties."""
        self._queues = tuple(queues)
        self._intake = intake
        self._trouble = trouble
        self._handoff_seconds = handoff.total_seconds()
        self._session = Session(url, name=name, use=self._use)
        self._credit = CreditLedger(slots, self._queues)
        self._holdings = Holdings(self._credit)
        self._numbers = count(1)
        self._acks_wanted = asyncio.Event()
        self._pauses = Pauses()
        self._wake = asyncio.Event()
        self._settled = asyncio.Condition()
        self.consuming = asyncio.Event()
        """Set while every share has its consumer."""

    async def run(self) -> Never:
        """Consume until cancelled."""
        await self._session.run()

    @property
    def held(self) -> int:
        """Deliveries in hand."""
        return len(self._holdings)

    def claimed(self, delivery: Delivery) -> None:
        """The claim is committed, so the delivery may be handed off when it gets old."""
        delivery.claimed_at = asyncio.get_running_loop().time()

    def settling(self, delivery: Delivery) -> bool:
        """The end is being written: no hand-off from now on. Returns whether it is in hand."""
        delivery.settling = True
        return delivery.in_hand

    def ack(self, delivery: Delivery) -> None:
        """Be done with a delivery whose job a commit has made recoverable without it."""
        self._end(delivery, rejected=False)

    def reject(self, delivery: Delivery) -> None:
        """Be done with the delivery of a DEAD job: the broker's dead-letter exchange takes it."""
        self._end(delivery, rejected=True)

    def abandon(self, delivery: Delivery) -> None:
        """Be done with a delivery that others shall have, when the channel is closed."""
        self._holdings.abandon(delivery)
        self._wake.set()

    def quiet(self, reason: Reason) -> None:
        """Take nothing new until `resume(reason)`; what is in hand stays there."""
        self._pauses.be_quiet(reason)
        self._wake.set()

    def close(self, reason: Reason) -> None:
        """Give everything in hand back to the broker, and take nothing until `resume(reason)`.

        Runs go on: their jobs are recoverable without a delivery, whose copies are no-ops
        elsewhere.
        """
        self._pauses.close(reason)
        self._wake.set()

    def resume(self, reason: Reason) -> None:
        """Consume again, unless another reason stands against it."""
        self._pauses.resume(reason)
        self._wake.set()

    async def wait_quiet(self) -> None:
        """Wait until nothing new can come: after `quiet`, when the broker has confirmed it."""
        async with self._settled:
            await self._settled.wait_for(lambda: not self._credit.consumers)

    async def wait_acks_written(self) -> None:
        """Wait until every ack so far is on its way, or its channel is gone."""
        async with self._settled:
            await self._settled.wait_for(lambda: not self._holdings.acks.pending)

    def _end(self, delivery: Delivery, *, rejected: bool) -> None:
        self._holdings.end(delivery, rejected=rejected)
        self._acks_wanted.set()
        if self._credit.uncovered:
            self._wake.set()

    async def _use(self, connection: BrokerConnection) -> None:
        topology = Topology(connection)
        while True:
            await self._pauses.wait_open()
            try:
                for queue in self._queues:
                    await topology.declare(queue)
            except TopologyMismatch as error:
                self._trouble(str(error))
                raise
            await self._serve(connection, topology)

    async def _serve(self, connection: BrokerConnection, topology: Topology) -> None:
        """Consume on one channel until we close it. BrokerUnavailable: the broker did."""
        opened, closed = await open_channel(connection, confirms=False)
        channel = await opened.get_underlay_channel()
        acks = self._holdings.acks
        inlet = Inlet(channel, self._holdings, intake=self._intake, refused=self._acks_wanted.set)
        connection.directs[channel.number] = inlet.direct

        async def watch() -> None:
            raise BrokerUnavailable(f"the consuming channel closed: {await closed}")

        def cancelled_by_broker(_frame: object) -> None:
            if not closed.done():
                closed.set_result("the broker cancelled a consumer")

        channel.on_consumer_cancel_callbacks.add(cancelled_by_broker)
        try:
            async with asyncio.TaskGroup() as group:
                side_tasks = [
                    group.create_task(watch()),
                    group.create_task(self._write_acks(channel, acks)),
                ]
                if len(self._queues) > 1:
                    balancing = balance(
                        topology,
                        self._credit,
                        changed=self._wake.set,
                        idle=lambda: self._pauses.quiet,
                    )
                    side_tasks.append(group.create_task(balancing))
                await self._deal_until_closed(inlet)
                for task in side_tasks:
                    task.cancel()
            await self._write(channel, acks)
        finally:
            del connection.directs[channel.number]
            self.consuming.clear()
            self._pauses.close_wanted = False
            self._holdings.channel_lost()
            await self._tell()
            with suppress(BrokerUnavailable), broker_border("close the consuming channel"):
                await opened.close()

    async def _deal_until_closed(self, inlet: Inlet) -> None:
        """Adjust the consumers to the ledger, whenever a slot without a consumer is freed."""
        look_seconds = min(self._handoff_seconds / LOOKS_PER_HANDOFF, LOOK_SECONDS_MAX)
        while not self._pauses.close_wanted:
            self._wake.clear()
            await self._hand_off(inlet)
            await self._deal(inlet)
            await self._tell()
            with suppress(TimeoutError):  # then it is time to look for old deliveries
                async with asyncio.timeout(look_seconds):
                    await self._wake.wait()
                await asyncio.sleep(COALESCE_SECONDS)

    async def _deal(self, inlet: Inlet) -> None:
        quiet = self._pauses.quiet
        for tag in list(self._credit.consumers) if quiet else self._credit.to_cancel():
            await self._cancel(inlet, tag)
        if self._pauses.quiet:
            return
        for queue, credit in self._credit.to_open():
            # A new tag each time: deliveries of an old one may still be under way.
            tag = f"headway-{next(self._numbers)}"
            self._credit.opened(tag, queue, credit)
            await inlet.consume(tag, queue, credit)
        if not self._credit.uncovered:
            self.consuming.set()

    async def _cancel(self, inlet: Inlet, tag: str) -> None:
        await inlet.cancel(tag)
        self._credit.closed(tag)

    async def _hand_off(self, inlet: Inlet) -> None:
        """Ack old deliveries while their jobs run on, so that no consumer_timeout strikes.

        The claim's commit and the lease make these jobs recoverable. Their slots stay taken.
        """
        oldest = asyncio.get_running_loop().time() - self._handoff_seconds
        due = self._holdings.begin_hand_off(claimed_before=oldest)
        if not due:
            return
        # Cancelled first: an ack returns credit to a live consumer, which would take one more
        # delivery than there are slots.
        for tag in {delivery.consumer_tag for delivery in due} & self._credit.consumers.keys():
            await self._cancel(inlet, tag)
        await failpoint("before_handoff_ack")
        for delivery in due:
            self._holdings.hand_off(delivery)
            log.debug("delivery_handed_off", job_id=str(delivery.job_id))
        self._acks_wanted.set()

    async def _write_acks(self, channel: Channel, acks: AckLedger) -> None:
        while True:
            await self._acks_wanted.wait()
            self._acks_wanted.clear()
            await self._write(channel, acks)
            await failpoint("after_ack")
            await self._tell()

    async def _write(self, channel: Channel, acks: AckLedger) -> None:
        frames = acks.take()
        with broker_border("ack"):
            for frame in frames:
                # The socket is waited for once; what comes meanwhile shares the next write.
                wait = frame is frames[-1]
                match frame:
                    case Ack(tag, multiple):
                        await channel.basic_ack(tag, multiple=multiple, wait=wait)
                    case Reject(tag):
                        await channel.basic_reject(tag, requeue=False, wait=wait)
        acks.written()

    async def _tell(self) -> None:
        async with self._settled:
            self._settled.notify_all()
