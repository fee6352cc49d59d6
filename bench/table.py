"""The figures as people read them."""

import statistics
from collections.abc import Sequence

from bench.rows import Result, Samples

PROCESSES = ("client", "server", "supervisor", "executor", "worker", "postgres", "rabbitmq")


def results_table(results: Sequence[Result]) -> str:
    """One line a row: figures, spread, floor, ratio, and whether must and aim are met."""
    lines = [("", "unit", "median", "min", "max", "floor", "ratio", "must", "aim", "met")]
    for result in results:
        row = result.row
        sign = "≤" if row.low_is_good else "≥"
        times = "×" if row.has_floor else ""
        lines.append(
            (
                row.name,
                row.unit,
                figure(result.median),
                figure(result.least),
                figure(result.most),
                figure(result.floor),
                "" if result.ratio is None else f"{result.ratio:.2f}",
                "" if row.must is None else f"{sign} {row.must:g}{times}",
                "" if row.aim is None else f"{sign} {row.aim:g}{times}",
                verdict(result),
            )
        )
    return columns(lines)


def cpu_table(samples: Samples) -> str:
    """CPU microseconds per job and process, medians."""
    present = [name for name in PROCESSES if any(name in found for found in samples.cpu.values())]
    lines = [("CPU µs per job", *present, "sum")]
    for name, found in samples.cpu.items():
        medians = {process: statistics.median(values) for process, values in found.items()}
        cells = [f"{medians[process]:.0f}" if process in medians else "" for process in present]
        lines.append((name, *cells, f"{sum(medians.values()):.0f}"))
    return columns(lines)


def figure(value: float | None) -> str:
    """Three digits that matter, or whole thousands with commas."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def verdict(result: Result) -> str:
    """What is reached."""
    if result.reaches(result.row.must) is None:
        return ""
    if result.reaches(result.row.aim):
        return "aim"
    return "must" if result.reaches(result.row.must) else "NO"


def columns(lines: Sequence[Sequence[str]]) -> str:
    """Align cells: the first column to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
