"""`make soak`: faults at random under load, for a given time, and a verdict.

    python -m tests.soak --seconds 120 --seed 7

The same seed makes the same faults at the same times. Exits with 1 if anything is wrong in the end.
"""

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from headway_dev.services import AMQP_VARIABLE, DATABASE_VARIABLE
from tests.soak import report
from tests.soak.million import count_jobs
from tests.soak.schedule import REST_SECONDS, Kind
from tests.soak.soak import Plan, soak

DIRECTORY: Final = Path(".cache/soak")
SECONDS: Final = 600.0
RATE: Final = 40.0


def main(arguments: Sequence[str]) -> int:
    """Soak. Returns 0, 1 for a finding, 2 for usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of faults (%(default)g)")
    parser.add_argument("--seed", type=int, help="of faults and load (a new one each time)")
    parser.add_argument("--rate", type=float, default=RATE, help="jobs a second (%(default)g)")
    parser.add_argument(
        "--kinds",
        type=lambda text: frozenset(map(Kind, text.split(","))),
        default=frozenset(Kind),
        help="faults to choose from, with commas: " + ", ".join(Kind),
    )
    parser.add_argument(
        "--rest",
        type=_span,
        default=REST_SECONDS,
        metavar="LEAST,MOST",
        help="seconds from the end of one fault to the next ({:g},{:g})".format(*REST_SECONDS),
    )
    parser.add_argument("--no-faults", action="store_true", help="load only")
    parser.add_argument(
        "--jobs",
        type=int,
        help="with --no-faults: run so many jobs that do nothing, each exactly once, instead",
    )
    parser.add_argument("--processes", type=int, default=2, help="of the worker of --jobs")
    parser.add_argument("--data", type=Path, default=DIRECTORY, help="data and logs (%(default)s)")
    parser.add_argument(
        "--combine",
        type=Path,
        nargs="+",
        metavar="REPORT",
        help="soak no more: put the `logs/report.json` of several soaks together",
    )
    options = parser.parse_args(arguments)
    if options.combine:
        return report.combine(options.combine)
    if options.jobs is not None and not options.no_faults:
        parser.error("--jobs wants --no-faults: with faults, runs may be repeated")
    for variable in (DATABASE_VARIABLE, AMQP_VARIABLE):
        if os.environ.get(variable):
            parser.error(f"{variable} is set, and that service is not ours to kill")
    seed = options.seed if options.seed is not None else secrets.randbelow(2**31)
    if options.jobs is not None:
        return asyncio.run(count_jobs(options.jobs, options.data, processes=options.processes))
    plan = Plan(
        seed=seed,
        seconds=options.seconds,
        rate=options.rate,
        kinds=frozenset() if options.no_faults else options.kinds,
        rest=options.rest,
    )
    return asyncio.run(soak(plan, options.data))


def _span(text: str) -> tuple[float, float]:
    least, most = map(float, text.split(","))
    return least, most


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
