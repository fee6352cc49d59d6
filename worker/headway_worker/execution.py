"""One claimed run, from its payload to how it ended."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from time import monotonic
from uuid import UUID

import structlog

from headway_core.claims import Claim
from headway_core.database import Database
from headway_core.hints import EventHint, HintPublisher
from headway_core.outcomes import Outcome, WorkerLost
from headway_core.states import Isolation
from headway_core.telemetry import Telemetry, TraceContext
from headway_worker.child_messages import Start
from headway_worker.conclusion import Lost, UserOutcome, conclude, judge
from headway_worker.context import Context
from headway_worker.endings import Ending, Raised, Stop
from headway_worker.handler_errors import RetryLater
from headway_worker.handlers import run_in_thread, run_on_loop
from headway_worker.isolation import run_in_child
from headway_worker.lease import Lease
from headway_worker.progress_feed import ProgressFeed
from headway_worker.registry import Handler, Jobs
from headway_worker.running import Run
from headway_worker.steps import StoredSteps
from headway_worker.values import payload_value

log = structlog.get_logger(__name__)
handler_log = structlog.get_logger("handler")
"""What handlers get as `ctx.logger`."""


class Execution:
    """Runs user code where its handler and its history want it: loop, thread or child process."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        target: str,
        worker_id: UUID,
        database: Database,
        lease: Lease,
        threads: ThreadPoolExecutor,
        hints: HintPublisher,
        feed: ProgressFeed,
        telemetry: Telemetry,
        grace: timedelta,
    ) -> None:
        """`target` is the MODULE:JOBS that `jobs` came from, for child processes to import."""
        self._handlers = jobs.handlers
        self._target = target
        self._worker_id = worker_id
        self._database = database
        self._lease = lease
        self._threads = threads
        self._hints = hints
        self._feed = feed
        self._telemetry = telemetry
        self._grace = grace

    async def run(self, run: Run, claim: Claim, context: TraceContext) -> Outcome | Lost:
        """Run the handler; `context` is the process span's. Whatever user code does, it returns."""
        handler = self._handlers[claim.type]
        if claim.cancel_requested:
            run.request_stop(Stop.CANCELLED)
        run.meter.on_report = partial(self._feed.note, run)
        steps = StoredSteps(
            run,
            claim,
            database=self._database,
            worker_id=self._worker_id,
            lease=self._lease,
            stored=lambda sequence: self._hints.send(EventHint(claim.job_id, sequence, done=False)),
        )
        outcome: UserOutcome | WorkerLost
        with _time_limit(run, claim.timeout):
            if handler.isolated or claim.isolation is not Isolation.NONE:
                outcome = await self._in_child(run, claim, handler, steps, context)
            else:
                ending = await self._here(run, claim, handler, steps)
                _log_raised(ending, run)
                outcome = judge(ending)
        return conclude(outcome, run.stop, timeout=claim.timeout)

    async def _here(self, run: Run, claim: Claim, handler: Handler, steps: StoredSteps) -> Ending:
        try:
            payload = payload_value(claim.payload)
        except ValueError as error:  # Protobuf's DecodeError is one
            return Raised(error)
        context = Context(
            job_id=claim.job_id,
            attempt=claim.attempt,
            type=claim.type,
            labels=claim.labels,
            steps=steps,
            meter=run.meter,
            cancelled=run.may_stop,
            span=self._step_span(claim.job_id),
            logger=handler_log,
            blocking=not handler.is_async,
        )
        if handler.is_async:
            return await run_on_loop(run, handler.function, context, payload)
        return await run_in_thread(run, handler.function, context, payload, threads=self._threads)

    async def _in_child(
        self, run: Run, claim: Claim, handler: Handler, steps: StoredSteps, context: TraceContext
    ) -> UserOutcome | WorkerLost:
        start = Start(
            target=self._target,
            type=claim.type,
            job_id=claim.job_id,
            attempt=claim.attempt,
            labels=claim.labels,
            traceparent=context.traceparent,
            tracestate=context.tracestate,
            traced=context.sampled and self._telemetry.provider is not None,
            memory_bytes_max=handler.memory_bytes_max,
            payload=claim.payload,
        )
        return await run_in_child(run, start, steps=steps, grace=self._grace)

    def _step_span(self, job_id: UUID) -> Callable[[str], AbstractContextManager[object]]:
        return lambda name: self._telemetry.step_span(name, job_id)


def _time_limit(run: Run, timeout: timedelta | None) -> AbstractContextManager[None]:
    """Tell the run to end when its attempt's time is up."""
    return nullcontext() if timeout is None else _limited(run, timeout.total_seconds())


@contextmanager
def _limited(run: Run, seconds: float) -> Iterator[None]:
    run.deadline = monotonic() + seconds
    timer = asyncio.get_running_loop().call_later(seconds, run.request_stop, Stop.TIMED_OUT)
    try:
        yield
    finally:
        timer.cancel()


def _log_raised(ending: Ending, run: Run) -> None:
    """The stack goes here and nowhere else."""
    if isinstance(ending, Raised) and run.stop is None and not isinstance(ending.error, RetryLater):
        log.warning("handler_raised", exc_info=ending.error)
