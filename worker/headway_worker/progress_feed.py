"""Progress on its way: to watchers at once, to the job's row now and then."""

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Never

from headway_core import runs as store
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.hints import HintPublisher, ProgressHint
from headway_worker.running import Run

if TYPE_CHECKING:
    from headway_core.job import Progress

HINT_SECONDS: Final = 0.05
"""At most so often is a run's progress sent; after a pause it is sent at once."""
SAVE_SECONDS: Final = 2.0
"""So often is the newest saved, for those who ask without watching."""


class ProgressFeed:
    """Sends and saves the progress of all runs. Lossy: the newest wins."""

    def __init__(self, database: Database, hints: HintPublisher) -> None:
        self._database = database
        self._hints = hints
        self._loop = asyncio.get_running_loop()
        self._noted: deque[Run] = deque()
        self._wake = asyncio.Event()
        self._unsaved: dict[Run, Progress] = {}

    def note(self, run: Run) -> None:
        """There is news of a run: from any thread, as often as the handler likes."""
        if run.progress_noted:
            return
        run.progress_noted = True
        self._noted.append(run)
        if run.progress_due <= self._loop.time():  # else the next tick sees to it
            with suppress(RuntimeError):  # the loop is closed, and a thread goes on
                self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> Never:
        """Feed until cancelled."""
        next_save = 0.0
        while True:
            self._wake.clear()
            busy = self._send()
            if self._unsaved and self._loop.time() >= next_save:
                await self._save()
                next_save = self._loop.time() + SAVE_SECONDS
            try:
                async with asyncio.timeout(HINT_SECONDS if busy or self._unsaved else None):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _send(self) -> bool:
        """Send what is due. Whether anything was noted, so that more may become due soon."""
        now = self._loop.time()
        count = len(self._noted)
        for _ in range(count):
            run = self._noted.popleft()
            if run.progress_due > now:
                self._noted.append(run)
                continue
            run.progress_noted = False  # before the newest is taken: what comes later is noted
            progress = run.meter.take()
            if progress is None or run.claim is None:
                continue
            run.progress_due = now + HINT_SECONDS
            self._hints.send(ProgressHint(run.job_id, run.claim.run_epoch, progress))
            self._unsaved[run] = progress
        return count > 0

    async def _save(self) -> None:
        # A settling run writes its last progress with its end.
        items = [
            (run.job_id, run.claim.run_epoch, progress)
            for run, progress in self._unsaved.items()
            if run.claim is not None and not run.settling
        ]
        self._unsaved.clear()
        if not items:
            return
        try:
            await store.save_progress(self._database, items)
        except StoreUnavailable:
            pass  # newer progress follows
