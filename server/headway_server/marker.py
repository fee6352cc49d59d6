"""QUEUED, lazily: the mark follows the confirm a little later, if no worker has started the job."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Final, Never

from headway_core import outbox
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.hints import EventHint
from headway_core.job import Dispatch
from headway_server.streak import Streak

LAZINESS: Final = timedelta(milliseconds=50)
"""A job that starts sooner has STARTED right after SUBMITTED, and costs one row version less."""
GATHERING: Final = timedelta(milliseconds=20)
"""So long a mark waits for others, to share a commit."""
BATCH_MAX: Final = 500
WAITING_MAX: Final = 50_000
"""Beyond it marks are left out: the job runs all the same, or a sweep finds it."""
BACKOFF: Final = timedelta(seconds=1)


class Marker:
    """Marks jobs whose message the broker has confirmed. `run` is to be a task."""

    def __init__(self, database: Database, send_hint: Callable[[EventHint], None]) -> None:
        self._database = database
        self._send_hint = send_hint
        self._waiting: deque[tuple[float, Dispatch]] = deque()
        self._filled = asyncio.Event()
        self._streak = Streak("lazy mark")

    def note(self, confirmed: Iterable[Dispatch]) -> None:
        """Mark these in a while. Dead letters are not waiting, so they are passed over."""
        due = asyncio.get_running_loop().time() + LAZINESS.total_seconds()
        for item in confirmed:
            if not item.dead and len(self._waiting) < WAITING_MAX:
                self._waiting.append((due, item))
        if self._waiting:
            self._filled.set()

    async def finish(self) -> None:
        """Mark all that is noted now. Raises StoreUnavailable."""
        while self._waiting:
            await self._mark(self._take(self._waiting[-1][0]))

    async def run(self) -> Never:
        """Mark until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            if self._waiting:
                due = self._waiting[0][0] + GATHERING.total_seconds()
                await asyncio.sleep(due - loop.time())
            batch = self._take(loop.time())
            try:
                await self._mark(batch)
            except StoreUnavailable as error:
                self._streak.failed(error)
                self.note(batch)
                await asyncio.sleep(BACKOFF.total_seconds())
            else:
                self._streak.worked()

    def _take(self, now: float) -> list[Dispatch]:
        # A job may be here twice, of two dispatches: the statement takes one item a job, and the
        # later one is the one that still may hold.
        batch: dict[object, Dispatch] = {}
        while self._waiting and self._waiting[0][0] <= now and len(batch) < BATCH_MAX:
            item = self._waiting.popleft()[1]
            batch[item.job_id] = item
        if not self._waiting:
            self._filled.clear()
        return list(batch.values())

    async def _mark(self, batch: list[Dispatch]) -> None:
        if not batch:
            return
        marked = await outbox.mark_queued(
            self._database, [(item.job_id, item.dispatch_no) for item in batch]
        )
        for job_id, sequence in marked:
            self._send_hint(EventHint(job_id, sequence, done=False))
