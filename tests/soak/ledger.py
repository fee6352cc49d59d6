"""What a soak has to remember, in bounded memory."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

FINDINGS_MAX: Final = 50
ID_BYTES: Final = 16
PAGE_JOBS: Final = 5_000


class Ledger:
    """Accepted jobs, in a file; counts; and what was found to be wrong."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self.accepted = 0
        self.last_accepted = 0.0
        """When a submit was answered last, by time.monotonic()."""
        self.counts: Counter[str] = Counter()
        self.hits: Counter[UUID] = Counter()
        """How many strikes met a run of a job."""
        self.blind_strikes = 0
        """Strikes at processes whose runs could not be learned, the database being away."""
        self.findings: list[str] = []
        self.findings_count = 0

    def accept(self, job_ids: Iterable[str]) -> None:
        """Remember jobs whose submit was answered, each once."""
        for job_id in job_ids:
            self._file.write(UUID(job_id).bytes)
            self.accepted += 1
            self.last_accepted = time.monotonic()

    def pages(self) -> Iterator[list[UUID]]:
        """All accepted jobs, some thousands at a time."""
        self._file.flush()
        self._file.seek(0)
        while data := self._file.read(ID_BYTES * PAGE_JOBS):
            yield [
                UUID(bytes=data[start : start + ID_BYTES])
                for start in range(0, len(data), ID_BYTES)
            ]

    def complain(self, finding: str) -> None:
        """Something is wrong. Printed at once, and the soak will fail."""
        self.findings_count += 1
        if self.findings_count <= FINDINGS_MAX:
            self.findings.append(finding)
            print(f"FINDING: {finding}", flush=True)

    def close(self) -> None:
        """Keep nothing open."""
        self._file.close()
