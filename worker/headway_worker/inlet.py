"""Where the deliveries of one channel come in, in the order in which the broker sent them."""

from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from aiormq.abc import DeliveredMessage

from headway_core.messages import Malformed
from headway_worker.deliveries import Delivery, read_delivery, read_written
from headway_worker.holdings import Holdings

log = structlog.get_logger(__name__)


class Inlet:
    """Hands deliveries to `intake`, and what is none to the dead queue.

    What is written just as our relay writes it comes directly from the connection's reader. The
    rest comes by way of aiormq, some turns of the loop later; nothing overtakes it meanwhile, since
    the acks count on rising tags.
    """

    def __init__(
        self, holdings: Holdings, *, intake: Callable[[Delivery], None], refused: Callable[[], None]
    ) -> None:
        """`refused` is told when there is something to reject."""
        self._holdings = holdings
        self._acks = holdings.acks
        self._intake = intake
        self._refused = refused
        self._queues: dict[bytes, str] = {}
        self._under_way = 0
        """Deliveries left to aiormq that have not come yet."""

    def receiver(
        self, consumer_tag: str, queue: str
    ) -> Callable[[DeliveredMessage], Coroutine[Any, Any, None]]:
        """Expect deliveries of a consumer; return what aiormq shall call for each that it gets.

        It does so in a task that a closing channel cancels: so that only hands over.
        """
        self._queues[consumer_tag.encode()] = queue

        async def receive(message: DeliveredMessage) -> None:
            self._under_way -= 1
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

    def direct(self, consumer_tag: bytes, tag: int, properties: bytes, body: bytes) -> bool:
        """Take a delivery before aiormq does, if it is one of ours; see buffered_frames.Direct."""
        queue = self._queues.get(consumer_tag)
        if queue is None or self._given_up:
            return False
        if not self._under_way:
            named = consumer_tag.decode()
            delivery = read_written(properties, body, tag=tag, consumer_tag=named, queue=queue)
            if delivery is not None:
                self._take(delivery)
                return True
        self._under_way += 1
        return False

    def forget(self, consumer_tag: str) -> None:
        """Expect nothing of a consumer any more: the broker has confirmed its end."""
        del self._queues[consumer_tag.encode()]

    @property
    def _given_up(self) -> bool:
        return self._acks is not self._holdings.acks

    def _take(self, delivery: Delivery) -> None:
        self._holdings.take(delivery)
        self._intake(delivery)
