"""What a measurement gets, and how much it is to do."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.profiling import profiled
from bench.rows import Samples
from bench.stage import Headway, Stage


@dataclass(frozen=True, slots=True)
class Plan:
    """One repetition: where, what is wanted of it, and at which scale (1: the real one)."""

    stage: Stage
    samples: Samples
    wanted: frozenset[str]
    scale: float = 1.0
    # The role of Headway's process that is profiled, and where profiles go.
    profile: str | None = None
    directory: Path = Path()

    def jobs(self, count: int, *, batch: int = 1) -> int:
        """Scale a number of jobs, to whole calls."""
        return max(batch, int(count * self.scale) // batch * batch)

    def seconds(self, seconds: float) -> float:
        """Scale a time."""
        return max(0.2, seconds * self.scale)

    def profiled(self, system: object, row: str) -> AbstractAsyncContextManager[None]:
        """Profile while a row is measured, if that is wanted and this is Headway."""
        if self.profile is None or not isinstance(system, Headway):
            return nullcontext()
        path = self.directory / f"profile-{row}-{self.profile}.txt"
        return profiled(system.pid(self.profile), path)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Rows that are measured together, in turn with their floors."""

    rows: tuple[str, ...]
    run: Callable[[Plan], Awaitable[None]]
