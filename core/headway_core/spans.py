"""The vocabulary of traces: every span Headway makes, its name, its attributes, its place.

    headway.v1.JobService/SubmitJob   SERVER    the caller's child, or the root; stored on the job
    ├─ publish headway.jobs           PRODUCER  one for each try; its context is in the AMQP headers
    ├─ process <queue>                CONSUMER  one for each run; links to the publish it came by
    │  ├─ step <name>                 INTERNAL  one for each step that ran
    │  └─ settle <queue>              CLIENT    until the run's end is committed
    └─ publish …, process …                     retries, snoozes, replays: the same parent

A retry is a child of the submission and not of the run before it, because the submission is what
the job's row knows. Each job of a BatchSubmitJobs has a trace of its own, begun by a PRODUCER span
`create headway.jobs` that links to the request's.

Names follow OpenTelemetry's semantic conventions 1.44. `headway.job.id` is on every span but those
of requests that are about no job or many.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from opentelemetry import context as current
from opentelemetry.trace import Span, StatusCode, set_span_in_context
from opentelemetry.util.types import AttributeValue

from headway_core.job import Dispatch
from headway_core.topology import DEAD_EXCHANGE, JOBS_EXCHANGE, job_queue
from headway_core.trace_context import TraceContext

if TYPE_CHECKING:
    from headway_core.late_spans import LateSpan

JOB_ID: Final = "headway.job.id"
JOB_TYPE: Final = "headway.job.type"
JOB_ATTEMPT: Final = "headway.job.attempt"
JOB_EPOCH: Final = "headway.job.epoch"
JOB_OUTCOME: Final = "headway.job.outcome"
JOB_DISPATCH: Final = "headway.job.dispatch_no"
STEP_NAME: Final = "headway.step.name"
RPC_STATUS: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"

Attributes = dict[str, AttributeValue]

BEGINS_TRACES: Final = frozenset(
    {"headway.v1.JobService/SubmitJob", "headway.v1.JobService/BatchSubmitJobs"}
)
"""The calls that begin a trace for a caller who has none: traces are about jobs."""

SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""The codes that make a SERVER span an error; the others are the caller's doing."""


