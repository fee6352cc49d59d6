"""How far a run has come, from what its handler reports."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import isfinite
from time import monotonic
from typing import Final

from headway_core.content import storable_text
from headway_core.job import Progress

STEP_BYTES_MAX: Final = 256
MESSAGE_BYTES_MAX: Final = 1_024
NUMBER_MAX: Final = 1e15
REMAINING_MAX: Final = timedelta(days=3_650)
TIME_STEP: Final = timedelta(microseconds=1)
REMAINING_FRACTION_MIN: Final = 1e-6
"""Below this the rate is noise."""


class ProgressMeter:
    """The newest progress of one run.

    `report` may be called from any thread, as often as the handler likes; it takes no more than a
    lock that nobody holds for long. Whoever sends progress on calls `take` now and then.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self.on_report: Callable[[], object] = _nobody
        """Told of every report, in the thread that makes it."""
        self._latest: Progress | None = None
        self._taken: Progress | None = None
        self._begun = clock()
        self._begun_fraction = 0.0

    @property
    def latest(self) -> Progress | None:
        """The newest progress. None: nothing was reported."""
        return self._latest

    def take(self) -> Progress | None:
        """The newest progress, if it was not taken before."""
        latest = self._latest
        if latest is self._taken:
            return None
        self._taken = latest
        return latest

    def replace(self, progress: Progress) -> None:
        """Take over progress that was metered elsewhere."""
        self._latest = progress
        self.on_report()

    def report(
        self,
        done: object,
        total: object,
        *,
        fraction: object,
        step: object,
        message: object,
    ) -> None:
        """Note progress. What is None stays as it was; what makes no sense is clamped or ignored.

        A new step begins with no message, and measures its own rate. With a total the fraction
        follows from it, unless it is given.
        """
        with self._lock:
            now = self._next_time()
            before = self._latest or Progress(update_time=now)
            begins = step is not None and (name := _text(step, STEP_BYTES_MAX)) != before.step
            if begins:
                before = Progress(update_time=before.update_time, step=name)
            units = _number(total, before.total)
            count = _number(done, before.done) or 0.0
            if units is not None:
                count = min(count, units)
            share = _share(fraction, count, units, before.fraction if done is None else None)
            if begins:
                self._begun, self._begun_fraction = self._clock(), share or 0.0
            self._latest = Progress(
                update_time=now,
                done=count,
                total=units,
                fraction=share,
                step=before.step,
                message=before.message if message is None else _text(message, MESSAGE_BYTES_MAX),
                estimated_remaining=self._remaining(share),
            )
        self.on_report()

    def _next_time(self) -> datetime:
        """Now, but never before the latest: by it others tell what is newer, and a clock may be
        set back during a run.
        """
        now = self._now()
        if self._latest is not None and now < self._latest.update_time:
            return self._latest.update_time + TIME_STEP
        return now

    def _remaining(self, share: float | None) -> timedelta | None:
        """By the rate since the step began."""
        if share is None:
            return None
        if share >= 1:
            return timedelta(0)
        gained = share - self._begun_fraction
        elapsed = self._clock() - self._begun
        if gained < REMAINING_FRACTION_MIN or elapsed <= 0:
            return None
        seconds = min((1 - share) / gained * elapsed, REMAINING_MAX.total_seconds())
        return timedelta(seconds=seconds)


def _nobody() -> None:
    """Hear nothing."""


def _number(value: object, before: float | None) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return before
    try:
        number = float(value)
    except OverflowError:
        return before
    return min(max(number, 0.0), NUMBER_MAX) if isfinite(number) else before


def _share(
    fraction: object, count: float, units: float | None, before: float | None
) -> float | None:
    given = _number(fraction, None)
    if given is not None:
        return min(given, 1.0)
    if units is None:
        return before
    return count / units if units > 0 else 1.0


def _text(value: object, bytes_max: int) -> str:
    try:
        return storable_text(str(value), bytes_max)
    except Exception:  # noqa: BLE001 - user code: __str__ may do anything
        return ""
