"""`python -m bench.curves`: measure curves for the documentation, and draw them.

Writes `bench/out/curves.json` and two pictures; `--draw-only` draws them from that file again.
"""

import argparse
import asyncio
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.measurements.composite import Composite
from bench.measurements.latency import idle_latencies, percentile, progress_ages
from bench.measurements.plan import Plan
from bench.measurements.throughput import load
from bench.program import ROOT, Program
from bench.rows import Samples
from bench.stage import Headway, Stage
from bench.svg import Chart, Line

OUT = ROOT / "bench" / "out" / "curves.json"
PICTURES = ROOT / "docs"
IN_FLIGHT = (1, 4, 16, 64, 256)
SECONDS = 1.5
REPETITIONS = 3
PERCENTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)

Curves = dict[str, dict[str, list[list[float]]]]


def main(arguments: Sequence[str]) -> int:
    """Measure and draw."""
    parser = argparse.ArgumentParser(prog="bench.curves", description="Measure and draw curves.")
    parser.add_argument("--draw-only", action="store_true", help="draw what was measured before")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, metavar="N")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F")
    parser.add_argument("--results", type=Path, default=OUT, metavar="FILE")
    parser.add_argument("--pictures", type=Path, default=PICTURES, metavar="DIRECTORY")
    options = parser.parse_args(arguments)
    if not options.draw_only:
        with Stage.open() as stage:
            plan = Plan(stage, Samples(), frozenset(), options.scale)
            curves = asyncio.run(_measure(plan, options.repetitions))
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(curves) + "\n")
    options.pictures.mkdir(parents=True, exist_ok=True)
    for name, chart in charts(json.loads(options.results.read_text())).items():
        path = options.pictures / f"{name}.svg"
        path.write_text(chart.svg())
        print(path)
    return 0


def charts(curves: Curves) -> dict[str, Chart]:
    """Make the pictures: curves have a list of repetitions for each position; medians are drawn."""
    return {
        "throughput": Chart(
            "Calls a second against calls in flight",
            "calls in flight",
            "1/s",
            [str(count) for count in IN_FLIGHT],
            _medians(curves["throughput"]),
        ),
        "latency": Chart(
            "Latency on an idle machine",
            "percentile",
            "ms",
            [f"{share:.0%}" for share in PERCENTILES],
            _medians(curves["latency"]),
        ),
    }


def _medians(curves: dict[str, list[list[float]]]) -> list[Line]:
    return [
        Line(name, [(x, statistics.median(values)) for x, values in enumerate(positions)])
        for name, positions in curves.items()
    ]


async def _measure(plan: Plan, repetitions: int) -> Curves:
    throughput: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in IN_FLIGHT])
    latency: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in PERCENTILES])
    for _ in range(repetitions):
        async with await Program.start("bench.floors.echo") as echo:
            await _rates(plan, "echo", echo.address, throughput["bare gRPC echo"])
        async with Composite.running(plan.stage) as composite:
            await _rates(plan, "composite", composite.address, throughput["composite"])
        async with Headway.running(plan.stage) as headway:
            await _rates(plan, "headway", headway.address, throughput["SubmitJob"])
        found = await idle_latencies(plan)
        seconds = {
            "SubmitJob to reply": found["replies"],
            "SubmitJob to COMPLETED seen": found["completions"],
            "ctx.progress to stream": await progress_ages(plan),
            "composite to completed": found["composite_completions"],
            "bare gRPC echo": found["echoes"],
            "bare commit": found["commits"],
        }
        for name, values in seconds.items():
            for position, share in enumerate(PERCENTILES):
                latency[name][position].append(percentile(values, share))
    return {"throughput": throughput, "latency": latency}


async def _rates(plan: Plan, subject: str, address: str, positions: list[list[float]]) -> None:
    for position, in_flight in enumerate(IN_FLIGHT):
        async with await load(subject, address, batch=1, in_flight=in_flight) as client:
            await client.go(jobs=in_flight)
            done = await client.go(seconds=plan.seconds(SECONDS))
            positions[position].append(done["jobs"] / done["seconds"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