class RunFacts(Protocol):
    """What a process span says of a run; a Claim has it."""

    @property
    def job_id(self) -> UUID: ...
    @property
    def type(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def run_epoch(self) -> int: ...
    @property
    def traceparent(self) -> str: ...
    @property
    def tracestate(self) -> str: ...


class ServerSpan:
    """The span of one request, or just its context if it is not recorded: to be ended by `end`."""

    def __init__(
        self,
        context: TraceContext,
        *,
        record: "Callable[[], LateSpan] | None" = None,
        begin_job: "Callable[[], tuple[LateSpan | None, TraceContext]] | None" = None,
    ) -> None:
        self._record = record
        """Makes the span, at its end: after the answer."""
        self._begin_job = begin_job
        self._created: list[LateSpan | None] = []
        self._job_id: UUID | None = None
        self._code: str | None = None
        self.context = context
        """What is stored on the job: the parent of all that happens to it."""

    def job(self, job_id: UUID) -> None:
        """Name the job that the request is about."""
        self._job_id = job_id

    def contexts(self, count: int) -> list[TraceContext]:
        """Make the contexts for the jobs of a batch, to be named by `jobs`.

        They are the request's for a single job and for a caller who has a trace; else each job has
        a trace of its own, recorded within the budget.
        """
        if count == 1 or self._begin_job is None:
            return [self.context] * count
        begun = [self._begin_job() for _ in range(count)]
        self._created = [span for span, _ in begun]
        return [context for _, context in begun]

    def jobs(self, jobs: Sequence[tuple[UUID, bool]]) -> None:
        """Name the jobs of a batch, in the order of `contexts`, with whether the batch made them.

        What was there already has another trace, so that none tells of its making here.
        """
        if len(jobs) == 1:
            self.job(jobs[0][0])
        created, self._created = self._created, []
        for span, (job_id, made) in zip(created, jobs, strict=False):
            if span and made:
                span.set_attribute(JOB_ID, str(job_id))
                self._created.append(span)

    def status(self, code: str) -> None:
        """Say how the request ends, by gRPC's name of the code. Not said: OK, or by exception."""
        self._code = code

    def end(self, error: BaseException | None = None, *, time: int | None = None) -> None:
        """End it, by an error or well, now or as of a Unix time in ns.

        Only the first call counts.
        """
        for created in self._created:
            if created:
                created.end(time)
        record, self._record = self._record, None
        if record is None:
            return
        span = record()
        if self._job_id:
            span.set_attribute(JOB_ID, str(self._job_id))
        code = self._code or _code_of(error)
        span.set_attribute(RPC_STATUS, code)
        if code in SERVER_FAULTS:
            fail(span, type(error).__name__ if error else code)
        span.end(time)


class PublishSpan:
    """The span of one try to publish, or just its context."""

    __slots__ = ("_span", "context")

    def __init__(self, span: "LateSpan | None", context: TraceContext) -> None:
        self._span = span
        self.context = context
        """What goes into the message's headers, if it is sampled."""

    def end(self, trouble: str | None = None) -> None:
        """End it; `trouble` names what kept the broker from confirming."""
        if self._span is None:
            return
        if trouble:
            fail(self._span, trouble)
        self._span.end()


class RunSpan:
    """The span of one run of a job, or just its context."""

    def __init__(self, span: Span | None, context: TraceContext) -> None:
        self._span = span
        self.context = context
        """What a child process attaches, to continue here."""

    def outcome(self, name: str, *, failed: bool = False, message: str = "") -> None:
        """Say how the run ended: `succeeded`, `failed`, `timed_out` ….

        `message` is for a failed one. It is shown in traces, so it holds no payload.
        """
        if self._span is None:
            return
        self._span.set_attribute(JOB_OUTCOME, name)
        if failed:
            fail(self._span, name, message)


@contextmanager
def as_current(span: Span) -> Iterator[None]:
    """Make a span the current one, and end it with what happens inside."""
    token = current.attach(set_span_in_context(span))
    try:
        yield
    except Exception as error:
        # By its type alone: its text may hold a payload, and the job shows it to those who may see.
        fail(span, type(error).__name__)
        raise
    finally:
        current.detach(token)
        span.end()


def fail(span: "Span | LateSpan", kind: str, message: str = "") -> None:
    """Mark a span as an error."""
    span.set_attribute(ERROR_TYPE, kind)
    span.set_status(StatusCode.ERROR, message or kind)


def create_attributes() -> Attributes:
    """Describe the making of a batch's job, which gets its ID later."""
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "create",
        "messaging.operation.type": "create",
        "messaging.destination.name": JOBS_EXCHANGE,
    }


def publish_attributes(dispatch: Dispatch) -> Attributes:
    """Describe the publishing of a dispatch."""
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": DEAD_EXCHANGE if dispatch.dead else JOBS_EXCHANGE,
        "messaging.rabbitmq.destination.routing_key": dispatch.queue,
        JOB_ID: str(dispatch.job_id),
        JOB_TYPE: dispatch.type,
        JOB_DISPATCH: dispatch.dispatch_no,
    }


def process_attributes(run: RunFacts) -> Attributes:
    """Describe a run."""
    return _delivery_attributes("process", run.queue) | {
        JOB_ID: str(run.job_id),
        JOB_TYPE: run.type,
        JOB_ATTEMPT: run.attempt,
        JOB_EPOCH: run.run_epoch,
    }


def step_attributes(name: str, job_id: UUID) -> Attributes:
    """Describe a step."""
    return {STEP_NAME: name, JOB_ID: str(job_id)}


def settle_attributes(job_id: UUID, queue: str) -> Attributes:
    """Describe the settlement of a run."""
    return _delivery_attributes("settle", queue) | {JOB_ID: str(job_id)}


def request_attributes(method: str) -> Attributes:
    """Describe a request."""
    return {"rpc.system.name": "grpc", "rpc.method": method}


def _delivery_attributes(operation: str, queue: str) -> Attributes:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": job_queue(queue),
    }


def _code_of(error: BaseException | None) -> str:
    match error:
        case None:
            return "OK"
        case asyncio.CancelledError():
            return "CANCELLED"
        case _:
            return "INTERNAL"
