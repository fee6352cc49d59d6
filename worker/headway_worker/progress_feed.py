"""Progress on its way: to watchers at once, to the job's row now and then."""

import asyncio
from typing import Final, Never

from headway_core import runs as store
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.hints import HintPublisher, ProgressHint
from headway_core.job import Progress
from headway_worker.running import Run, RunTable

HINT_SECONDS: Final = 0.05
"""At most so often is a run's progress sent."""
SAVE_SECONDS: Final = 2.0
"""So often is the newest saved, for those who ask without watching."""


async def feed_progress(database: Database, runs: RunTable, hints: HintPublisher) -> Never:
    """Send and save the progress of all runs until cancelled. Lossy: the newest wins."""
    loop = asyncio.get_running_loop()
    unsaved: dict[Run, Progress] = {}
    next_save = 0.0
    while True:
        await runs.wait_any()
        await asyncio.sleep(HINT_SECONDS)
        for run in runs:
            if run.claim is not None and (progress := run.meter.take()) is not None:
                hints.send(ProgressHint(run.job_id, run.claim.run_epoch, progress))
                unsaved[run] = progress
        if unsaved and loop.time() >= next_save:
            next_save = loop.time() + SAVE_SECONDS
            await _save(database, unsaved)
            unsaved.clear()


async def _save(database: Database, unsaved: dict[Run, Progress]) -> None:
    # A settling run writes its last progress with its end.
    items = [
        (run.job_id, run.claim.run_epoch, progress)
        for run, progress in unsaved.items()
        if run.claim is not None and not run.settling
    ]
    if not items:
        return
    try:
        await store.save_progress(database, items)
    except StoreUnavailable:
        pass  # newer progress follows
