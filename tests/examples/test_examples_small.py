"""The small examples: hello, primes, flaky, poison, and what the others share."""

import asyncio
import math
from pathlib import Path

import pytest

from examples import demo_faults, hello, primes
from examples.installed_data import installed_file
from examples.output import job_directory, written_whole
from headway_worker import PermanentError
from headway_worker.handler_errors import JobCancelled


async def test_hello_greets(context, history) -> None:
    result = await hello.hello(context(), {"name": "Ada"})
    assert result == {"greeting": f"Hello, Ada! I am job {history.job_id}."}


@pytest.mark.parametrize(
    ("below", "count"),
    [
        *[(2, 0), (3, 1), (4, 2), (5, 2), (10, 4), (100, 25), (121, 30), (10_000, 1_229)],
        *[(1_000_000, 78_498), (1_000_003, 78_498), (1_000_004, 78_499), (2_000_000, 148_933)],
    ],
)
def test_primes_are_counted(context, below: int, count: int) -> None:
    result = primes.primes(context(blocking=True), {"below": below})
    assert result == {"below": below, "primes": count}


def test_primes_tell_each_segment_and_stop_between_two(context) -> None:
    ctx = context(blocking=True, cancel_when=lambda ctx: len(ctx.progress_told) == 2)
    with pytest.raises(JobCancelled):
        primes.primes(ctx, {"below": 10_000_000})
    assert ctx.progress_told == [(1_000_002, 10_000_000), (2_000_002, 10_000_000)]


def test_primes_between_agrees_with_trial_division() -> None:
    for start in range(2, 60):
        for end in range(start, 60):
            expected = [
                n for n in range(start, end) if all(n % d for d in range(2, math.isqrt(n) + 1))
            ]
            divisors = range(2, math.isqrt(end) + 1)
            assert primes.primes_between(start, end, divisors=divisors) == expected


async def test_flaky_fails_as_often_as_it_is_told_to(context) -> None:
    for attempt in (1, 2):
        with pytest.raises(ConnectionResetError, match="closed the connection"):
            await demo_faults.flaky(context(attempt=attempt), {"failures": 2})
    assert await demo_faults.flaky(context(attempt=3), {"failures": 2}) == {"attempt": 3}


async def test_poison_fails_until_its_file_is_there(context, output: Path) -> None:
    needed = output / "prices.csv"
    for attempt in (1, 2, 3):
        with pytest.raises(FileNotFoundError, match=f"{needed} is missing; put it there"):
            await demo_faults.poison(context(attempt=attempt), {"needs": "prices.csv"})
    await asyncio.to_thread(output.mkdir)
    await asyncio.to_thread(needed.touch)
    result = await demo_faults.poison(context(), {"needs": "prices.csv"})
    assert result == {"path": str(needed), "attempt": 1}
    assert await demo_faults.poison(context(), {"needs": str(needed)}) == result


def test_unfinished_file_is_never_seen_under_its_name(context, files_left) -> None:
    path = job_directory(context()) / "list.txt"
    with written_whole(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    with pytest.raises(ConnectionAbortedError):
        die_while_writing(path)
    assert path.read_text() == "one"
    assert files_left() == ["list.txt"]


def die_while_writing(path: Path) -> None:
    with written_whole(path) as partial:
        partial.write_text("two")
        raise ConnectionAbortedError


def test_two_runs_writing_one_file_leave_a_whole_one(context, files_left) -> None:
    path = job_directory(context()) / "list.txt"
    with written_whole(path) as zombies, written_whole(path) as ours:
        assert zombies != ours
        zombies.write_text("half of")
        ours.write_text("whole")
    assert path.read_text() == "half of"  # the zombie was last here, and whole by its own lights
    assert files_left() == ["list.txt"]


@pytest.mark.parametrize(
    ("package", "path"), [("no_such_package", "a.png"), ("skimage", "data/no_such.png")]
)
def test_missing_input_is_permanent_and_says_what_to_install(package: str, path: str) -> None:
    with pytest.raises(PermanentError, match=rf"{path} of the package {package} is not installed"):
        installed_file(package, path)
