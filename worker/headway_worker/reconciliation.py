"""Comparing, at every heartbeat, what this executor holds with what runs in its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog

from headway_core import runs as store
from headway_core.database import Database
from headway_core.hints import EventHint, HintPublisher, OutboxHint
from headway_core.runs import HeldRun
from headway_worker.endings import Stop
from headway_worker.running import Run, RunTable

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Differences:
    """What does not agree."""

    unknown: list[tuple[UUID, int]]
    """(job, epoch) that run in our name but are not held: claims whose reply was lost."""
    lost: list[Run]
    """Held, but no longer ours."""
    to_cancel: list[Run]
    """Someone asks for their end."""


async def reconcile(
    database: Database, worker_id: UUID, runs: RunTable, hints: HintPublisher
) -> None:
    """End as INTERRUPTED what runs in our name unheld; stop what is held and no longer ours.

    Also finds the cancel requests whose hint was lost. Raises StoreUnavailable.
    """
    running_before = [run for run in runs if run.claim is not None and not run.settling]
    with runs.watched() as held:
        stored = await store.held(database, worker_id)
        found = differences(stored, held, running_before, runs.of_claim)
    for run in found.lost:
        log.warning("run_no_longer_ours", job_id=str(run.job_id))
        run.request_stop(Stop.LOST)
    for run in found.to_cancel:
        run.request_stop(Stop.CANCELLED)
    if found.unknown:
        ended = await store.interrupt_unheld(database, worker_id, found.unknown)
        for job_id, end in ended.items():
            log.warning("run_not_held", job_id=str(job_id))
            hints.send(EventHint(job_id, end.sequence, done=end.state.done))
        hints.send(OutboxHint())


def differences(
    stored: Mapping[UUID, HeldRun],
    held: set[UUID],
    running_before: list[Run],
    of_claim: Callable[[UUID], Run | None],
) -> Differences:
    """Compare. Pure, but for the runs' own state, which is read as it is after the query.

    `stored` by job; `held` are the claims held at any moment since before the query, so that one
    sent or settled meanwhile is no difference; `running_before` were claimed before the query and
    not settling: only what is still in that state after it can be missing from `stored` for good.
    """
    unknown = [
        (job_id, run.run_epoch) for job_id, run in stored.items() if run.claim_id not in held
    ]
    ours = {run.claim_id for run in stored.values()}
    lost = [run for run in running_before if run.claim_id not in ours and not run.settling]
    to_cancel = [
        run
        for found in stored.values()
        if found.cancel_requested and (run := of_claim(found.claim_id)) and not run.settling
    ]
    return Differences(unknown, lost, to_cancel)
