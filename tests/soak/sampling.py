"""Memory, descriptors, threads and tasks of every process, as lines over time."""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable
from typing import Final

import psutil

from headway_dev.ports import LOOPBACK
from tests.soak.slopes import Series, Slope, slope

PERIOD_SECONDS: Final = 2.0
ANSWER_SECONDS: Final = 1.0
WARM_UP_SECONDS: Final = 60.0
"""Of each process's life: imports, pools and caches fill."""
MIB: Final = 2**20

RSS: Final = "RSS MiB"
DESCRIPTORS: Final = "descriptors"
THREADS: Final = "threads"
TASKS: Final = "tasks"
MEASURES: Final = (RSS, DESCRIPTORS, THREADS, TASKS)

PER_HOUR_MAX: Final = {RSS: 60.0, DESCRIPTORS: 60.0, THREADS: 30.0, TASKS: 120.0}
"""Growth beyond this is a leak."""
JUDGED_SECONDS_MIN: Final = 420.0
"""A shorter line tells nothing: a MiB in a minute is 60 in an hour."""

Found = Iterable[tuple[str, psutil.Process, int | None]]


class Sampler:
    """Looks at all processes of a fleet, and at its own."""

    def __init__(
        self, processes: Callable[[], Found], *, warm_up_seconds: float = WARM_UP_SECONDS
    ) -> None:
        self._processes = processes
        self._warm_up_seconds = warm_up_seconds
        self._lives: dict[tuple[str, str, int, float], Series] = {}

    async def run(self) -> None:
        """Sample: a loop, ended by cancellation."""
        while True:
            # In a thread: the kernel's answers for a dozen processes take milliseconds.
            found = await asyncio.to_thread(self._look)
            for role, pid, born, port in found:
                tasks = await _tasks(port)
                if tasks is not None:
                    self._add(role, TASKS, pid, born, tasks)
            self._add("harness", TASKS, os.getpid(), self._own_birth, len(asyncio.all_tasks()))
            await asyncio.sleep(PERIOD_SECONDS)

    def slopes(self) -> dict[tuple[str, str], Slope]:
        """The slope of each role and measure, as far as there are samples."""
        lives: dict[tuple[str, str], list[Series]] = {}
        for (role, measure, _, _), series in self._lives.items():
            lives.setdefault((role, measure), []).append(series)
        found = {key: slope(series) for key, series in sorted(lives.items())}
        return {key: line for key, line in found.items() if line is not None}

    @property
    def _own_birth(self) -> float:
        return psutil.Process().create_time()

    def _look(self) -> list[tuple[str, int, float, int]]:
        """Sample what the kernel knows; return whom to ask for tasks."""
        to_ask = []
        found = [*self._processes(), ("harness", psutil.Process(), None)]
        for role, process, port in found:
            with contextlib.suppress(psutil.Error, OSError):
                born = process.create_time()
                with process.oneshot():
                    values = {
                        RSS: process.memory_info().rss / MIB,
                        DESCRIPTORS: process.num_fds(),
                        THREADS: process.num_threads(),
                    }
                for measure, value in values.items():
                    self._add(role, measure, process.pid, born, value)
                if port is not None:
                    to_ask.append((role, process.pid, born, port))
        return to_ask

    def _add(self, role: str, measure: str, pid: int, born: float, value: float) -> None:
        if time.time() - born >= self._warm_up_seconds:
            self._lives.setdefault((role, measure, pid, born), Series()).add(
                time.monotonic(), value
            )


def too_steep(slopes: dict[tuple[str, str], Slope]) -> list[str]:
    """Growth that is no noise: beyond its bound, by more than its error, over long enough."""
    return [
        f"{role}: {measure} +{line.per_hour:.0f} an hour, and {PER_HOUR_MAX[measure]:g} is a leak"
        for (role, measure), line in slopes.items()
        if line.seconds >= JUDGED_SECONDS_MIN
        and line.per_hour - 2 * line.error > PER_HOUR_MAX[measure]
    ]


async def _tasks(port: int) -> float | None:
    """Tasks of the event loop behind a metrics port; None while it does not answer."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
                text = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    found = re.search(rb"^headway_loop_tasks (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None
