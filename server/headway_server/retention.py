"""Removes finished jobs and old idempotency keys, a few at a time, while everything else goes on.

There is no index for it that every job would have to pay for: a walk along the IDs, which grow with
the time of submission, finds what is old. It goes on where it stopped, and once a day it begins
anew, for jobs that took long or were replayed. Any number of servers may do it, each for itself.
"""

import asyncio
import random
from collections.abc import Awaitable
from datetime import timedelta
from time import monotonic
from typing import Final, Never, TypeVar
from uuid import UUID

import structlog

from headway_core import retention
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_server.streak import Streak

PERIOD: Final = timedelta(minutes=1)
ANEW_EVERY: Final = timedelta(days=1)
JOBS_A_STEP: Final = 500
KEY_PAGES_A_STEP: Final = 64
REST: Final = 3.0
"""For each second of work: so a server uses at most a quarter of one connection."""
BEGINNING: Final = UUID(int=0)

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Retention:
    """Removes what is due once a minute. `run` is to be a task; it ends by cancellation."""

    def __init__(self, database: Database, *, finished_for: timedelta) -> None:
        self._database = database
        self._finished_for = finished_for
        self._after = BEGINNING
        self._jobs_a_step = JOBS_A_STEP
        self._page = 0
        self._anew_due = 0.0
        self._streak = Streak("retention")

    async def run(self) -> Never:
        """Remove until cancelled."""
        while True:
            # The first time, too: servers that start together come at different times.
            await asyncio.sleep(PERIOD.total_seconds() * random.uniform(0.5, 1.5))
            try:
                await self.remove()
            except StoreUnavailable as error:
                # Perhaps these jobs have very many events: less at a time gets through.
                self._jobs_a_step = max(1, self._jobs_a_step // 2)
                self._streak.failed(error)
            else:
                self._streak.worked()

    async def remove(self) -> None:
        """Remove all that is due. Raises StoreUnavailable; the next call goes on from there."""
        keys = 0
        if monotonic() >= self._anew_due:
            keys = await self._remove_keys()
            self._after = BEGINNING
            self._anew_due = monotonic() + ANEW_EVERY.total_seconds()
        jobs = await self._remove_finished()
        if jobs or keys:
            log.info("old_rows_removed", jobs=jobs, keys=keys)

    async def _remove_finished(self) -> int:
        removed = 0
        while True:
            limit = self._jobs_a_step
            step = await self._paced(
                retention.remove_finished(
                    self._database,
                    after=self._after,
                    finished_for=self._finished_for,
                    limit=limit,
                )
            )
            removed += step.removed
            self._after = step.last_id or self._after
            self._jobs_a_step = min(limit * 2, JOBS_A_STEP)
            if step.seen < limit:
                return removed

    async def _remove_keys(self) -> int:
        removed = 0
        while True:
            count, at_end = await self._paced(
                retention.remove_keys(self._database, page=self._page, pages=KEY_PAGES_A_STEP)
            )
            removed += count
            self._page = 0 if at_end else self._page + KEY_PAGES_A_STEP
            if at_end:
                return removed

    async def _paced(self, work: Awaitable[Result]) -> Result:
        begun = monotonic()
        result = await work
        await asyncio.sleep(REST * (monotonic() - begun))
        return result
