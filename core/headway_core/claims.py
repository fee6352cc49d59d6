"""Claims: a delivery becomes a run of ours, or tells why not."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from headway_core import rows
from headway_core.backoff import DECLINE_BACKOFF_MAX, DECLINE_BACKOFF_MIN
from headway_core.content import Content
from headway_core.database import Database, Record
from headway_core.failpoints import failpoint
from headway_core.job import RetryPolicy
from headway_core.queries import load
from headway_core.settlement import RunBudget
from headway_core.states import Isolation, JobState

SQL: Final = load("claims")


class ClaimRequest(NamedTuple):
    """A delivery's wish to run its job. `claim_id` is fixed before the first try."""

    job_id: UUID
    claim_id: UUID
    dispatch_no: int


class Claim(NamedTuple):
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
