"""W3C trace context as text: which trace, which span, and whether it is sampled.

Every job has one, sampled or not (https://www.w3.org/TR/trace-context-2/).
"""

import random
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

TRACESTATE_CHARACTERS_MAX: Final = 512

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)
_NOT_ZERO: Final = 1 << 64 | 1
"""A bit of the trace ID, and one of the span ID behind it."""
_SAMPLED: Final = frozenset("13579bdf")
"""The last digits of flags that have TraceFlags.SAMPLED, their lowest bit."""
_RANDOM: Final = f"{TraceFlags.RANDOM_TRACE_ID:02x}"
_RANDOM_SAMPLED: Final = f"{TraceFlags.RANDOM_TRACE_ID | TraceFlags.SAMPLED:02x}"
"""Flags of our own traces: their IDs are random (Trace Context Level 2)."""
_ZERO_TRACE: Final = "0" * 32
_ZERO_SPAN: Final = "0" * 16


class TraceContext(NamedTuple):
    """A span as others refer to it. `tracestate` may be empty."""

    traceparent: str
    tracestate: str = ""

    @property
    def trace_id(self) -> str:
        """32 lower-case hex digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 lower-case hex digits."""
        return self.traceparent[36:52]

    @property
    def sampled(self) -> bool:
        """Whether the spans of this trace are recorded: decided once, where the trace began."""
        return is_sampled(self.traceparent)

    def span_context(self, *, remote: bool = True) -> SpanContext:
        """Convert to what the SDK takes for a remote parent or a link, or for a span of ours."""
        return SpanContext(
            trace_id=int(self.trace_id, 16),
            span_id=int(self.span_id, 16),
            is_remote=remote,
            trace_flags=TraceFlags(int(self.traceparent[53:55], 16)),
            trace_state=TraceState.from_header([self.tracestate]) if self.tracestate else None,
        )

    def attachable(self) -> Context:
        """Convert to a context whose current span this is."""
        return set_span_in_context(_RemoteSpan(self), Context())


class _RemoteSpan(NonRecordingSpan):
    """A span of another process, converted only when somebody asks for it: for most runs nobody
    does.
    """

    def __init__(self, context: TraceContext) -> None:
        self._text = context

    def get_span_context(self) -> SpanContext:
        return self._text.span_context()

    def __repr__(self) -> str:
        return f"NonRecordingSpan({self.get_span_context()!r})"


def is_sampled(traceparent: str) -> bool:
    """Whether the flags of what may be a traceparent say so."""
    return traceparent[54:55] in _SAMPLED


def read(traceparent: object, tracestate: object = "") -> TraceContext | None:
    """Check a trace context from outside; None if it is none, as the W3C has it ignored."""
    if not isinstance(traceparent, str):
        return None
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or match[1] == _ZERO_TRACE or match[2] == _ZERO_SPAN:
        return None
    if match[3] and traceparent.startswith("00"):
        return None
    if not isinstance(tracestate, str) or len(tracestate) > TRACESTATE_CHARACTERS_MAX:
        tracestate = ""
    return TraceContext(traceparent[:55], tracestate)


def read_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> TraceContext | None:
    """Find the caller's trace context in a request's metadata."""
    traceparent: object = None
    states = []
    for key, value in metadata or ():
        if key == "traceparent":
            traceparent = value
        elif key == "tracestate" and isinstance(value, str):
            states.append(value)
    return None if traceparent is None else read(traceparent, ",".join(states))


def new(*, sampled: bool) -> TraceContext:
    """Begin a trace whose first span is recorded by nobody."""
    digits = (random.getrandbits(192) | _NOT_ZERO).to_bytes(24, "big").hex()
    flags = _RANDOM_SAMPLED if sampled else _RANDOM
    return TraceContext(f"00-{digits[:32]}-{digits[32:]}-{flags}")


def child(parent: TraceContext) -> TraceContext:
    """Name a new span of the parent's trace, which is recorded if the parent is.

    What is wrong in the parent's tracestate is left out.
    """
    flags = int(parent.traceparent[53:55], 16) & (TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID)
    span_id = random.getrandbits(64) | 1
    state = parent.tracestate and TraceState.from_header([parent.tracestate]).to_header()
    return TraceContext(f"00-{parent.trace_id}-{span_id:016x}-{flags:02x}", state)


def of(span: Span) -> TraceContext:
    """Describe a span of the SDK."""
    context = span.get_span_context()
    return TraceContext(
        f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"
        f"-{context.trace_flags:02x}",
        context.trace_state.to_header(),
    )
