"""A broker message in this worker's hand."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple
from uuid import UUID

from aio_pika.abc import HeadersType
from aiormq.abc import DeliveredMessage

from headway_core.messages import Delivered, Malformed, decode, decode_written
from headway_core.trace_context import TraceContext


class Custody(Enum):
    """Who answers for a delivery's job."""

    BROKER = auto()
    """In hand: if we die, the broker delivers it again."""
    HANDING_OFF = auto()
    """Being acked early; out of every other owner's reach."""
    DATABASE = auto()
    """Acked early, or lost with its channel: the claim's commit and the lease answer for the job.
    """


@dataclass(slots=True, eq=False)
class Delivery:
    """A message and what has become of it. Only the consumer changes it."""

    job_id: UUID
    dispatch_no: int
    context: TraceContext | None
    """The span that published it."""
    queue: str
    tag: int
    consumer_tag: str
    custody: Custody = Custody.BROKER
    claimed_at: float | None = None
    """When its claim was committed (loop time): from then on it may be handed off."""
    settling: bool = False
    """Its end is being written; it is handed off no more."""
    over: bool = False
    """Its owner is done with it: the slot is free."""

    @property
    def in_hand(self) -> bool:
        """Whether acking or rejecting it still means something."""
        return self.custody is Custody.BROKER


class Incoming(NamedTuple):
    """A message as `decode` reads it."""

    body: bytes
    headers: HeadersType


def read_delivery(
    message: DeliveredMessage, *, tag: int, consumer_tag: str, queue: str
) -> Delivery | Malformed:
    """Read what the broker delivered."""
    found = decode(Incoming(message.body, message.header.properties.headers or {}))
    if isinstance(found, Malformed):
        return found
    return _delivery(found, tag=tag, consumer_tag=consumer_tag, queue=queue)


def read_written(
    properties: bytes, body: bytes, *, tag: int, consumer_tag: str, queue: str
) -> Delivery | None:
    """Read what the broker delivered, if it is just as we write it."""
    found = decode_written(properties, body)
    if found is None:
        return None
    return _delivery(found, tag=tag, consumer_tag=consumer_tag, queue=queue)


def _delivery(found: Delivered, *, tag: int, consumer_tag: str, queue: str) -> Delivery:
    return Delivery(
        job_id=found.job_id,
        dispatch_no=found.dispatch_no,
        context=found.context,
        queue=queue,
        tag=tag,
        consumer_tag=consumer_tag,
    )
