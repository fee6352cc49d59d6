"""From a delivery to its ack: claim, run, settle.

    delivery ─ claim ─┬─ Claim ──────── run ─ settle ─ ack; reject if DEAD
                      ├─ NothingToDo ── ack; reject if it died of this very dispatch
                      ├─ TypeLacking ── decline ─ ack
                      ├─ MustRunAlone ─ wait until nothing else runs, then claim again
                      └─ LeaseLapsed ── all that is in hand goes to others

There is no ack without a commit before it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Final, assert_never
from uuid import UUID

import structlog

from headway_core import claims
from headway_core.batching import GroupCommit
from headway_core.claims import (
    Claim,
    ClaimOutcome,
    ClaimRequest,
    Declined,
    LeaseLapsed,
    MustRunAlone,
    NothingToDo,
    TypeLacking,
)
from headway_core.database import Database
from headway_core.failpoints import failpoint
from headway_core.hints import EventHint, HintPublisher, OutboxHint
from headway_core.logs import job_context
from headway_core.metrics import Metrics
from headway_core.outcomes import (
    Cancelled,
    Failed,
    Interrupted,
    Outcome,
    Snoozed,
    Succeeded,
    TimedOut,
    WorkerLost,
)
from headway_core.runs import Fenced, Settle, Settled
from headway_core.settlement import decide
from headway_core.telemetry import RunSpan, Telemetry
from headway_worker.conclusion import Lost
from headway_worker.consumer import Consumer
from headway_worker.deliveries import Delivery
from headway_worker.execution import Execution
from headway_worker.lease import Lease
from headway_worker.patience import until_answered
from headway_worker.running import Run, RunTable

Claims = GroupCommit[ClaimRequest, ClaimOutcome]
Settles = GroupCommit[Settle, Settled | Fenced]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What becomes of deliveries, one task each."""

    worker_id: UUID
    types: frozenset[str]
    database: Database
    claims: Claims
    settles: Settles
    consumer: Consumer
    execution: Execution
    lease: Lease
    runs: RunTable
    alone: asyncio.Lock
    hints: HintPublisher
    telemetry: Telemetry
    metrics: Metrics
    random: Random

    async def process(self, delivery: Delivery) -> None:
        """Own a delivery until it is acked, rejected, or left to others."""
        if not self.lease.live:
            self._give_back(delivery)
            return
        outcome = await self._claim_and_run(delivery, self.claims.submit)
        if isinstance(outcome, MustRunAlone):
            await self._process_alone(delivery)
        else:
            await self._finish(delivery, outcome)

    async def _process_alone(self, delivery: Delivery) -> None:
        """Run a job that killed a whole worker twice, with no other there to be taken along."""
        async with self.alone:
            self.consumer.quiet("alone")
            try:
                await self.consumer.wait_quiet()
                outcome = await self._when_alone(delivery)
            finally:
                self.consumer.resume("alone")
        await self._finish(delivery, outcome)

    async def _when_alone(self, delivery: Delivery) -> ClaimOutcome:
        while delivery.in_hand:
            await self.runs.wait_empty()
            beats = self.lease.confirmations
            outcome = await self._claim_and_run(delivery, self._claim_single)
            if not isinstance(outcome, MustRunAlone):
                return outcome
            # Something runs in our name that we do not hold; it is ended with the next heartbeat.
            await self.lease.wait_confirmation(after=beats)
        return LeaseLapsed()  # it went back with its channel, to whoever gets it next

    async def _claim_single(self, request: ClaimRequest) -> ClaimOutcome:
        outcomes = await claims.claim(
            self.database, [request], worker_id=self.worker_id, types=self.types
        )
        if isinstance(outcomes[0], Claim) and self.consumer.held > 1:
            # Others wait in hand for their own turn alone; this run may take hours.
            self.consumer.close("alone")
        return outcomes[0]

    async def _claim_and_run(
        self, delivery: Delivery, claim: Callable[[ClaimRequest], Awaitable[ClaimOutcome]]
    ) -> ClaimOutcome:
        run = Run(delivery.job_id)
        request = ClaimRequest(delivery.job_id, run.claim_id, delivery.dispatch_no)
        self.runs.hold(run)
        try:
            outcome = await until_answered(lambda: claim(request))
            if isinstance(outcome, Claim):
                run.claim = outcome
                await self._run(run, outcome, delivery)
        finally:
            self.runs.let_go(run)
        return outcome

    async def _finish(self, delivery: Delivery, outcome: ClaimOutcome) -> None:
        match outcome:
            case Claim():
                pass  # settled, and acked
            case NothingToDo(dead):
                (self.consumer.reject if dead else self.consumer.ack)(delivery)
            case TypeLacking():
                await self._decline(delivery)
            case LeaseLapsed():
                self._give_back(delivery)
            case MustRunAlone():
                raise AssertionError("handled before")
            case _:
                assert_never(outcome)

    async def _decline(self, delivery: Delivery) -> None:
        """Give back a job that this worker has no handler for; later, or to others."""
        outcome = await until_answered(
            lambda: claims.decline(
                self.database,
                delivery.job_id,
                worker_id=self.worker_id,
                dispatch_no=delivery.dispatch_no,
                types=self.types,
            )
        )
        match outcome:
            case Declined():
                log.info("job_declined", job_id=str(delivery.job_id), queue=delivery.queue)
                self.consumer.ack(delivery)
            case NothingToDo(dead):
                (self.consumer.reject if dead else self.consumer.ack)(delivery)
            case LeaseLapsed():
                self._give_back(delivery)
            case _:
                assert_never(outcome)

    def _give_back(self, delivery: Delivery) -> None:
        """Without a lease nothing may be claimed, nor acked: others shall have what is in hand."""
        self.consumer.close("lease")
        self.consumer.abandon(delivery)

    async def _run(self, run: Run, claim: Claim, delivery: Delivery) -> None:
        started = monotonic()
        self.consumer.claimed(delivery)
        self.hints.send(EventHint(claim.job_id, claim.sequence, done=False))
        if claim.run_epoch == 1:  # of a later run the claim does not tell when it was due
            waited = claim.start_time - (claim.queue_time or claim.create_time)
            self.metrics.job_waited(
                queue=claim.queue, type=claim.type, seconds=waited.total_seconds()
            )
        with (
            self.telemetry.process_span(claim, link=delivery.context) as span,
            job_context(
                job_id=claim.job_id,
                type=claim.type,
                attempt=claim.attempt,
                trace_id=span.context.trace_id,
            ),
        ):
            log.debug("run_started")
            outcome = await self.execution.run(run, claim, span.context)
            run.settling = True
            if isinstance(outcome, Lost):
                log.warning("run_lost")
                span.outcome("lost")
                self.consumer.ack(delivery)
                return
            await self._settle(run, claim, outcome, delivery, span)
            self.metrics.job_ran(
                queue=claim.queue,
                type=claim.type,
                outcome=NAMES[type(outcome)],
                seconds=monotonic() - started,
            )

    async def _settle(
        self, run: Run, claim: Claim, outcome: Outcome, delivery: Delivery, span: RunSpan
    ) -> None:
        """Write the run's end, however long Postgres is away, and only then ack."""
        name = NAMES[type(outcome)]
        failed = isinstance(outcome, Failed | TimedOut | WorkerLost)
        # The class of the error, not its text, which may quote a payload.
        cause = outcome.error.type if isinstance(outcome, Failed) else ""
        span.outcome(name, failed=failed, message=cause)
        # Everything random is in it: it may be written twice.
        settlement = decide(claim.budget, outcome, random=self.random)
        item = Settle(
            job_id=claim.job_id,
            run_epoch=claim.run_epoch,
            claim_id=claim.claim_id,
            settlement=settlement,
            delivery_in_hand=self.consumer.settling(delivery),
            progress=run.meter.latest,
        )
        with self.telemetry.settle_span(claim.job_id, claim.queue):
            ended = await until_answered(lambda: self.settles.submit(item))
        match ended:
            case Settled(state, sequence):
                if ended.dead:
                    await failpoint("after_dead_commit")
                (self.consumer.reject if ended.dead else self.consumer.ack)(delivery)
                self.hints.send(EventHint(claim.job_id, sequence, done=state.done))
                if not state.done and not settlement.delay:
                    self.hints.send(OutboxHint())
                if ended.dead:
                    self.metrics.job_died(queue=claim.queue, type=claim.type)
                (log.info if failed or ended.dead else log.debug)(
                    "run_ended", outcome=name, state=state.name
                )
            case Fenced():
                # Judged without us, the lease having lapsed or been ended.
                log.warning("run_fenced", outcome=name)
                self.consumer.ack(delivery)
            case _:
                assert_never(ended)


NAMES: Final[dict[type[Outcome], str]] = {
    Succeeded: "succeeded",
    Failed: "failed",
    TimedOut: "timed_out",
    WorkerLost: "worker_lost",
    Interrupted: "interrupted",
    Snoozed: "snoozed",
    Cancelled: "cancelled",
}
"""How outcomes are called in metrics, spans and logs."""
