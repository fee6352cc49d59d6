"""CPU time and memory of processes, with all that they have started."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Watched:
    """A process: with its descendants, or alone."""

    pid: int
    alone: bool = False

    def cpu_seconds(self) -> float:
        """CPU time so far, that of ended children included."""
        try:
            root = psutil.Process(self.pid)
            family = [root] if self.alone else [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0.0
        total = 0.0
        for process in family:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
            if not self.alone:
                total += times.children_user + times.children_system
        return total


class CpuMeter:
    """Measures what each process spends between `begin` and `microseconds`."""

    def __init__(self, processes: Mapping[str, Watched]) -> None:
        self._processes = dict(processes)
        self._begun: dict[str, float] = {}

    def begin(self) -> None:
        """Start to count."""
        self._begun = self._snapshot()

    def microseconds(self, jobs: int) -> dict[str, float]:
        """CPU microseconds per job and process since `begin`."""
        now = self._snapshot()
        return {name: (now[name] - self._begun[name]) * 1e6 / max(jobs, 1) for name in now}

    def _snapshot(self) -> dict[str, float]:
        return {name: watched.cpu_seconds() for name, watched in self._processes.items()}


def resident_mib(pid: int) -> float:
    """Resident memory of one process, MiB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def peak_mib(pid: int) -> float:
    """The most resident memory that a process has had, MiB; the present where that is not known."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return resident_mib(pid)
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
