"""Runs under way: held, judged, settled. Every write names the worker and the epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final, NamedTuple
from uuid import UUID

from headway_core import rows
from headway_core.database import Connection, Database, Record
from headway_core.failpoints import failpoint
from headway_core.job import Progress
from headway_core.outcomes import Interrupted
from headway_core.queries import load
from headway_core.rows import column
from headway_core.settlement import RunBudget, Settlement, decide
from headway_core.states import Isolation, JobState

SQL: Final = load("runs")


class Settle(NamedTuple):
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
    results = [end.result for end in ends]
    errors = [end.error for end in ends]
    return [
        worker_id,
        [item.job_id for item in items],
        [item.run_epoch for item in items],
        [item.claim_id for item in items],
        [end.state for end in ends],
        [end.event for end in ends],
        column([end.message or None for end in ends]),
        [end.failures for end in ends],
        [end.crashes for end in ends],
        [end.isolation for end in ends],
        column([end.delay or None for end in ends]),
        column([result.kind if result else None for result in results]),
        column([result.content_type if result else None for result in results]),
        column([result.data if result else None for result in results]),
        column([error.type if error else None for error in errors]),
        column([error.message if error else None for error in errors]),
        column([error.retryable if error else None for error in errors]),
        column([end.fingerprint for end in ends]),
        [item.delivery_in_hand for item in items],
        column([item.progress.to_bytes() if item.progress else None for item in items]),
        own,
    ]


def _settle_outcome(record: Record) -> Settled | Fenced:
    if record["state"] is not None:
        return Settled(JobState(record["state"]), record["sequence"])
    if record["settled_before"]:
        return Settled(JobState(record["locked_state"]), record["locked_sequence"])
    return Fenced()
