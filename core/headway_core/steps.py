"""Results of finished steps, stored once per job and name."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from headway_core.content import Content, ContentKind
from headway_core.database import Database
from headway_core.queries import load
from headway_core.runs import Fenced

SQL: Final = load("steps")


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
