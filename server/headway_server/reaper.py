"""Ends the runs of workers that are heard of no more (DESIGN §5.6). Any number of them may run."""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import Final, Never
from uuid import UUID

import structlog

from headway_core import leases
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.hints import EventHint
from headway_core.states import JobState
from headway_server.patience import Patience, Reason, Sight, fail, may_judge, see
from headway_server.streak import Streak

TICK: Final = timedelta(seconds=1)
WORKERS_MAX: Final = 100
"""Judged in one tick; each in a transaction of its own."""
TIDY_EVERY: Final = timedelta(minutes=1)
WORKERS_FORGOTTEN_AFTER: Final = timedelta(days=1)

log = structlog.get_logger(__name__)


class Reaper:
    """Judges once a second. `run` is to be a task; it ends by cancellation."""

    def __init__(
        self,
        database: Database,
        *,
        lease: timedelta,
        heartbeat: timedelta,
        send_hint: Callable[[EventHint], None],
        poke_relay: Callable[[], None],
    ) -> None:
        self._database = database
        self._lease = lease
        self._patience = Patience(lease, heartbeat, TICK)
        self._send_hint = send_hint
        self._poke_relay = poke_relay
        self._tidy_due = 0.0
        self._streak = Streak("reaper")

    async def run(self) -> Never:
        """Tick until cancelled."""
        while True:
            try:
                await self.tick()
            except StoreUnavailable as error:
                self._patience = fail(self._patience)
                self._streak.failed(error)
            else:
                self._streak.worked()
            await asyncio.sleep(TICK.total_seconds() * random.uniform(0.8, 1.0))

    async def tick(self) -> None:
        """Look once. Raises StoreUnavailable."""
        clock = await leases.database_clock(self._database)
        self._patience, reason = see(self._patience, Sight(clock, monotonic()))
        if reason is not None:
            log.log(_LEVELS[reason], "reaper_waits", reason=str(reason))
        if not may_judge(self._patience, monotonic()):
            return
        for worker_id in await leases.lapsed(self._database, limit=WORKERS_MAX):
            await self._reap(worker_id)
        await self._tidy()

    async def _reap(self, worker_id: UUID) -> None:
        judged = await leases.reap(self._database, worker_id)
        for run in judged:
            self._send_hint(EventHint(run.job_id, run.sequence, run.state.done))
        if judged:
            dead = sum(run.state is JobState.DEAD for run in judged)
            log.warning("worker_lost", worker_id=str(worker_id), runs=len(judged), dead=dead)
            self._poke_relay()

    async def _tidy(self) -> None:
        now = monotonic()
        if now >= self._tidy_due:
            self._tidy_due = now + TIDY_EVERY.total_seconds()
            await leases.tidy(
                self._database,
                ended_after=2 * self._lease,
                forgotten_after=WORKERS_FORGOTTEN_AFTER,
            )


_LEVELS: Final = {
    Reason.STARTED: logging.INFO,
    Reason.TICK_FAILED: logging.INFO,
    Reason.TICK_LATE: logging.WARNING,
    Reason.CLOCKS_MOVED_APART: logging.WARNING,
    Reason.POSTGRES_RESTARTED: logging.WARNING,
}
