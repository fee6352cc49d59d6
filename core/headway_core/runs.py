"""Runs: claim, step, settle. Every write names the worker and the epoch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Final
from uuid import UUID

import orjson

from headway_core import rows
from headway_core.backoff import DECLINE_BACKOFF_MAX, DECLINE_BACKOFF_MIN
from headway_core.content import Content, ContentKind
from headway_core.database import Connection, Database, Record
from headway_core.failpoints import failpoint
from headway_core.job import Progress, RetryPolicy
from headway_core.outcomes import Interrupted
from headway_core.queries import load
from headway_core.settlement import RunBudget, Settlement, decide
from headway_core.states import Isolation, JobState

SQL: Final = load("runs")


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A delivery's wish to run its job. `claim_id` is fixed before the first try."""

    job_id: UUID
    claim_id: UUID
    dispatch_no: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that is ours."""

    job_id: UUID
    claim_id: UUID
    run_epoch: int
    type: str
    queue: str
    attempt: int
    failures: int
    crashes: int
    isolation: Isolation
    policy: RetryPolicy
    """Complete: no field is None."""
    timeout: timedelta | None
    payload: Content | None
    labels: Mapping[str, str]
    traceparent: str
    tracestate: str
    cancel_requested: bool
    create_time: datetime
    queue_time: datetime | None
    start_time: datetime
    sequence: int

    @property
    def budget(self) -> RunBudget:
        """What the run may still cost."""
        return RunBudget(self.type, self.failures, self.crashes, self.isolation, self.policy)


@dataclass(frozen=True, slots=True)
class NothingToDo:
    """The job waits no more, or not yet: the delivery is acked.

    `dead`: the job died of this very dispatch, so the delivery is rejected instead, and the
    broker's dead-letter exchange takes it.
    """

    dead: bool = False


@dataclass(frozen=True, slots=True)
class LeaseLapsed:
    """This worker may run nothing: the delivery goes to others, unacked."""


@dataclass(frozen=True, slots=True)
class TypeLacking:
    """This worker has no handler for the job: decline it."""


@dataclass(frozen=True, slots=True)
class MustRunAlone:
    """The job may be claimed only by itself and while this worker runs nothing else."""


ClaimOutcome = Claim | NothingToDo | LeaseLapsed | TypeLacking | MustRunAlone


async def claim(
    database: Database,
    requests: Sequence[ClaimRequest],
    *,
    worker_id: UUID,
    types: Collection[str],
) -> list[ClaimOutcome]:
    """PENDING, QUEUED or FAILED, due, and of a type we have -> RUNNING in our name, epoch + 1.

    One transaction under the worker's live lease; waits for locked rows, 1 s at most. At most one
    request per job. Run again after an unknown commit it finds its own claims. Raises
    StoreUnavailable; then the claims are unknown, not refused.
    """
    ids = [request.job_id for request in requests]
    claim_ids = [request.claim_id for request in requests]
    found = {
        record["job_id"]: record
        for record in await database.fetch(SQL.claim, worker_id, ids, claim_ids, list(types))
    }
    await failpoint("after_claim_commit")
    before: dict[UUID, Claim] = {}
    if any(record["claimed_before"] for record in found.values()):
        records = await database.fetch(SQL.claimed_before, worker_id, ids, claim_ids)
        before = {record["id"]: _claim(record) for record in records}
    return [
        before.get(request.job_id) or _claim_outcome(found[request.job_id], request, types)
        for request in requests
    ]


@dataclass(frozen=True, slots=True)
class Declined:
    """The job is PENDING and due later; its delivery is acked."""


DeclineOutcome = Declined | NothingToDo | LeaseLapsed


async def decline(
    database: Database,
    job_id: UUID,
    *,
    worker_id: UUID,
    dispatch_no: int,
    types: Collection[str],
) -> DeclineOutcome:
    """Give back a due job of a type we lack: PENDING, outbox row after 1 s to 60 s, no attempt
    spent.

    One transaction under the worker's live lease. Run again it finds nothing to do.
    """
    record = await database.fetchrow(
        SQL.decline,
        worker_id,
        job_id,
        list(types),
        DECLINE_BACKOFF_MIN,
        DECLINE_BACKOFF_MAX,
        dispatch_no,
    )
    if record is None or not record["lease_live"]:
        return LeaseLapsed()
    if record["declined"]:
        return Declined()
    return NothingToDo(dead=bool(record["dead"]))


@dataclass(frozen=True, slots=True)
class Settle:
    """The end of a run, fixed before it is first written."""

    job_id: UUID
    run_epoch: int
    claim_id: UUID
    settlement: Settlement
    delivery_in_hand: bool = True
    """Else a death is published to the dead-letter exchange through the outbox."""
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """The end is committed, now or by an earlier try: ack the delivery, or reject it if DEAD."""

    state: JobState
    sequence: int

    @property
    def dead(self) -> bool:
        """Whether the job is DEAD."""
        return self.state is JobState.DEAD


@dataclass(frozen=True, slots=True)
class Fenced:
    """The run was no longer ours and nothing was written. The delivery is acked."""


async def settle(
    database: Database, items: Sequence[Settle], *, worker_id: UUID
) -> list[Settled | Fenced]:
    """End runs: one statement, one transaction, at most one item per job.

    CANCELLED replaces any end but COMPLETED while a cancel request stands. Run again after an
    unknown commit it recognises its own result by the claim. Raises StoreUnavailable.
    """
    await failpoint("before_settle_commit")
    records = await database.fetch(SQL.settle, *_settle_columns(worker_id, items, own=True))
    await failpoint("after_settle_commit")
    found = {record["job_id"]: record for record in records}
    return [_settle_outcome(found[item.job_id]) for item in items]


async def settle_for(
    connection: Connection, items: Sequence[Settle], *, worker_id: UUID
) -> dict[UUID, Settled]:
    """End another's runs inside the caller's transaction and strike off their claims."""
    if not items:
        return {}
    records = await connection.fetch(SQL.settle, *_settle_columns(worker_id, items, own=False))
    return {
        record["job_id"]: Settled(JobState(record["state"]), record["sequence"])
        for record in records
        if record["state"] is not None
    }


@dataclass(frozen=True, slots=True)
class StepStored:
    """The result is stored. `sequence` is that of its event; None: stored by an earlier try."""

    sequence: int | None


async def complete_step(
    database: Database,
    *,
    job_id: UUID,
    run_epoch: int,
    worker_id: UUID,
    name: str,
    result: Content,
) -> StepStored | Fenced:
    """Store a step's result, once per job and name, with its event, in one transaction."""
    record = await database.fetchrow(
        SQL.complete_step,
        worker_id,
        job_id,
        run_epoch,
        name,
        result.kind,
        result.content_type,
        result.data,
    )
    if record is None or not record["own"]:
        return Fenced()
    return StepStored(record["sequence"])


