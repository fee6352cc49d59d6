"""Spans that become the SDK's when they have ended: until then they cost next to nothing.

A span of the SDK is made at its beginning, before the work that it tells of, and takes two to three
times as long. User code needs it, for it may ask for the current span; a request's and a publish's
are known to nobody but us. Their attributes are few and bounded, so the SDK's limits do not apply.
Imports the SDK, so only who records does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import time_ns
from typing import Final, Self

from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from headway_core.trace_context import TraceContext

UNSET: Final = Status(StatusCode.UNSET)


@dataclass(slots=True, eq=False, kw_only=True)
class LateSpan:
    """A span under way, to be ended once by `end`. Not thread-safe."""

    name: str
    kind: SpanKind
    context: TraceContext
    """Known to others already."""
    parent: TraceContext | None
    attributes: dict[str, AttributeValue]
    links: Sequence[TraceContext]
    way_out: "WayOut"
    start: int
    status: Status = UNSET
    ended: bool = False

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Say something more about it."""
        self.attributes[key] = value

    def set_status(self, code: StatusCode, description: str) -> None:
        """Say how it went."""
        self.status = Status(code, description)

    def end(self, time: int | None = None) -> None:
        """End it now, or as of a Unix time in ns, and export it. Only the first call counts."""
        if self.ended:
            return
        self.ended = True
        self.way_out.export(
            ReadableSpan(
                self.name,
                context=self.context.span_context(remote=False),
                parent=self.parent.span_context() if self.parent else None,
                resource=self.way_out.resource,
                attributes=self.attributes,
                links=[Link(link.span_context()) for link in self.links],
                kind=self.kind,
                status=self.status,
                start_time=self.start,
                end_time=time_ns() if time is None else time,
                instrumentation_scope=self.way_out.scope,
            )
        )


class WayOut:
    """The way that the spans of a provider go, once they have ended."""

    def __init__(self, tracer: Tracer, scope: str) -> None:
        self.export: Final = tracer.span_processor.on_end
        self.resource: Final = tracer.resource
        self.scope: Final = InstrumentationScope(scope)

    @classmethod
    def of(cls, provider: TracerProvider, scope: str) -> Self | None:
        """The way out of a provider. None: it records nothing (OTEL_SDK_DISABLED)."""
        tracer = provider.get_tracer(scope)
        return cls(tracer, scope) if isinstance(tracer, Tracer) else None

    def begin(
        self,
        name: str,
        kind: SpanKind,
        *,
        context: TraceContext,
        attributes: dict[str, AttributeValue],
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
        start: int | None = None,
    ) -> LateSpan:
        """Begin a span that is about to be known by `context`, now or as of a Unix time in ns. It
        may add to `attributes`.
        """
        return LateSpan(
            name=name,
            kind=kind,
            context=context,
            parent=parent,
            attributes=attributes,
            links=links,
            way_out=self,
            start=time_ns() if start is None else start,
        )
