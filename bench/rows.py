"""What is measured, and what is asked of it."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    `must` and `aim` bound the ratio to the floor where there is a floor, else the median itself.
    """

    name: str
    unit: str
    must: float | None = None
    aim: float | None = None
    has_floor: bool = False
    low_is_good: bool = False


def _fast(name: str, must: float | None = None, aim: float | None = None) -> Row:
    return Row(name, "jobs/s", must, aim, has_floor=True)


def _small(name: str, unit: str, must: float | None = None, aim: float | None = None) -> Row:
    return Row(name, unit, must, aim, low_is_good=True)


ROWS = (
    _fast("submit_unary", 0.45, 0.65),
    _fast("submit_batch32", 0.6, 1.0),
    _fast("end_to_end_unary", 0.7, 1.1),
    _fast("end_to_end_unary_traces_all"),
    _fast("end_to_end_unary_traces_off"),
    _fast("end_to_end_batch32", 0.6, 1.1),
    _fast("end_to_end_batch32_traces_all"),
    _fast("end_to_end_batch32_traces_off"),
    _fast("drain", 0.6, 1.2),
    _fast("drain_traces_all"),
    _fast("drain_traces_off"),
    _fast("drain_50_slots"),
    _fast("drain_10_slots"),
    Row("idle_reply_p50", "ms", 1.3, 1.05, has_floor=True, low_is_good=True),
    _small("idle_completed_p50", "ms", 8, 5),
    _small("idle_completed_p99", "ms", 25, 12),
    _small("composite_idle_reply_p50", "ms"),
    _small("composite_idle_completed_p50", "ms"),
    _small("composite_idle_completed_p99", "ms"),
    _small("progress_p50", "ms", 2.5, 1.4),
    _small("progress_p99", "ms", 10, 5),
    Row("watchers", "streams", 10_000, 20_000),
    Row("watchers_in_one_burst", "streams", 5_000, 5_000),
    _small("watcher_memory", "KiB", 40, 28),
    _small("bare_stream_memory", "KiB"),
    _small("fan_out_10000", "s", 3, 1.7),
    _small("bare_fan_out_10000", "s"),
    _small("executor_memory", "MiB", 80, 60),
    _small("supervisor_memory", "MiB", 45),
    _small("server_memory", "MiB", 120),
)


@dataclass(frozen=True, slots=True)
class Result:
    """A row with its figures: medians, and the spread over the repetitions."""

    row: Row
    median: float
    least: float
    most: float
    floor: float | None

    @property
    def ratio(self) -> float | None:
        """Median to median."""
        return self.median / self.floor if self.floor else None

    def reaches(self, bound: float | None) -> bool | None:
        """Whether a bound is kept; None: there is none."""
        figure = self.ratio if self.row.has_floor else self.median
        if bound is None or figure is None:
            return None
        return figure <= bound if self.row.low_is_good else figure >= bound

    def document(self) -> dict[str, Any]:
        """Its form in `latest.json`; `met` is about `must`."""
        return {
            "name": self.row.name,
            "unit": self.row.unit,
            "median": self.median,
            "min": self.least,
            "max": self.most,
            "floor": self.floor,
            "ratio": self.ratio,
            "must": self.row.must,
            "aim": self.row.aim,
            "met": self.reaches(self.row.must),
        }


@dataclass(slots=True)
class Samples:
    """What the repetitions have shown so far, by the names of rows."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    floors: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    # CPU microseconds per job: name of the row -> process -> samples; a floor's is "ROW floor".
    cpu: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def add(self, name: str, value: float, cpu: Mapping[str, float] | None = None) -> None:
        """Note one repetition of a row."""
        self.values[name].append(value)
        self._add_cpu(name, cpu)

    def add_floor(
        self, names: Sequence[str], value: float, cpu: Mapping[str, float] | None = None
    ) -> None:
        """Note one repetition of the floor that these rows share."""
        for name in names:
            self.floors[name].append(value)
        self._add_cpu(f"{names[0]} floor", cpu)

    def results(self, rows: Sequence[Row]) -> list[Result]:
        """Those of the rows that were measured, in this order."""
        return [
            Result(
                row,
                statistics.median(self.values[row.name]),
                min(self.values[row.name]),
                max(self.values[row.name]),
                statistics.median(self.floors[row.name]) if self.floors[row.name] else None,
            )
            for row in rows
            if self.values[row.name]
        ]

    def _add_cpu(self, name: str, cpu: Mapping[str, float] | None) -> None:
        for process, microseconds in (cpu or {}).items():
            self.cpu[name][process].append(microseconds)
