"""What `headway demo` claims, held against the facts: each problem is a sentence, none is best."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import airportsdata
import asyncpg

from headway import EventType, JobState
from headway_dev.demo_jobs import FLAKY_FAILURES, PRIMES_FOUND, Shown

# How files of these kinds begin: at which byte, with what.
SIGNATURES = {
    ".pdf": (0, b"%PDF-"),
    ".jpg": (0, b"\xff\xd8\xff"),
    ".mp4": (4, b"ftyp"),
}
COUNT_ROWS = "select count(*) from headway_examples.airports where job_id = $1"
POSTGRES_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim: what was looked at, and what is wrong with it."""

    claim: str
    problems: tuple[str, ...]


async def check(jobs: Iterable[Shown], *, database_url: str) -> list[Finding]:
    """Look at everything that can be looked at. Raises nothing for what is wrong."""
    jobs = tuple(jobs)
    return [
        _finding(f"{len(jobs)} jobs are COMPLETED", _states(jobs)),
        _finding("each has exactly one completion event", _completions(jobs)),
        _finding("none ran more often than it had to", _starts(jobs)),
        _finding(f"demo.flaky was retried {FLAKY_FAILURES} times", _retries(jobs)),
        _finding("demo.poison died once and was replayed once", _replays(jobs)),
        _finding(f"{_count_files(jobs)} output files are there and whole", _files(jobs)),
        _finding("the primes are right", _primes(jobs)),
        await _imported(jobs, database_url),
    ]


def _finding(claim: str, problems: Iterable[str]) -> Finding:
    return Finding(claim, tuple(problems))


def _states(jobs: Iterable[Shown]) -> Iterator[str]:
    for shown in jobs:
        if shown.job.state is not JobState.COMPLETED:
            why = f": {shown.job.error}" if shown.job.error else ""
            yield f"{shown.name} should be COMPLETED and is {shown.job.state}{why}"


def _completions(jobs: Iterable[Shown]) -> Iterator[str]:
    for shown in jobs:
        count = shown.count(EventType.COMPLETED)
        if count != 1:
            yield f"{shown.name} should have 1 COMPLETED event and has {count}"


def _starts(jobs: Iterable[Shown]) -> Iterator[str]:
    for shown in jobs:
        count = shown.count(EventType.STARTED)
        if count != shown.planned.starts:
            yield f"{shown.name} should have started {shown.planned.starts} times, did {count}"


def _retries(jobs: Iterable[Shown]) -> Iterator[str]:
    for shown in _of_type(jobs, "demo.flaky"):
        count = shown.count(EventType.RETRY_SCHEDULED)
        if count != FLAKY_FAILURES:
            yield f"{shown.name} should have {FLAKY_FAILURES} RETRY_SCHEDULED events, has {count}"


def _replays(jobs: Iterable[Shown]) -> Iterator[str]:
    for shown in _of_type(jobs, "demo.poison"):
        counts = shown.count(EventType.DEAD), shown.count(EventType.REPLAYED)
        if counts != (1, 1):
            yield f"{shown.name} should be 1 time DEAD and 1 time REPLAYED, is {counts}"


def _files(jobs: Iterable[Shown]) -> Iterator[str]:
    for shown in jobs:
        for path in shown.files:
            if not path.is_file():
                yield f"{shown.name} names {path}, which is not there"
                continue
            content = path.read_bytes()
            start, signature = SIGNATURES.get(path.suffix, (0, b""))
            if not content:
                yield f"{shown.name} has left {path} empty"
            elif content[start : start + len(signature)] != signature:
                yield f"{shown.name} has written {path}, which is no {path.suffix} file"


def _count_files(jobs: Iterable[Shown]) -> int:
    return sum(len(shown.files) for shown in jobs)


def _primes(jobs: Iterable[Shown]) -> Iterator[str]:
    for shown in _of_type(jobs, "demo.primes"):
        if shown.result.get("primes") != PRIMES_FOUND:
            yield f"{shown.name} should find {PRIMES_FOUND} primes, did {shown.result}"


async def _imported(jobs: Iterable[Shown], database_url: str) -> Finding:
    rows, problems = 0, []
    wanted = len(airportsdata.load("ICAO"))
    for shown in _of_type(jobs, "airports.import"):
        try:
            connection = await asyncpg.connect(database_url, timeout=POSTGRES_SECONDS)
            try:
                rows = await connection.fetchval(COUNT_ROWS, shown.job.id, timeout=POSTGRES_SECONDS)
            finally:
                await connection.close(timeout=POSTGRES_SECONDS)
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            problems.append(f"{shown.name}: its rows cannot be counted: {error}")
            continue
        if rows != wanted:
            problems.append(f"{shown.name}: airportsdata has {wanted} rows, Postgres has {rows}")
    return Finding(f"{rows:,} imported rows are in Postgres", tuple(problems))


def _of_type(jobs: Iterable[Shown], type_: str) -> list[Shown]:
    return [shown for shown in jobs if shown.planned.type == type_]
