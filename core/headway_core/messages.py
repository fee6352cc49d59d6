"""What travels to the workers: which job, which dispatch, and its trace. Never the payload."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

import orjson
from aio_pika import DeliveryMode
from pamqp.commands import Basic

from headway_core import trace_context
from headway_core.job import Dispatch
from headway_core.trace_context import TraceContext

CONTENT_TYPE: Final = "application/json"
BODY_BYTES_MAX: Final = 256
"""Far more than `body` writes."""
DISPATCH_NO_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message of ours, read."""

    job_id: UUID
    dispatch_no: int
    context: TraceContext | None
    """The publish span: what the process span links to. The job's own context is in its row."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that is none of ours."""

    reason: str


class Incoming(Protocol):
    """What is read of a message; aio-pika's IncomingMessage has it."""

    @property
    def body(self) -> bytes:
        """All of it."""

    @property
    def headers(self) -> Mapping[str, object]:
        """The AMQP headers table."""


def properties(dispatch: Dispatch, context: TraceContext) -> Basic.Properties:
    """Write the properties of a dispatch's message, all but its ID.

    The context is the publish span's.
    """
    headers = {"traceparent": context.traceparent}
    if context.tracestate:
        headers["tracestate"] = context.tracestate
    return Basic.Properties(
        content_type=CONTENT_TYPE,
        delivery_mode=DeliveryMode.PERSISTENT,
        headers=dict(headers),
        priority=dispatch.priority,
    )


def body(dispatch: Dispatch) -> bytes:
    """Write the body of a dispatch's message."""
    return b'{"job_id":"%s","dispatch_no":%d}' % (
        str(dispatch.job_id).encode(),
        dispatch.dispatch_no,
    )


def decode(message: Incoming) -> Delivered | Malformed:
    """Read a message; whatever `body` cannot have written is Malformed.

    A trace context that is none is ignored, as the W3C asks.
    """
    if len(message.body) > BODY_BYTES_MAX:
        return Malformed(
            f"the body has {len(message.body)} bytes; at most {BODY_BYTES_MAX} are taken"
        )
    try:
        content = orjson.loads(message.body)
    except orjson.JSONDecodeError:
        return Malformed("the body is not JSON")
    match content:
        case {"job_id": str(job_id), "dispatch_no": int(dispatch_no), **rest} if not rest:
            pass
        case {"job_id": _, "dispatch_no": _, **rest} if not rest:
            return Malformed("job_id is not text, or dispatch_no is not a whole number")
        case _:
            return Malformed("the body is not an object of just job_id and dispatch_no")
    if isinstance(dispatch_no, bool) or not 1 <= dispatch_no <= DISPATCH_NO_MAX:
        return Malformed(f"dispatch_no is not a whole number from 1 to {DISPATCH_NO_MAX}")
    try:
        uuid = UUID(job_id)
    except ValueError:
        return Malformed("job_id is not a UUID")
    if str(uuid) != job_id:
        # UUID() also takes braces, upper case and no hyphens: then it is not ours.
        return Malformed("job_id is not a UUID in its usual form")
    headers = message.headers
    context = trace_context.read(headers.get("traceparent"), headers.get("tracestate", ""))
    return Delivered(uuid, dispatch_no, context)
