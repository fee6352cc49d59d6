"""How long it takes until a fault is over for those who wait."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from tests.soak.ledger import Ledger
from tests.soak.onlooker import RUNS, UNFINISHED_BEFORE, Onlooker

LOOK_SECONDS: Final = 0.1
RECOVERY_SECONDS_MAX: Final = 150.0
"""However many faults come on top."""

LOOK_SECONDS_MAX: Final = 2.0

Runs = tuple[list[UUID], list[int]]
"""Jobs, and the epochs of their runs."""
NO_RUNS: Final[Runs] = ([], [])


@dataclass(frozen=True, slots=True)
class Recovery:
    """Counted from when the fault is undone; for what is killed or reset, from when it strikes."""

    kind: str
    accepted: float
    """Seconds until a submit is accepted."""
    done: float
    """Seconds until every short job of before is done, and every run that was cut off is done over:
    it has begun anew, or its job is done."""


class Recoveries:
    """Follows faults to their end."""

    def __init__(self, database_url: str, ledger: Ledger) -> None:
        self._url = database_url
        self._ledger = ledger
        self.all: list[Recovery] = []

    async def runs(self, worker_ids: Sequence[UUID]) -> Runs:
        """What these workers, about to be struck, run now, as far as the database answers."""
        onlooker = Onlooker(self._url)
        try:
            rows = await onlooker.ask(RUNS, worker_ids, seconds=LOOK_SECONDS_MAX)
        finally:
            onlooker.close()
        if rows is None:
            self._ledger.blind_strikes += 1
            return NO_RUNS
        self._ledger.hits.update(row["job_id"] for row in rows)
        return [row["job_id"] for row in rows], [row["run_epoch"] for row in rows]

    async def follow(self, kind: str, cut_off: Runs) -> float | None:
        """Wait until all is as if it had not been; returns how many seconds that took.

        None, and a complaint: it still is not.
        """
        began, began_time = time.monotonic(), time.time()
        onlooker = Onlooker(self._url)
        try:
            accepted: float | None = None
            while True:
                took = time.monotonic() - began
                if accepted is None and self._ledger.last_accepted > began:
                    accepted = self._ledger.last_accepted - began
                left = await onlooker.number(UNFINISHED_BEFORE, began_time, *cut_off)
                if left == 0 and accepted is not None:
                    self.all.append(Recovery(kind, accepted, took))
                    return took
                if took > RECOVERY_SECONDS_MAX:
                    calls = "none" if accepted is None else "one"
                    self._ledger.complain(
                        f"{kind}: after {took:.0f} s {left} jobs of before are not done,"
                        f" and {calls} was accepted since"
                    )
                    return None
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            onlooker.close()


def percentile(values: list[float], part: float) -> float:
    """The nearest rank: of 0.95, the value that 95 % do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(part * 100) * len(ordered) // 100) - 1)]