async def load_steps(database: Database, job_id: UUID) -> dict[str, Content]:
    """Read the results of the steps that earlier runs finished."""
    return {
        record["name"]: Content(ContentKind(record["kind"]), record["data"], record["type"])
        for record in await database.fetch(SQL.load_steps, job_id)
    }


async def save_progress(database: Database, items: Sequence[tuple[UUID, int, Progress]]) -> None:
    """Keep the newest progress of (job, epoch) that still run; lossy, the disk is not awaited."""

    async def save(connection: Connection) -> None:
        await connection.execute("SET LOCAL synchronous_commit = off")
        await connection.fetch(
            SQL.save_progress,
            [job_id for job_id, _, _ in items],
            [run_epoch for _, run_epoch, _ in items],
            [progress.to_bytes() for _, _, progress in items],
        )

    await database.transact(save)


@dataclass(frozen=True, slots=True)
class HeldRun:
    """A run as the database knows it."""

    run_epoch: int
    claim_id: UUID
    cancel_requested: bool


async def held(database: Database, worker_id: UUID) -> dict[UUID, HeldRun]:
    """Read what runs in a worker's name, to be compared with what it holds."""
    return {
        record["job_id"]: HeldRun(
            record["run_epoch"], record["claim_id"], record["cancel_requested"]
        )
        for record in await database.fetch(SQL.held, worker_id)
    }


