"""Progress makes sense whatever a handler reports."""

import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_core.job import Progress
from headway_worker.progress import MESSAGE_BYTES_MAX, STEP_BYTES_MAX, ProgressMeter

NOW = datetime(2026, 11, 22, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> ProgressMeter:
    return ProgressMeter(clock=clock, now=lambda: NOW)


def report(
    meter: ProgressMeter, done: object = None, total: object = None, **rest: object
) -> Progress:
    given = {"fraction": None, "step": None, "message": None} | rest
    meter.report(done, total, **given)
    assert meter.latest is not None
    return meter.latest


def test_the_fraction_follows_from_done_and_total(meter: ProgressMeter) -> None:
    assert report(meter, 1, 4).fraction == 0.25


def test_what_is_not_given_stays_as_it_was(meter: ProgressMeter) -> None:
    report(meter, 1, 4, step="draw", message="first")
    newest = report(meter, 2)
    assert (newest.done, newest.total, newest.fraction) == (2, 4, 0.5)
    assert (newest.step, newest.message) == ("draw", "first")


def test_a_new_step_starts_afresh(meter: ProgressMeter) -> None:
    report(meter, 3, 4, step="draw", message="page 3")
    newest = report(meter, step="upload")
    assert newest == Progress(update_time=NOW, step="upload")


def test_the_time_remaining_goes_by_the_rate_since_the_step_began(
    meter: ProgressMeter, clock: Clock
) -> None:
    report(meter, 0, 100, step="fetch")
    clock.seconds += 1000
    report(meter, 0, 100, step="draw")
    clock.seconds += 10
    assert report(meter, 25).estimated_remaining == timedelta(seconds=30)


def test_a_step_that_begins_half_done_is_not_taken_for_a_fast_one(
    meter: ProgressMeter, clock: Clock
) -> None:
    report(meter, 50, 100, step="draw")
    clock.seconds += 10
    assert report(meter, 60).estimated_remaining == timedelta(seconds=40)


def test_nothing_remains_at_the_end_and_nothing_is_known_at_the_beginning(
    meter: ProgressMeter,
) -> None:
    assert report(meter, 0, 10).estimated_remaining is None
    assert report(meter, 10).estimated_remaining == timedelta(0)


@pytest.mark.parametrize("nonsense", [nan, inf, -inf, "5", True, object(), 10**400])
def test_nonsense_is_ignored(meter: ProgressMeter, nonsense: object) -> None:
    report(meter, 5, 10)
    newest = report(meter, nonsense, nonsense, fraction=nonsense)
    assert (newest.done, newest.total, newest.fraction) == (5, 10, 0.5)


def test_more_than_all_and_less_than_nothing_are_clamped(meter: ProgressMeter) -> None:
    assert report(meter, 15, 10).fraction == 1
    assert report(meter, -3, 10).done == 0
    assert report(meter, fraction=7.0).fraction == 1


def test_long_texts_are_cut_and_unstorable_ones_mended(meter: ProgressMeter) -> None:
    newest = report(meter, step="ä" * 1_000, message="x\x00\ud800" + "y" * 5_000)
    assert len(newest.step.encode()) <= STEP_BYTES_MAX
    assert len(newest.message.encode()) <= MESSAGE_BYTES_MAX
    assert newest.message.startswith("x\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}y")


def test_a_text_that_raises_fails_nobody(meter: ProgressMeter) -> None:
    class Unreadable:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert report(meter, message=Unreadable()).message == ""


numbers = st.one_of(st.none(), st.floats(), st.integers(), st.text(max_size=3), st.booleans())


@given(st.lists(st.tuples(numbers, numbers, numbers, st.sampled_from([None, "a", "b"]))))
def test_whatever_is_reported_can_be_stored_and_sent(reports: list[tuple[object, ...]]) -> None:
    clock = Clock()
    meter = ProgressMeter(clock=clock, now=lambda: NOW)
    for done, total, fraction, step in reports:
        clock.seconds += 1
        newest = report(meter, done, total, fraction=fraction, step=step)
        assert newest.done >= 0
        assert newest.fraction is None or 0 <= newest.fraction <= 1
        assert Progress.from_bytes(newest.to_bytes()) == newest


def test_progress_by_a_clock_that_is_set_back_is_newer_all_the_same(clock: Clock) -> None:
    """Whoever passes it on goes by its time; stored and read again, the order is the same."""
    times = [NOW, NOW - timedelta(minutes=10), NOW - timedelta(minutes=9), NOW + timedelta(hours=1)]
    meter = ProgressMeter(clock=clock, now=lambda: times[len(shown)])
    shown: list[datetime] = []
    for number in range(len(times)):
        stored = report(meter, number).to_bytes()
        shown.append(Progress.from_bytes(stored).update_time)
    assert all(earlier < later for earlier, later in pairwise(shown))
    assert (shown[0], shown[-1]) == (times[0], times[-1])


def test_each_progress_is_taken_once(meter: ProgressMeter) -> None:
    assert meter.take() is None
    report(meter, 1, 2)
    assert meter.take() is meter.latest
    assert meter.take() is None


def test_many_threads_may_report_at_once(meter: ProgressMeter) -> None:
    def work() -> None:
        for number in range(1_000):
            meter.report(number, 1_000, fraction=None, step="s", message=None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.latest is not None
    assert meter.latest.total == 1_000
