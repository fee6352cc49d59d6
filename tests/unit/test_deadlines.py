"""Many deadlines, one timer."""

import asyncio
from typing import Any

import pytest
import uvloop

from headway_core.deadlines import LATE_SECONDS_MAX, Deadlines

SOON = 0.02


class Passed:
    """Deadlines that note what they let pass, and after how long."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        self.deadlines = Deadlines(self._note)
        self._begun = asyncio.get_running_loop().time()

    def add(self, key: str, seconds: float) -> None:
        """Wait for so long from the start."""
        self.deadlines.add(key, self._begun + seconds)

    def _note(self, key: str) -> None:
        self.seen[key] = asyncio.get_running_loop().time() - self._begun


def count_timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times for which this loop sets timers from now on."""
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    call_at = loop.call_at

    def counted(time: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(time)
        return call_at(time, *arguments, **options)

    monkeypatch.setattr(loop, "call_at", counted)
    return timers


async def test_each_passes_in_its_time() -> None:
    """In the order of the deadlines, not of the calls."""
    passed = Passed()
    passed.add("last", 5 * SOON)
    passed.add("first", SOON)
    passed.add("second", 3 * SOON)
    await asyncio.sleep(10 * SOON)
    assert list(passed.seen) == ["first", "second", "last"]
    for key, seconds in {"first": SOON, "second": 3 * SOON, "last": 5 * SOON}.items():
        assert passed.seen[key] > seconds - 1e-6  # for floats


async def test_what_is_withdrawn_does_not_pass() -> None:
    passed = Passed()
    passed.add("gone", SOON)
    passed.add("stays", 2 * SOON)
    passed.deadlines.discard("gone")
    passed.deadlines.discard("never there")
    await asyncio.sleep(5 * SOON)
    assert list(passed.seen) == ["stays"]


async def test_a_timer_that_went_off_for_nothing_is_set_again() -> None:
    passed = Passed()
    passed.add("gone", SOON)
    passed.deadlines.discard("gone")
    await asyncio.sleep(3 * SOON)
    passed.add("later", 5 * SOON)
    await asyncio.sleep(5 * SOON)
    assert list(passed.seen) == ["later"]


async def test_many_that_are_withdrawn_take_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = count_timers(monkeypatch)
    passed = Passed()
    for n in range(100):
        passed.add(str(n), SOON)
        passed.deadlines.discard(str(n))
    assert len(timers) == 1


async def test_those_that_follow_each_other_are_looked_at_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not all of thousands once for each of them."""
    timers = count_timers(monkeypatch)
    passed = Passed()
    for n in range(1000):
        passed.add(str(n), SOON + n * SOON / 1000)
    await asyncio.sleep(5 * SOON)
    assert len(passed.seen) == 1000
    assert len(timers) <= 3 + SOON / LATE_SECONDS_MAX, "the sleep's is one"


def test_a_clock_of_whole_milliseconds_lets_none_pass_early() -> None:
    """uvloop's, whose timers may go off a little before their time."""

    async def run() -> None:
        passed = Passed()
        for n in range(20):
            passed.add(str(n), SOON + n / 3_000)
        await asyncio.sleep(3 * SOON)
        for n in range(20):
            assert passed.seen[str(n)] > SOON + n / 3_000 - 1e-6  # for floats

    uvloop.run(run())


def test_a_time_that_has_come_already_is_no_timer_of_uvloop() -> None:
    """But a handle that does not know its time."""

    async def run() -> None:
        passed = Passed()
        for n, seconds in enumerate((0, -1, 0, SOON, 0.0001)):
            passed.add(str(n), seconds)
        await asyncio.sleep(3 * SOON)
        assert sorted(passed.seen) == ["0", "1", "2", "3", "4"]

    uvloop.run(run())