async def interrupt_unheld(
    database: Database, worker_id: UUID, runs: Sequence[tuple[UUID, int]]
) -> dict[UUID, Settled]:
    """End (job, epoch) that run in our name but that we do not hold as INTERRUPTED.

    Such a run is a claim whose reply was lost. One transaction.
    """
    epochs = dict(runs)
    random = Random()

    async def interrupt(connection: Connection) -> dict[UUID, Settled]:
        await connection.fetch(SQL.lock_waiting, worker_id, list(epochs))
        items = [
            Settle(
                job_id=facts.job_id,
                run_epoch=facts.run_epoch,
                claim_id=facts.claim_id,
                settlement=decide(
                    facts.budget, Interrupted("its worker did not know of it"), random=random
                ),
                delivery_in_hand=False,
            )
            for facts in await read_facts(connection, worker_id, list(epochs))
            if facts.run_epoch == epochs[facts.job_id]
        ]
        return await settle_for(connection, items, worker_id=worker_id)

    return await database.transact(interrupt)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run is judged by when it is ended from outside."""

    job_id: UUID
    run_epoch: int
    claim_id: UUID
    timeout: timedelta | None
    budget: RunBudget


async def read_facts(
    connection: Connection, worker_id: UUID, job_ids: Sequence[UUID] | None
) -> list[RunFacts]:
    """Read the facts of a worker's runs, whose jobs the caller has locked."""
    records = await connection.fetch(SQL.judge, worker_id, job_ids)
    return [
        RunFacts(
            job_id=record["job_id"],
            run_epoch=record["run_epoch"],
            claim_id=record["claim_id"],
            timeout=record["timeout"],
            budget=_budget(record),
        )
        for record in records
    ]


def _claim_outcome(record: Record, request: ClaimRequest, types: Collection[str]) -> ClaimOutcome:
    if record["id"] is not None:
        return _claim(record)
    if not record["lease_live"]:
        return LeaseLapsed()
    state = record["locked_state"]
    waiting = state in (JobState.PENDING, JobState.QUEUED, JobState.FAILED) and record["due"]
    if waiting and record["locked_type"] not in types:
        return TypeLacking()
    if waiting and record["locked_isolation"] == Isolation.ALONE:
        return MustRunAlone()
    dead = state == JobState.DEAD and record["locked_dispatch_no"] == request.dispatch_no
    return NothingToDo(dead=dead)


def _claim(record: Record) -> Claim:
    return Claim(
        job_id=record["id"],
        claim_id=record["claim_id"],
        run_epoch=record["run_epoch"],
        type=record["type"],
        queue=record["queue"],
        attempt=record["attempt"],
        failures=record["failures"],
        crashes=record["crashes"],
        isolation=Isolation(record["isolation"]),
        policy=rows.policy(record),
        timeout=record["timeout"],
        payload=rows.content(record, "payload"),
        labels=orjson.loads(record["labels"]) if record["labels"] else {},
        traceparent=record["traceparent"],
        tracestate=record["tracestate"],
        cancel_requested=record["cancel_time"] is not None,
        create_time=record["create_time"],
        queue_time=record["queue_time"],
        start_time=record["start_time"],
        sequence=record["sequence"],
    )


def _budget(record: Record) -> RunBudget:
    return RunBudget(
        type=record["type"],
        failures=record["failures"],
        crashes=record["crashes"],
        isolation=Isolation(record["isolation"]),
        policy=rows.policy(record),
    )


def _settle_columns(worker_id: UUID, items: Sequence[Settle], *, own: bool) -> list[object]:
    ends = [item.settlement for item in items]
    return [
        worker_id,
        [item.job_id for item in items],
        [item.run_epoch for item in items],
        [item.claim_id for item in items],
        [end.state for end in ends],
        [end.event for end in ends],
        [end.message for end in ends],
        [end.failures for end in ends],
        [end.crashes for end in ends],
        [end.isolation for end in ends],
        [end.delay for end in ends],
        [end.result.kind if end.result else None for end in ends],
        [end.result.content_type if end.result else None for end in ends],
        [end.result.data if end.result else None for end in ends],
        [end.error.type if end.error else None for end in ends],
        [end.error.message if end.error else None for end in ends],
        [end.error.retryable if end.error else None for end in ends],
        [end.fingerprint for end in ends],
        [item.delivery_in_hand for item in items],
        [item.progress.to_bytes() if item.progress else None for item in items],
        own,
    ]


def _settle_outcome(record: Record) -> Settled | Fenced:
    if record["state"] is not None:
        return Settled(JobState(record["state"]), record["sequence"])
    if record["settled_before"]:
        return Settled(JobState(record["locked_state"]), record["locked_sequence"])
    return Fenced()
