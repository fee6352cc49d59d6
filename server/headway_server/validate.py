"""Requests to the core's values, with every violation found before any is reported.

Each function reads one kind of request, or raises RequestInvalid with all that is wrong with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from headway.v1 import (
    BatchSubmitJobsRequest,
    CancelJobRequest,
    DeadLetterFilter,
    GetJobRequest,
    ListDeadLettersRequest,
    ListJobsRequest,
    ReplayDeadLetterRequest,
    RetryPolicy,
    SubmitJobRequest,
    WatchJobRequest,
)
from headway_core import dead_letters, job
from headway_core.ids import new_job_id
from headway_core.jobs import JobFilter
from headway_core.telemetry import TraceContext
from headway_server import bounds
from headway_server.errors import FilterRequired
from headway_server.fields import SET, Violations
from headway_server.pages import DeathPosition, TokenRefused, deaths_position, jobs_position

PROGRESS_INTERVAL_DEFAULT: Final = timedelta(milliseconds=100)
JOB_ANSWER_BYTES: Final = 512
"""What a job in an answer has beside what its request said, at most."""


@dataclass(frozen=True, slots=True)
class Page:
    """How many, and whether with payloads and results."""

    size: int
    full: bool = False


@dataclass(frozen=True, slots=True)
class Watching:
    """What a WatchJobRequest asks. `after_sequence` None: a snapshot first."""

    job_id: UUID
    after_sequence: int | None
    progress_interval: timedelta


@dataclass(frozen=True, slots=True)
class ReplayOne:
    """Replay this job."""

    job_id: UUID
    dry_run: bool


@dataclass(frozen=True, slots=True)
class ReplayMatching:
    """Replay what matches, oldest death first."""

    chosen: dead_letters.DeadLetterFilter
    dry_run: bool
    jobs_max: int


NO_POLICY: Final = job.RetryPolicy()


def submission(request: SubmitJobRequest, context: TraceContext) -> job.Submission:
    """A job to be stored, with a new ID, in the trace of `context`."""
    violations = Violations()
    found = _submission(violations, request, context)
    violations.end()
    return found


def submissions(
    request: BatchSubmitJobsRequest, contexts: Sequence[TraceContext]
) -> list[job.Submission]:
    """Jobs to be stored together, each in its own trace."""
    violations = Violations()
    if not 1 <= len(request.requests) <= bounds.BATCH_JOBS_MAX:
        violations.add("requests", f"must be 1 to {bounds.BATCH_JOBS_MAX} jobs")
        violations.end()
    if request.ByteSize() > bounds.REQUEST_BYTES_MAX:
        violations.add("requests", f"must have at most {bounds.REQUEST_BYTES_MAX} bytes in all")
        violations.end()
    found = []
    for index, (item, context) in enumerate(zip(request.requests, contexts, strict=True)):
        violations.within(f"requests[{index}].")
        found.append(_submission(violations, item, context))
    violations.within("")
    if _answer_bytes(request) > bounds.REQUEST_BYTES_MAX:
        # A batch whose answer no client would take must not be stored.
        violations.add("requests", "must have fewer labels: the answer would exceed 4 MiB")
    violations.end()
    return found


def get_job(request: GetJobRequest) -> tuple[UUID, bool]:
    """The job, and whether FULL."""
    violations = Violations()
    job_id = violations.job_id(request.job_id)
    full = violations.view(request.view)
    violations.end()
    return job_id, full


def list_jobs(request: ListJobsRequest) -> tuple[JobFilter, Page, UUID | None]:
    """Which jobs, how many, and after which one."""
    violations = Violations()
    chosen = JobFilter(
        states=violations.states(request.states),
        type=violations.text("type", request.type, bounds.TYPE),
        queue=violations.text("queue", request.queue, bounds.QUEUE),
        labels=tuple(violations.labels(request.labels).items()),
        create_time_from=violations.time("create_time_from", request.create_time_from)
        if request.HasField("create_time_from")
        else None,
        create_time_to=violations.time("create_time_to", request.create_time_to)
        if request.HasField("create_time_to")
        else None,
    )
    page = Page(violations.page_size(request.page_size), violations.view(request.view))
    position = None
    try:
        position = jobs_position(request)
    except TokenRefused as refused:
        violations.add("page_token", str(refused))
    violations.end()
    return chosen, page, position


def watch_job(request: WatchJobRequest) -> Watching:
    """Which job, from where, how often."""
    violations = Violations()
    job_id = violations.job_id(request.job_id)
    after_sequence = request.after_sequence if request.HasField("after_sequence") else None
    if after_sequence is not None and after_sequence < 0:
        violations.add("after_sequence", "must not be negative")
    interval = PROGRESS_INTERVAL_DEFAULT
    if request.HasField("min_progress_interval"):
        interval = violations.span(
            "min_progress_interval", request.min_progress_interval, bounds.PROGRESS_INTERVAL
        )
    violations.end()
    return Watching(job_id, after_sequence, interval)


def cancel_job(request: CancelJobRequest) -> tuple[UUID, str]:
    """The job, and why."""
    violations = Violations()
    job_id = violations.job_id(request.job_id)
    reason = violations.text("reason", request.reason, bounds.CANCEL_REASON)
    violations.end()
    return job_id, reason or ""


def list_dead_letters(
    request: ListDeadLettersRequest,
) -> tuple[dead_letters.DeadLetterFilter, Page, DeathPosition | None]:
    """Which dead letters, how many, and before which death."""
    violations = Violations()
    chosen = _dead_letter_filter(violations, request.filter)
    page = Page(violations.page_size(request.page_size))
    position = None
    try:
        position = deaths_position(request)
    except TokenRefused as refused:
        violations.add("page_token", str(refused))
    if request.group and request.page_token:
        violations.add("page_token", "must not be set with group: groups have one page")
    violations.end()
    return chosen, page, position


def replay_dead_letter(request: ReplayDeadLetterRequest) -> ReplayOne | ReplayMatching:
    """What to replay. Raises FilterRequired if nothing is named."""
    violations = Violations()
    chosen = _dead_letter_filter(violations, request.filter)
    filtered = chosen != dead_letters.DeadLetterFilter()
    jobs_max = request.max_jobs or bounds.REPLAY_JOBS_MAX
    violations.number("max_jobs", jobs_max, bounds.REPLAY_JOBS)
    if request.job_id:
        job_id = violations.job_id(request.job_id)
        if filtered:
            violations.add("filter", "must not be set together with job_id")
        if request.allow_all:
            violations.add("allow_all", "must not be set together with job_id")
        violations.end()
        return ReplayOne(job_id, request.dry_run)
    violations.end()
    if not filtered and not request.allow_all:
        raise FilterRequired
    return ReplayMatching(chosen, request.dry_run, jobs_max)


def _answer_bytes(request: BatchSubmitJobsRequest) -> int:
    """How long the answer may become; nobody counts exactly where all of the request would fit."""
    count = len(request.requests)
    most = request.ByteSize() + count * JOB_ANSWER_BYTES
    if most <= bounds.REQUEST_BYTES_MAX:
        return most
    return most - sum(item.payload.ByteSize() for item in request.requests)


def _submission(
    violations: Violations, request: SubmitJobRequest, context: TraceContext
) -> job.Submission:
    if not request.type:
        violations.add("type", SET)
    if request.HasField("priority"):
        violations.number("priority", request.priority, bounds.PRIORITY)
    queue, key, due = request.queue, request.idempotency_key, request.WhichOneof("due")
    return job.Submission(
        id=new_job_id(),
        type=violations.text("type", request.type, bounds.TYPE) or "",
        queue=violations.text("queue", queue, bounds.QUEUE) if queue else None,
        payload=violations.payload(request.payload) if request.HasField("payload") else None,
        priority=request.priority if request.HasField("priority") else job.DEFAULT_PRIORITY,
        idempotency_key=violations.text("idempotency_key", key, bounds.IDEMPOTENCY_KEY)
        if key
        else None,
        request_hash=_request_hash(request) if key else b"",
        delay=violations.span("delay", request.delay, bounds.DELAY) if due == "delay" else None,
        run_time=_run_time(violations, request) if due == "run_time" else None,
        retry_policy=_retry_policy(violations, request.retry_policy)
        if request.HasField("retry_policy")
        else NO_POLICY,
        timeout=violations.span("timeout", request.timeout, bounds.TIMEOUT)
        if request.HasField("timeout")
        else None,
        labels=violations.labels(request.labels) if request.labels else {},
        traceparent=context.traceparent,
        tracestate=context.tracestate,
    )


def _request_hash(request: SubmitJobRequest) -> bytes:
    # Any other byte makes it another request; `delay` counts as given, not as a time.
    return sha256(request.SerializePartialToString(deterministic=True)).digest()


def _run_time(violations: Violations, request: SubmitJobRequest) -> datetime:
    time = violations.time("run_time", request.run_time)
    if time > datetime.now(UTC) + bounds.RUN_TIME_AHEAD_MAX:
        violations.add("run_time", "must be at most one year ahead")
    return time


def _retry_policy(violations: Violations, policy: RetryPolicy) -> job.RetryPolicy:
    if policy.HasField("max_attempts"):
        violations.number("retry_policy.max_attempts", policy.max_attempts, bounds.MAX_ATTEMPTS)
    if policy.HasField("multiplier"):
        violations.number("retry_policy.multiplier", policy.multiplier, bounds.MULTIPLIER)
    return job.RetryPolicy(
        max_attempts=policy.max_attempts if policy.HasField("max_attempts") else None,
        initial_backoff=violations.span(
            "retry_policy.initial_backoff", policy.initial_backoff, bounds.BACKOFF
        )
        if policy.HasField("initial_backoff")
        else None,
        max_backoff=violations.span("retry_policy.max_backoff", policy.max_backoff, bounds.BACKOFF)
        if policy.HasField("max_backoff")
        else None,
        multiplier=policy.multiplier if policy.HasField("multiplier") else None,
    )


def _dead_letter_filter(
    violations: Violations, chosen: DeadLetterFilter
) -> dead_letters.DeadLetterFilter:
    return dead_letters.DeadLetterFilter(
        type=violations.text("filter.type", chosen.type, bounds.TYPE),
        queue=violations.text("filter.queue", chosen.queue, bounds.QUEUE),
        fingerprint=violations.text("filter.fingerprint", chosen.fingerprint, bounds.FINGERPRINT),
        dead_time_from=violations.time("filter.dead_time_from", chosen.dead_time_from)
        if chosen.HasField("dead_time_from")
        else None,
        dead_time_to=violations.time("filter.dead_time_to", chosen.dead_time_to)
        if chosen.HasField("dead_time_to")
        else None,
    )
