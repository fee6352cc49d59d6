"""Deliveries from the broker: taken, handed over, acked. The only file that acks.

One channel on a connection of its own, rebuilt on loss. How many deliveries each queue may have
out to us is the credit ledger's business (credit.py): with one queue that is one consumer whose
prefetch is the number of slots, so that the broker's priorities are strict; with several, shares
follow the demand.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from itertools import count
from typing import Any, Final, Never

import structlog
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel as Channel
from aiormq.abc import DeliveredMessage
from pydantic import SecretStr

from headway_core.broker import Session, open_channel
from headway_core.broker_border import broker_border
from headway_core.errors import BrokerUnavailable, TopologyMismatch
from headway_core.failpoints import failpoint
from headway_core.messages import Malformed
from headway_core.topology import Topology, job_queue
from headway_worker.acks import Ack, AckLedger, Reject
from headway_worker.balance import balance
from headway_worker.credit import CreditLedger
from headway_worker.deliveries import Custody, Delivery, read_delivery
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
        self._numbers = count(1)
        self._acks = AckLedger()
        self._acks_wanted = asyncio.Event()
        self._in_hand: set[Delivery] = set()
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
        return len(self._in_hand)

    def claimed(self, delivery: Delivery) -> None:
        """The claim is committed, so the delivery may be handed off when it gets old."""
        delivery.claimed_at = asyncio.get_running_loop().time()

    def settling(self, delivery: Delivery) -> bool:
        """The end is being written: no hand-off from now on. Returns whether it is in hand."""
        delivery.settling = True
        return delivery.in_hand

    def ack(self, delivery: Delivery) -> None:
        """Be done with a delivery whose job a commit has made recoverable without it."""
        if delivery.in_hand:
            self._acks.ack(delivery.tag)
        self._end(delivery)

    def reject(self, delivery: Delivery) -> None:
        """Be done with the delivery of a DEAD job: the broker's dead-letter exchange takes it."""
        if delivery.in_hand:
            self._acks.reject(delivery.tag)
        self._end(delivery)

    def abandon(self, delivery: Delivery) -> None:
        """Be done with a delivery that others shall have, when the channel is closed."""
        delivery.over = True
        if delivery.custody is Custody.DATABASE:
            self._free_detached(delivery)

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
            await self._settled.wait_for(lambda: not self._acks.pending)

    def _end(self, delivery: Delivery) -> None:
        delivery.over = True
        match delivery.custody:
            case Custody.BROKER:
                self._in_hand.discard(delivery)
                self._credit.freed(delivery.consumer_tag, delivery.queue)
                self._acks_wanted.set()
                if self._credit.uncovered:
                    self._wake.set()
            case Custody.HANDING_OFF:
                pass  # the hand-off acks it and frees the slot
            case Custody.DATABASE:
                self._free_detached(delivery)

    def _free_detached(self, delivery: Delivery) -> None:
        self._credit.detached_freed(delivery.queue)
        self._wake.set()

    async def _use(self, connection: AbstractConnection) -> None:
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

    async def _serve(self, connection: AbstractConnection, topology: Topology) -> None:
        """Consume on one channel until it is closed, by us or by the broker."""
        opened, closed = await open_channel(connection, confirms=False)
        channel = await opened.get_underlay_channel()
        self._acks = acks = AckLedger()

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
                await self._deal_until_closed(channel)
                for task in side_tasks:
                    task.cancel()
            await self._write(channel, acks)
        finally:
            self._forget_channel()
            await self._tell()
            try:
                with broker_border("close the consuming channel"):
                    await opened.close()
            except BrokerUnavailable as error:
                log.debug("channel_close_failed", reason=str(error))

    def _forget_channel(self) -> None:
        """All deliveries are gone; their runs keep their slots."""
        self.consuming.clear()
        self._pauses.close_wanted = False
        self._acks = AckLedger()
        self._credit.channel_lost()
        for delivery in self._in_hand:
            delivery.custody = Custody.DATABASE
            if delivery.over:
                self._credit.detached_freed(delivery.queue)
        self._in_hand.clear()

    async def _deal_until_closed(self, channel: Channel) -> None:
        """Adjust the consumers to the ledger, whenever a slot without a consumer is freed."""
        look_seconds = min(self._handoff_seconds / LOOKS_PER_HANDOFF, LOOK_SECONDS_MAX)
        while not self._pauses.close_wanted:
            self._wake.clear()
            await self._hand_off(channel)
            await self._deal(channel)
            await self._tell()
            try:
                async with asyncio.timeout(look_seconds):
                    await self._wake.wait()
                await asyncio.sleep(COALESCE_SECONDS)
            except TimeoutError:
                pass  # it is time to look for old deliveries

    async def _deal(self, channel: Channel) -> None:
        for tag in self._unwanted():
            await self._cancel(channel, tag)
        if self._pauses.quiet:
            return
        for queue, credit in self._credit.to_open():
            # A new tag each time: deliveries of an old one may still be under way.
            tag = f"headway-{next(self._numbers)}"
            self._credit.opened(tag, queue, credit)
            with broker_border(f"consume {queue}"):
                await channel.basic_qos(prefetch_count=credit)
                await channel.basic_consume(
                    job_queue(queue), self._receiver(self._acks, tag, queue), consumer_tag=tag
                )
        if not self._credit.uncovered:
            self.consuming.set()

    def _unwanted(self) -> list[str]:
        return list(self._credit.consumers) if self._pauses.quiet else self._credit.to_cancel()

    async def _cancel(self, channel: Channel, tag: str) -> None:
        # Never nowait: aiormq would drop what is still being delivered. And no timeout: aiormq
        # closes the channel of a cancelled call.
        with broker_border("cancel a consumer"):
            await channel.basic_cancel(tag)
        self._credit.closed(tag)

    async def _hand_off(self, channel: Channel) -> None:
        """Ack old deliveries while their jobs run on, so that no consumer_timeout strikes.

        The claim's commit and the lease already make these jobs recoverable. Their slots stay
        taken.
        """
        oldest = asyncio.get_running_loop().time() - self._handoff_seconds
        due = [
            delivery
            for delivery in self._in_hand
            if delivery.claimed_at is not None
            and delivery.claimed_at <= oldest
            and not delivery.settling
            and not delivery.over
        ]
        # Out of every other owner's reach before the first await: a second ack would close the
        # channel.
        for delivery in due:
            delivery.custody = Custody.HANDING_OFF
        # Cancelled first: an ack returns credit to a live consumer, which would take one more
        # delivery than there are slots.
        for tag in {delivery.consumer_tag for delivery in due} & self._credit.consumers.keys():
            await self._cancel(channel, tag)
        if due:
            await failpoint("before_handoff_ack")
        for delivery in due:
            delivery.custody = Custody.DATABASE
            self._in_hand.discard(delivery)
            self._acks.ack(delivery.tag)
            self._acks_wanted.set()
            self._credit.detach(delivery.queue)
            if delivery.over:
                self._credit.detached_freed(delivery.queue)
            log.debug("delivery_handed_off", job_id=str(delivery.job_id))

    def _receiver(
        self, acks: AckLedger, consumer_tag: str, queue: str
    ) -> Callable[[DeliveredMessage], Coroutine[Any, Any, None]]:
        """What aiormq calls for each delivery, in a task that a closing channel cancels: so it only
        hands over.
        """

        async def receive(message: DeliveredMessage) -> None:
            tag = message.delivery_tag
            if acks is not self._acks or tag is None:
                return  # of a channel that is given up
            acks.delivered(tag)
            self._credit.delivered(consumer_tag, queue)
            match read_delivery(message, tag=tag, consumer_tag=consumer_tag, queue=queue):
                case Malformed(reason):
                    # Rejected, not acked: an operator finds it in the dead queue, with x-death.
                    log.error("message_malformed", queue=queue, reason=reason)
                    acks.reject(tag)
                    self._acks_wanted.set()
                    self._credit.freed(consumer_tag, queue)
                case delivery:
                    self._in_hand.add(delivery)
                    self._intake(delivery)

        return receive

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
            for number, frame in enumerate(frames, 1):
                last = number == len(
                    frames
                )  # wait for the socket once: what comes meanwhile shares
                match frame:
                    case Ack(tag, multiple):
                        await channel.basic_ack(tag, multiple=multiple, wait=last)
                    case Reject(tag):
                        await channel.basic_reject(tag, requeue=False, wait=last)
        acks.written()

    async def _tell(self) -> None:
        async with self._settled:
            self._settled.notify_all()
