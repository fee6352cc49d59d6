"""Least squares over samples, without keeping the samples."""

from dataclasses import dataclass
from math import sqrt
from typing import Final

HOUR_SECONDS: Final = 3600.0


@dataclass(slots=True)
class Series:
    """What one process showed: the sums that a straight line needs, about its first sample."""

    count: int = 0
    first_time: float = 0.0
    first_value: float = 0.0
    last_time: float = 0.0
    last_value: float = 0.0
    highest: float = 0.0
    _t: float = 0.0
    _y: float = 0.0
    _tt: float = 0.0
    _ty: float = 0.0
    _yy: float = 0.0

    def add(self, time: float, value: float) -> None:
        """Take a sample: seconds on any clock, and what was there."""
        if not self.count:
            self.first_time, self.first_value = time, value
        self.count += 1
        self.last_time, self.last_value = time, value
        self.highest = max(self.highest, value)
        t, y = time - self.first_time, value - self.first_value
        self._t += t
        self._y += y
        self._tt += t * t
        self._ty += t * y
        self._yy += y * y

    @property
    def spread(self) -> tuple[float, float, float]:
        """Sums of squares about the means: of time, of time and value, of value."""
        if not self.count:
            return (0.0, 0.0, 0.0)
        n = self.count
        return (
            self._tt - self._t * self._t / n,
            self._ty - self._t * self._y / n,
            self._yy - self._y * self._y / n,
        )


@dataclass(frozen=True, slots=True)
class Slope:
    """A line through the samples of processes of one role."""

    per_hour: float
    error: float
    """Its standard error, per hour, as if samples were independent."""
    seconds: float
    """How long the longest life was sampled."""
    highest: float
    count: int
    """Samples."""


def slope(lives: list[Series]) -> Slope | None:
    """The common slope of several lives, each with a level of its own; None for too few samples.

    A life counts by the square of its length, so those that nobody kills decide.
    """
    lives = [life for life in lives if life.count > 1]
    time, both, value = (
        (sum(parts) for parts in zip(*(life.spread for life in lives), strict=True))
        if lives
        else (0.0, 0.0, 0.0)
    )
    count = sum(life.count for life in lives)
    freedom = count - len(lives) - 1
    if time <= 0 or freedom < 1:
        return None
    residual = max(0.0, value - both * both / time)
    return Slope(
        per_hour=both / time * HOUR_SECONDS,
        error=sqrt(residual / freedom / time) * HOUR_SECONDS,
        seconds=max(life.last_time - life.first_time for life in lives),
        highest=max(life.highest for life in lives),
        count=count,
    )
