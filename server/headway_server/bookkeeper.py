"""What follows a confirm: the outbox row goes, and a little later the job is marked QUEUED.

Neither is urgent, and both take something from submits and starts, so they wait for others to share
a commit. Most jobs have started before their mark, and need none: STARTED then comes right after
SUBMITTED, and the job has a row version less.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Never

import structlog

from headway_core import outbox
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.failpoints import failpoint
from headway_core.hints import EventHint
from headway_core.job import Dispatch
from headway_server.streak import Streak

FORGET_AFTER: Final = timedelta(milliseconds=30)
"""How long confirmed rows wait for others to be deleted with them. A lone job has been claimed by
then, so that the delete's commit does not delay the claim's."""
FORGET_MAX: Final = 1_000
ROWS_MAX: Final = 10_000
"""Rows beyond it are left to the poller, which publishes them again and deletes them."""
MARK_AFTER: Final = timedelta(milliseconds=70)
"""How long a job waits for its mark once its row is gone, and others to be marked with it."""
MARK_YOUNGEST: Final = timedelta(milliseconds=50)
"""A job that waits for less is left to the next batch: most start by then."""
MARK_MAX: Final = 500
UNMARKED_MAX: Final = 50_000
"""Beyond it marks are left out: the job runs all the same, or a sweep finds it."""
POUR_MIN: Final = 16
"""So many jobs to be marked that come at once are a pour, and marks wait until it is over."""
LULL: Final = timedelta(milliseconds=100)
"""It is over when none has come for so long."""
PATIENCE: Final = timedelta(seconds=2)
"""A mark waits no longer for that: a sweep takes a job for lost that has none for 10 s."""
BACKOFF: Final = timedelta(seconds=1)

log = structlog.get_logger(__name__)


class Bookkeeper:
    """Books what the broker has confirmed. `run` is to be a task; it ends by cancellation.

    `forget` and `mark` may be called from any other task of the loop and never wait.
    """

    def __init__(self, database: Database, send_hint: Callable[[EventHint], None]) -> None:
        self._database = database
        self._send_hint = send_hint
        self._rows: deque[Dispatch] = deque()
        self._some_rows = asyncio.Event()
        self._unmarked: deque[tuple[float, Dispatch]] = deque()
        self._some_unmarked = asyncio.Event()
        self._poured = float("-inf")
        self._forgetting = asyncio.Lock()
        self._marking = asyncio.Lock()
        self._streak = Streak("lazy mark")

    def forget(self, confirmed: Sequence[Dispatch]) -> None:
        """Delete these rows soon, and mark their jobs after that."""
        self._rows.extend(confirmed[: ROWS_MAX - len(self._rows)])
        if self._rows:
            self._some_rows.set()

    def mark(self, forgotten: Sequence[Dispatch]) -> None:
        """Mark the jobs of these rows, which are gone, in a while.

        Dead letters are not waiting, so they are passed over.
        """
        now = asyncio.get_running_loop().time()
        if len(forgotten) >= POUR_MIN:
            self._poured = now
        for item in forgotten:
            if not item.dead and len(self._unmarked) < UNMARKED_MAX:
                self._unmarked.append((now, item))
        if self._unmarked:
            self._some_unmarked.set()

    async def finish(self) -> None:
        """Book all that is noted now, after what is under way. Raises StoreUnavailable."""
        async with self._forgetting, self._marking:
            while self._rows and await self._forget(self._take_rows()):
                pass
            while self._unmarked:
                await self._mark(self._take_unmarked(self._unmarked[-1][0]))

    async def run(self) -> None:
        """Book until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_forgetting())
            group.create_task(self._keep_marking())

    async def _keep_forgetting(self) -> Never:
        while True:
            await self._some_rows.wait()
            await asyncio.sleep(FORGET_AFTER.total_seconds())
            async with self._forgetting:
                forgotten = await self._forget(self._take_rows())
            if not forgotten:
                await asyncio.sleep(BACKOFF.total_seconds())

    def _take_rows(self) -> list[Dispatch]:
        batch = [self._rows.popleft() for _ in range(min(len(self._rows), FORGET_MAX))]
        if not self._rows:
            self._some_rows.clear()
        return batch

    async def _forget(self, batch: Sequence[Dispatch]) -> bool:
        """Delete rows, or else keep them for the next try, which may delete them twice."""
        if not batch:
            return True
        try:
            await outbox.delete(self._database, [item.outbox_id for item in batch])
        except StoreUnavailable as error:
            # The poller may publish them again meanwhile; a claim takes only one of the two.
            log.warning("outbox_delete_failed", count=len(batch), reason=str(error))
            self.forget(batch)
            return False
        await failpoint("after_outbox_delete")
        self.mark(batch)
        return True

    async def _keep_marking(self) -> Never:
        loop = asyncio.get_running_loop()
        while True:
            await self._some_unmarked.wait()
            if self._unmarked:
                await self._wait_for_turn(self._unmarked[0][0])
            async with self._marking:
                batch = self._take_unmarked(loop.time() - MARK_YOUNGEST.total_seconds())
                try:
                    await self._mark(batch)
                except StoreUnavailable as error:
                    self._streak.failed(error)
                    self._unmarked.extendleft(reversed(batch))
                    self._some_unmarked.set()
                else:
                    self._streak.worked()
                    continue
            await asyncio.sleep(BACKOFF.total_seconds())

    async def _wait_for_turn(self, noted: float) -> None:
        time = asyncio.get_running_loop().time
        await asyncio.sleep(noted + MARK_AFTER.total_seconds() - time())
        while (now := time()) < self._poured + LULL.total_seconds():
            if now >= noted + PATIENCE.total_seconds():
                return
            await asyncio.sleep(LULL.total_seconds() / 2)

    def _take_unmarked(self, noted_by: float) -> list[tuple[float, Dispatch]]:
        # A job may be here twice, in any order: its newest dispatch is the one that may still hold.
        batch: dict[object, tuple[float, Dispatch]] = {}
        while self._unmarked and self._unmarked[0][0] <= noted_by and len(batch) < MARK_MAX:
            noted, item = self._unmarked.popleft()
            known = batch.get(item.job_id)
            if known is None or known[1].dispatch_no < item.dispatch_no:
                batch[item.job_id] = (noted, item)
        if not self._unmarked:
            self._some_unmarked.clear()
        return list(batch.values())

    async def _mark(self, batch: Sequence[tuple[float, Dispatch]]) -> None:
        if not batch:
            return
        marked = await outbox.mark_queued(
            self._database, [(item.job_id, item.dispatch_no) for _, item in batch]
        )
        for job_id, sequence in marked:
            self._send_hint(EventHint(job_id, sequence, done=False))
