"""The benchmark: its command works, and its verdicts are right."""

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.profiling import summary
from bench.rows import ROWS, Result, Row
from bench.svg import Chart, Line
from bench.table import verdict
from tests.end_to_end.stack import run

ASKED_FOR = {
    "submit_unary",
    "submit_batch32",
    "end_to_end_unary",
    "end_to_end_batch32",
    "drain",
    "idle_reply_p50",
    "idle_completed_p50",
    "idle_completed_p99",
    "progress_p50",
    "progress_p99",
    "watchers",
    "watcher_memory",
    "fan_out_10000",
    "executor_memory",
    "server_memory",
}
KEYS = ["name", "unit", "median", "min", "max", "floor", "ratio", "must", "aim", "met"]


async def test_a_row_is_measured_beside_its_floor(tmp_path: Path) -> None:
    ran = await run(
        *(sys.executable, "-m", "bench", "--only", "submit_unary", "--repetitions", "1"),
        *("--scale", "0.02", "--out", tmp_path / "out"),
        *("--services", tmp_path / "services"),
        timeout=110,
    )
    assert ran.code in {0, 1}, ran.errors
    (row,) = json.loads((tmp_path / "out" / "latest.json").read_text())
    assert list(row) == KEYS
    assert row["name"] == "submit_unary"
    assert 0 < row["min"] <= row["median"] <= row["max"]
    assert row["ratio"] == pytest.approx(row["median"] / row["floor"])
    assert row["met"] is (row["ratio"] >= row["must"])
    assert ran.code == (0 if row["met"] else 1)
    assert "submit_unary" in ran.output
    cpu = json.loads((tmp_path / "out" / "cpu.json").read_text())
    assert {"client", "server", "postgres", "rabbitmq"} <= set(cpu["submit_unary"])


async def test_a_name_that_is_no_row_is_refused() -> None:
    ran = await run(sys.executable, "-m", "bench", "--only", "submit_unary,submit_tertiary")
    assert ran.code == 2
    assert "submit_tertiary" in ran.output


def test_every_row_that_was_asked_for_is_there() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert set(names) >= ASKED_FOR


@pytest.mark.parametrize(
    ("row", "median", "floor", "expected"),
    [
        (Row("high", "1/s", 0.5, 1.0, has_floor=True), 99.0, 200.0, "NO"),
        (Row("high", "1/s", 0.5, 1.0, has_floor=True), 100.0, 200.0, "must"),
        (Row("high", "1/s", 0.5, 1.0, has_floor=True), 200.0, 200.0, "aim"),
        (Row("low", "ms", 8.0, 5.0, low_is_good=True), 8.1, None, "NO"),
        (Row("low", "ms", 8.0, 5.0, low_is_good=True), 5.1, None, "must"),
        (Row("low", "ms", 8.0, 5.0, low_is_good=True), 5.0, None, "aim"),
        (Row("low", "ms", 1.3, 1.05, has_floor=True, low_is_good=True), 2.0, 1.0, "NO"),
        (Row("only a must", "MiB", 45.0, low_is_good=True), 44.0, None, "must"),
        (Row("no target", "1/s", has_floor=True), 1.0, 2.0, ""),
    ],
)
def test_a_verdict_is_about_the_ratio_if_there_is_a_floor(
    row: Row, median: float, floor: float | None, expected: str
) -> None:
    assert verdict(Result(row, median, median, median, floor)) == expected


def test_a_chart_is_well_formed() -> None:
    chart = Chart("a < b", "x", "1/s", ["1", "64"], [Line("one & two", [(0, 10), (1, 4_120)])])
    root = ET.fromstring(chart.svg())
    assert "a < b" in [text.text for text in root.iter() if text.tag.endswith("text")]
    assert len([circle for circle in root.iter() if circle.tag.endswith("circle")]) == 2


def test_a_profile_names_the_functions_that_took_the_time() -> None:
    lines = summary("main;read 30\nmain;read;parse 10\nmain 60\n").splitlines()
    assert [line.split() for line in lines] == [
        ["60.0%", "main"],
        ["30.0%", "read"],
        ["10.0%", "parse"],
    ]
