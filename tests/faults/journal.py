"""What handlers have noted, in a file that outlives their processes."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.faults.waiting import PATIENCE_SECONDS, until


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a journal."""

    what: str
    job_id: str
    attempt: int
    pid: int
    child: bool
    time: float


class Journal:
    """One journal; jobs are told its path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def lines(self, what: str = "begin") -> list[Line]:
        """The lines of a kind, oldest first."""
        if not self.path.exists():
            return []
        lines = [Line(**json.loads(line)) for line in self.path.read_text().splitlines()]
        return [line for line in lines if line.what == what]

    def runs(self) -> Counter[str]:
        """How often each job began."""
        return Counter(line.job_id for line in self.lines())

    async def begun(self, count: int, *, seconds: float = PATIENCE_SECONDS) -> list[Line]:
        """Wait until so many runs have begun."""
        await until(
            lambda: len(self.lines()) >= count, f"{count} runs", seconds=seconds, tell=self._tell
        )
        return self.lines()

    async def _tell(self) -> str:
        return f"{len(self.lines())} began: {self.runs()}"
