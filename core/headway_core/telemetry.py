"""Make spans, pass contexts on, and export.

Whether a trace is recorded is decided once, where it begins (sampling.py); from there on the flag
in `traceparent` says so to every process. What is not recorded, or goes nowhere, costs a few
microseconds: contexts are made and passed on all the same, so that every job has a trace ID.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import time_ns
from typing import TYPE_CHECKING, Final, Self
from uuid import UUID

from opentelemetry import context as current
from opentelemetry.trace import Link, NoOpTracer, SpanKind, get_current_span

from headway_core import spans, trace_context
from headway_core.job import Dispatch
from headway_core.sampling import TraceBudget
from headway_core.settings import CoreSettings
from headway_core.spans import PublishSpan, RunFacts, RunSpan, ServerSpan
from headway_core.topology import DEAD_EXCHANGE, JOBS_EXCHANGE
from headway_core.trace_context import TraceContext
from headway_core.trace_destination import destination

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from headway_core.late_spans import LateSpan, WayOut

SCOPE: Final = "headway"

__all__ = ["PublishSpan", "RunSpan", "ServerSpan", "Telemetry", "TraceContext"]


class Telemetry:
    """Makes the spans of one process. Passed to whoever needs it; nothing of it is global."""

    def __init__(self, provider: "TracerProvider | None", *, traces_per_second: float = 0) -> None:
        self.provider = provider
        """For the spans of user code; None if spans go nowhere."""
        self._tracer = provider.get_tracer(SCOPE) if provider else NoOpTracer()
        self._way_out = _way_out(provider)
        self._budget = TraceBudget(traces_per_second)

    @classmethod
    def start(
        cls, service: str, settings: CoreSettings, environ: Mapping[str, str] | None = None
    ) -> Self:
        """Begin to export spans, as the settings and OpenTelemetry's own variables say."""
        environ = os.environ if environ is None else environ
        where = destination(settings.trace_dir, environ)
        if where is None:
            return cls(None, traces_per_second=settings.traces_per_second)
        # Imported here: the SDK takes 0.1 s of each start.
        from headway_core.trace_files import tracer_provider

        provider = tracer_provider(service, where, environ)
        return cls(provider, traces_per_second=settings.traces_per_second)

    @classmethod
    def off(cls) -> Self:
        """Make no spans."""
        return cls(None)

    def shutdown(self) -> None:
        """Export what has ended, and stop. Blocks, for 2 s at most."""
        if self.provider:
            from headway_core.trace_files import shut_down

            shut_down(self.provider)

    def server_span(
        self, method: str, metadata: Iterable[tuple[str, str | bytes]] | None
    ) -> ServerSpan:
        """Begin the span of a request or stream; `method` is `package.Service/Method`."""
        caller = trace_context.read_metadata(metadata)
        if caller:
            if not self._records(caller):
                return ServerSpan(caller)
            context = trace_context.child(caller)
            return ServerSpan(context, record=self._recorder(method, context, caller))
        if method not in spans.BEGINS_TRACES:
            return ServerSpan(trace_context.new(sampled=False))
        sampled = self._budget.take()
        root = trace_context.new(sampled=sampled)
        return ServerSpan(
            root,
            record=self._recorder(method, root, None) if sampled else None,
            begin_job=lambda: self._created_span(root),
        )

    def publish_span(self, dispatch: Dispatch) -> PublishSpan:
        """Begin the span of one try to publish, to be ended by its `end`."""
        if not trace_context.is_sampled(dispatch.traceparent):
            # Not checked: it goes nowhere.
            return PublishSpan(None, TraceContext(dispatch.traceparent, dispatch.tracestate))
        stored = _stored(dispatch.traceparent, dispatch.tracestate)
        if self._way_out is None or not stored.sampled:
            return PublishSpan(None, stored)
        context = trace_context.child(stored)
        span = self._way_out.begin(
            f"publish {DEAD_EXCHANGE if dispatch.dead else JOBS_EXCHANGE}",
            SpanKind.PRODUCER,
            context=context,
            attributes=spans.publish_attributes(dispatch),
            parent=stored,
        )
        return PublishSpan(span, context)

    def process_span(
        self, run: RunFacts, *, link: TraceContext | None
    ) -> AbstractContextManager[RunSpan]:
        """Wrap one run, settlement included; `link` is what came in the message's headers.

        The span is the current one inside: spans of user code nest, in `asyncio.to_thread` too. If
        the trace is not recorded, the job's own context is the current one.
        """
        stored = _stored(run.traceparent, run.tracestate)
        if self._records(stored):
            return self._recorded_run(run, stored, link)
        return _UnrecordedRun(stored)

    def step_span(self, name: str, job_id: UUID) -> AbstractContextManager[None]:
        """Wrap a step that runs, inside `process_span` or `attached`."""
        if not self._records_current():
            return nullcontext()
        return self._nested(f"step {name}", SpanKind.INTERNAL, spans.step_attributes(name, job_id))

    def settle_span(self, job_id: UUID, queue: str) -> AbstractContextManager[None]:
        """Wrap the settlement of a run, inside `process_span`."""
        if not self._records_current():
            return nullcontext()
        return self._nested(
            f"settle {queue}", SpanKind.CLIENT, spans.settle_attributes(job_id, queue)
        )

    @contextmanager
    def attached(self, context: TraceContext) -> Iterator[None]:
        """Continue inside a span of another process or task."""
        token = current.attach(context.attachable())
        try:
            yield
        finally:
            current.detach(token)

    def _records(self, context: TraceContext) -> bool:
        return self._way_out is not None and context.sampled

    def _recorder(
        self, method: str, context: TraceContext, caller: TraceContext | None
    ) -> "Callable[[], LateSpan] | None":
        way_out, start = self._way_out, time_ns()
        if way_out is None:
            return None
        return lambda: way_out.begin(
            method,
            SpanKind.SERVER,
            context=context,
            attributes=spans.request_attributes(method),
            parent=caller,
            start=start,
        )

    def _created_span(self, request: TraceContext) -> "tuple[LateSpan | None, TraceContext]":
        root = trace_context.new(sampled=self._budget.take())
        if self._way_out is None or not root.sampled:
            return None, root
        span = self._way_out.begin(
            f"create {JOBS_EXCHANGE}",
            SpanKind.PRODUCER,
            context=root,
            attributes=spans.create_attributes(),
            links=[request],
        )
        return span, root

    @contextmanager
    def _recorded_run(
        self, run: RunFacts, stored: TraceContext, link: TraceContext | None
    ) -> Iterator[RunSpan]:
        span = self._tracer.start_span(
            f"process {run.queue}",
            context=stored.attachable(),
            kind=SpanKind.CONSUMER,
            attributes=spans.process_attributes(run),
            links=[Link(link.span_context())] if link and link != stored else None,
        )
        with spans.as_current(span):
            yield RunSpan(span, trace_context.of(span))

    def _records_current(self) -> bool:
        return (
            self.provider is not None and get_current_span().get_span_context().trace_flags.sampled
        )

    @contextmanager
    def _nested(self, name: str, kind: SpanKind, attributes: spans.Attributes) -> Iterator[None]:
        with spans.as_current(self._tracer.start_span(name, kind=kind, attributes=attributes)):
            yield


class _UnrecordedRun:
    """Wraps a run whose trace nobody records: nearly all of them on a busy worker."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: TraceContext) -> None:
        self._context = context

    def __enter__(self) -> RunSpan:
        self._token = current.attach(self._context.attachable())
        return RunSpan(None, self._context)

    def __exit__(self, *_error: object) -> None:
        current.detach(self._token)


def _way_out(provider: "TracerProvider | None") -> "WayOut | None":
    if provider is None:
        return None
    # Imported here: the SDK takes 0.1 s of each start.
    from headway_core.late_spans import WayOut

    return WayOut.of(provider, SCOPE)


def _stored(traceparent: str, tracestate: str) -> TraceContext:
    """Read what a job's row holds; a row written by hand may hold anything."""
    return trace_context.read(traceparent, tracestate) or trace_context.new(sampled=False)
