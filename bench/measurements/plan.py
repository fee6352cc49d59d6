"""What a measurement gets, and how much it is to do."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.rows import Samples
from bench.stage import Stage


@dataclass(frozen=True, slots=True)
class Plan:
    """One repetition: where, what is wanted of it, and at which scale (1: the real one)."""

    stage: Stage
    samples: Samples
    wanted: frozenset[str]
    scale: float = 1.0

    def jobs(self, count: int, *, batch: int = 1) -> int:
        """Scale a number of jobs, to whole calls."""
        return max(batch, int(count * self.scale) // batch * batch)

    def seconds(self, seconds: float) -> float:
        """Scale a time."""
        return max(0.2, seconds * self.scale)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Rows that are measured together, in turn with their floors."""

    rows: tuple[str, ...]
    run: Callable[[Plan], Awaitable[None]]
