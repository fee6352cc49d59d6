"""What travels to the workers: which job, which dispatch, and its trace. Never the payload."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Final, NamedTuple, Protocol
from uuid import UUID

import orjson
from aio_pika import DeliveryMode

from headway_core import trace_context
from headway_core.content import JSON_MEDIA_TYPE
from headway_core.ids import read_id
from headway_core.job import Dispatch
from headway_core.lenient_frames import DEATHS, UNREADABLE
from headway_core.trace_context import TraceContext

BODY_BYTES_MAX: Final = 256
"""Far more than `body` writes."""
REASON_CHARACTERS_MAX: Final = 64
DISPATCH_NO_MAX: Final = 2**31 - 1

_UUID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WRITTEN: Final = re.compile(
    rb'\{"job_id":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})","dispatch_no":([1-9][0-9]{0,9})\}'
)
"""What `body` writes, to the letter."""
_TYPE: Final = b"\x10" + JSON_MEDIA_TYPE.encode()
_TRACED: Final = b"\xb8\x80" + _TYPE
"""Flags and the first value; headers, delivery mode, priority and message ID follow."""
_UNTRACED: Final = b"\x98\x80" + _TYPE
"""The same without headers."""
_TRACEPARENT: Final = b"\x0btraceparentS"
_TRACESTATE: Final = b"\x0atracestateS"
_WRITTEN_PROPERTIES: Final = re.compile(
    b"(?:"
    + re.escape(_TRACED + b"\0\0\0\x48" + _TRACEPARENT + b"\0\0\0\x37")
    + rb"(00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})"
    + b"|"
    + re.escape(_UNTRACED)
    + rb")\x02[\0-\x09].[0-9a-f-]*",
    re.DOTALL,
)
"""`properties` without a tracestate, and a message ID."""
_NO_DISPATCH_NO: Final = f"dispatch_no is not a whole number from 1 to {DISPATCH_NO_MAX}"


class Delivered(NamedTuple):
    """A message of ours, read."""

    job_id: UUID
    dispatch_no: int
    context: TraceContext | None
    """The publish span: what the process span links to, if the trace is recorded. The job's own
    context is in its row."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that is none of ours."""

    reason: str
    movable: bool = True
    """Whether the broker can move it to the dead queue."""


class Incoming(Protocol):
    """What is read of a message; aio-pika's IncomingMessage has it."""

    @property
    def body(self) -> bytes:
        """All of it."""

    @property
    def headers(self) -> Mapping[str, object]:
        """The AMQP headers table."""


def properties(dispatch: Dispatch, context: TraceContext) -> bytes:
    """Write the properties of a dispatch's message as AMQP has them, up to the message ID.

    The context is the publish span's. One that nobody records is left out: the row has it, and a
    table of headers is a sixth of what a message costs the broker.
    """
    mode = DeliveryMode.PERSISTENT
    if not context.sampled:
        return b"%b%c%c" % (_UNTRACED, mode, dispatch.priority)
    headers = _TRACEPARENT + _long_text(context.traceparent)
    if context.tracestate:
        headers += _TRACESTATE + _long_text(context.tracestate)
    size = len(headers).to_bytes(4, "big")
    return b"%b%b%b%c%c" % (_TRACED, size, headers, mode, dispatch.priority)


def body(dispatch: Dispatch) -> bytes:
    """Write the body of a dispatch's message."""
    return b'{"job_id":"%s","dispatch_no":%d}' % (
        str(dispatch.job_id).encode(),
        dispatch.dispatch_no,
    )


def decode_written(properties: bytes, body: bytes) -> Delivered | None:
    """Read a message whose bytes are just as ours; None: `decode` says what it is."""
    headed = _WRITTEN_PROPERTIES.fullmatch(properties)
    written = _WRITTEN.fullmatch(body)
    if headed is None or written is None or (dispatch_no := int(written[2])) > DISPATCH_NO_MAX:
        return None
    context = TraceContext(headed[1].decode()) if headed[1] else None
    return Delivered(read_id(written[1].decode()), dispatch_no, context)


def decode(message: Incoming) -> Delivered | Malformed:
    """Read a message; whatever is no object of just job_id and dispatch_no is Malformed.

    A trace context that is none is ignored, as the W3C asks.
    """
    if DEATHS in message.headers and not _are_deaths(message.headers[DEATHS]):
        return Malformed("its x-death is no list of deaths", movable=False)
    if UNREADABLE in message.headers:
        reason = message.headers[UNREADABLE]  # a stranger may have written it
        shown = reason[:REASON_CHARACTERS_MAX] if isinstance(reason, str) else "no reason"
        return Malformed(f"its properties cannot be read: {shown}")
    if written := _WRITTEN.fullmatch(message.body):  # nearly always
        job_id, dispatch_no = written[1].decode(), int(written[2])
    else:
        parsed = _parse(message.body)
        if isinstance(parsed, Malformed):
            return parsed
        job_id, dispatch_no = parsed
    if dispatch_no > DISPATCH_NO_MAX:
        return Malformed(_NO_DISPATCH_NO)
    headers = message.headers
    context = trace_context.read(headers.get("traceparent"), headers.get("tracestate", ""))
    return Delivered(read_id(job_id), dispatch_no, context)


def _are_deaths(value: object) -> bool:
    """Whether RabbitMQ can add a death to this header.

    To a list it does so as to one of its own (3.10: `rabbit_dead_letter:update_x_death_header`).
    Over an entry that is no table, or a count that is no whole number, the queue's process ends
    with the message still in it, again and again, until the queue stays down.
    """
    if not isinstance(value, list):
        return True  # replaced
    return all(
        isinstance(death, dict) and type(death.get("count")) in {int, NoneType}  # no bool
        for death in value
    )


def _long_text(text: str) -> bytes:
    written = text.encode()
    return len(written).to_bytes(4, "big") + written


def _parse(body: bytes) -> tuple[str, int] | Malformed:
    """Read a body that means the same as ours, but is written otherwise."""
    if len(body) > BODY_BYTES_MAX:
        return Malformed(f"the body has {len(body)} bytes; at most {BODY_BYTES_MAX} are taken")
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Malformed("the body is not JSON")
    match content:
        case {"job_id": str(job_id), "dispatch_no": int(dispatch_no), **rest} if not rest:
            pass
        case {"job_id": _, "dispatch_no": _, **rest} if not rest:
            return Malformed("job_id is not text, or dispatch_no is not a whole number")
        case _:
            return Malformed("the body is not an object of just job_id and dispatch_no")
    if isinstance(dispatch_no, bool) or dispatch_no < 1:
        return Malformed(_NO_DISPATCH_NO)
    if not _UUID.fullmatch(job_id):
        # UUID() also takes braces, upper case and no hyphens: then it is not ours.
        return Malformed("job_id is not a UUID in its usual form")
    return job_id, dispatch_no
