"""`python -m bench`: measure floors and Headway in turn, print the table, write `bench/out/`."""

import argparse
import asyncio
import fnmatch
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import grpc.aio

from bench.measurements import latency, peers, throughput, watching
from bench.measurements.plan import Measurement, Plan
from bench.rows import ROWS, Samples
from bench.stage import DIRECTORY, Stage
from bench.table import cpu_table, results_table
from headway_dev.errors import ServiceFailed

OUT = Path(__file__).parent / "out"
REPETITIONS = 3
MEASUREMENTS: tuple[Measurement, ...] = (
    *throughput.MEASUREMENTS,
    *latency.MEASUREMENTS,
    *watching.MEASUREMENTS,
    *peers.MEASUREMENTS,
)


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for. Returns 0 if all is measured and met, 1 if not, 2 for a wrong name."""
    options = _parser().parse_args(arguments)
    rows = [*ROWS, *peers.ROWS] if options.peers else [*ROWS]
    names = [row.name for row in rows]
    patterns = options.only.split(",") if options.only else ["*"]
    if unknown := [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]:
        print(f"bench: no row is named {', '.join(unknown)}; rows are {', '.join(names)}")
        return 2
    wanted = frozenset(name for one in patterns for name in fnmatch.filter(names, one))
    samples = Samples()
    if options.peers:
        peers.install()
    with Stage.open(options.services) as stage:
        plan = Plan(stage, samples, wanted, options.scale, options.profile, options.out)
        failures = asyncio.run(_measure(plan, options.repetitions))
    peers.compare(samples)
    results = samples.results(rows)
    print(results_table(results))
    if options.peers and (missing := peers.missing()):
        print(f"\nnot measured, for want of a redis-server: {', '.join(missing)}")
    if samples.cpu:
        print(f"\n{cpu_table(samples)}")
    options.out.mkdir(parents=True, exist_ok=True)
    documents = [result.document() for result in results]
    (options.out / "latest.json").write_text(json.dumps(documents, indent=1) + "\n")
    (options.out / "cpu.json").write_text(json.dumps(samples.cpu, indent=1) + "\n")
    for failure in failures:
        print(f"failed: {failure}")
    return 1 if failures or any(document["met"] is False for document in documents) else 0


async def _measure(plan: Plan, repetitions: int) -> list[str]:
    """Take the measurements in turn; one that fails is named, and the others go on."""
    begun = time.monotonic()
    failures = []
    for repetition in range(1, repetitions + 1):
        for measurement in MEASUREMENTS:
            if plan.wanted & set(measurement.rows):
                name = measurement.rows[0]
                try:
                    await measurement.run(plan)
                except (RuntimeError, TimeoutError, ServiceFailed, grpc.aio.AioRpcError) as error:
                    failures.append(f"{name}, {error!r}")
                seconds = time.monotonic() - begun
                print(f"{seconds:5.0f} s  {repetition}/{repetitions}  {name}", file=sys.stderr)
    return failures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Measure floors and Headway.")
    parser.add_argument(
        "--only", metavar="NAMES", help="rows to measure, by comma; * stands for any letters"
    )
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, metavar="N")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="F", help="do F times the work (a try: 0.05)"
    )
    parser.add_argument(
        "--profile",
        choices=("server", "executor"),
        help="run py-spy on it, where jobs a second are measured",
    )
    parser.add_argument("--peers", action="store_true", help="measure peers, too")
    parser.add_argument(
        "--services",
        type=Path,
        default=DIRECTORY,
        metavar="DIRECTORY",
        help="where private services keep their data; one run at a time",
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIRECTORY")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
