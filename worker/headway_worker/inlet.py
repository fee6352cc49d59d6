"""Where the deliveries of one channel come in, in the order in which the broker sent them."""

from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from aiormq.abc import AbstractChannel as Channel
from aiormq.abc import DeliveredMessage

from headway_core.broker_border import broker_border
from headway_core.messages import Malformed
from headway_core.topology import job_queue
from headway_worker.deliveries import Delivery, read_delivery, read_written
from headway_worker.holdings import Holdings

log = structlog.get_logger(__name__)


class Inlet:
    """Hands deliveries to `intake`, and what is none to the dead queue.

    What is written just as our relay writes it comes directly from the connection's reader. The
    rest comes by way of aiormq, some turns of the loop later. Nothing overtakes it meanwhile, since
    the acks count on rising tags: of a channel's deliveries only the next one is taken directly.
    """

    def __init__(
        self,
        channel: Channel,
        holdings: Holdings,
        *,
        intake: Callable[[Delivery], None],
        refused: Callable[[], None],
    ) -> None:
        """`refused` is told when there is something to reject or to drop."""
        self._channel = channel
        self._holdings = holdings
        self._acks = holdings.acks
        self._intake = intake
        self._refused = refused
        self._queues: dict[bytes, str] = {}

    async def consume(self, consumer_tag: str, queue: str, credit: int) -> None:
        """Begin a consumer that takes `credit` deliveries at a time. Raises BrokerUnavailable."""
        self._queues[consumer_tag.encode()] = queue
        with broker_border(f"consume {queue}"):
            await self._channel.basic_qos(prefetch_count=credit)
            await self._channel.basic_consume(
                job_queue(queue), self._receiver(consumer_tag, queue), consumer_tag=consumer_tag
            )

    async def cancel(self, consumer_tag: str) -> None:
        """End a consumer: nothing of it comes any more. Raises BrokerUnavailable."""
        # Never nowait: aiormq would drop what is still being delivered. And no timeout: aiormq
        # closes the channel of a cancelled call.
        with broker_border("cancel a consumer"):
            await self._channel.basic_cancel(consumer_tag)
        del self._queues[consumer_tag.encode()]

    def direct(self, consumer_tag: bytes, tag: int, properties: bytes, body: bytes) -> bool:
        """Take a delivery before aiormq does, if it is one of ours; see buffered_frames.Direct."""
        queue = self._queues.get(consumer_tag)
        if queue is None or self._given_up or tag != self._acks.last + 1:
            return False
        named = consumer_tag.decode()
        delivery = read_written(properties, body, tag=tag, consumer_tag=named, queue=queue)
        if delivery is None:
            return False
        try:
            self._take(delivery)
        except Exception:
            log.exception("delivery_not_taken")  # aiormq ends the connection and does not say why
            raise
        return True

    @property
    def _given_up(self) -> bool:
        return self._acks is not self._holdings.acks

    def _take(self, delivery: Delivery) -> None:
        self._holdings.take(delivery)
        self._intake(delivery)

    def _receiver(
        self, consumer_tag: str, queue: str
    ) -> Callable[[DeliveredMessage], Coroutine[Any, Any, None]]:
        """What aiormq calls for each delivery that it gets, in a task that a closing channel
        cancels: so it only hands over.
        """

        async def receive(message: DeliveredMessage) -> None:
            tag = message.delivery_tag
            if self._given_up or tag is None:
                return
            match read_delivery(message, tag=tag, consumer_tag=consumer_tag, queue=queue):
                case Malformed(reason, movable):
                    # Rejected if it can be: an operator finds it in the dead queue, with x-death.
                    log.error("message_malformed", queue=queue, reason=reason, dropped=not movable)
                    self._holdings.refuse(tag, consumer_tag, queue, rejected=movable)
                    self._refused()
                case delivery:
                    self._take(delivery)

        return receive
