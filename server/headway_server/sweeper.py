"""Finds jobs that wait but that no message speaks for, and publishes them again (DESIGN §5.6).

Always with the same dispatch number: the original, if it is alive after all, keeps its place, and
one of the two does nothing.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Never
from uuid import UUID

import structlog

from headway_core import sweeps
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.job import Dispatch
from headway_core.publishing import Publisher
from headway_server.streak import Streak

PERIOD: Final = timedelta(seconds=10)
JOBS_MAX: Final = 1000
"""Published again in one sweep, of all kinds together."""
STARVING: Final = "starving"
QUEUED_LONG: Final = timedelta(seconds=30)

Waiting = tuple[UUID, int]
"""A job and its dispatch number."""

log = structlog.get_logger(__name__)


class Sweeper:
    """Sweeps every 10 s. `run` is to be a task; it ends by cancellation."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        starvation: timedelta,
        dispatch: Callable[[Sequence[Dispatch]], None],
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._starvation = starvation
        self._dispatch = dispatch
        self._found_before: frozenset[Waiting] = frozenset()
        self._streak = Streak("sweeper")

    async def run(self) -> Never:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(PERIOD.total_seconds() * random.uniform(0.9, 1.1))
            try:
                await self.sweep()
            except StoreUnavailable as error:
                # Findings in a row only count if no sweep failed in between.
                self._found_before = frozenset()
                self._streak.failed(error)
            else:
                self._streak.worked()

    async def sweep(self) -> None:
        """Sweep once. Raises StoreUnavailable."""
        room = JOBS_MAX
        room -= await self._sweep_stranded(room)
        room -= await self._sweep_queued(room)
        if room > 0:
            starving = await sweeps.redispatch_starving(
                self._database, waiting_longer_than=self._starvation, limit=room
            )
            self._send(starving, STARVING)

    async def _sweep_stranded(self, room: int) -> int:
        """Publish jobs that are due without a row, if the sweep before saw them so as well.

        Between a confirm and the lazy mark every job looks stranded for a moment.
        """
        found = frozenset(await sweeps.stranded(self._database, limit=JOBS_MAX))
        twice = sorted(found & self._found_before)[:room]
        self._found_before = found
        sent = await sweeps.redispatch(self._database, twice)
        return self._send(sent, "stranded")

    async def _sweep_queued(self, room: int) -> int:
        """Jobs QUEUED for long, as many as the broker has fewer messages than we have such jobs."""
        sent = 0
        counts = await sweeps.queued_counts(self._database, older_than=QUEUED_LONG)
        for queue, count in counts.items():
            ready = await self._publisher.ready_count(queue)
            if ready is None and not self._publisher.ready:
                return sent  # the broker is away: nothing can be said
            deficit = min(count - (ready or 0), room - sent)
            if deficit > 0:
                dispatches = await sweeps.redispatch_queued(
                    self._database, queue, older_than=QUEUED_LONG, limit=deficit
                )
                sent += self._send(dispatches, "lost at the broker")
        return sent

    def _send(self, dispatches: Sequence[Dispatch], finding: str) -> int:
        if dispatches:
            # Starving is the load's doing; the other findings are something lost.
            level = logging.INFO if finding == STARVING else logging.WARNING
            log.log(level, "jobs_published_again", finding=finding, count=len(dispatches))
            self._dispatch(dispatches)
        return len(dispatches)
