"""The rules of resuming, without a network."""

from datetime import timedelta

import pytest

from headway import SequenceGap, Snapshot, Unavailable, v1
from headway.cursor import BACKOFF_MAX_SECONDS, Cursor, Patience


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def patience(clock: Clock, *, first: float = 15, later: float = 300) -> Patience:
    return Patience(first=first, later=later, clock=clock, jitter=lambda: 1.0)


def test_backoff_doubles_to_a_bound() -> None:
    clock = Clock()
    waits = patience(clock, first=1e9)
    delays = [waits.delay(Unavailable("away")) for _ in range(9)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_backoff_is_jittered_from_nothing_up() -> None:
    """Many watches of one server do not come back at the same moment."""
    waits = Patience(first=15, later=300, clock=Clock(), jitter=lambda: 0.0)
    assert waits.delay(Unavailable("away")) == 0.0


def test_the_servers_advice_is_a_floor() -> None:
    waits = patience(Clock())
    assert waits.delay(Unavailable("busy", timedelta(seconds=7))) == 7.1
    assert waits.delay(Unavailable("busy", timedelta(hours=7))) == 60.2


def test_a_server_that_never_spoke_is_given_up_after_first() -> None:
    clock = Clock()
    waits = patience(clock, first=15)
    clock.now += 14
    waits.delay(Unavailable("away"))
    clock.now += 1
    with pytest.raises(Unavailable, match="away"):
        waits.delay(Unavailable("away"))


def test_a_server_that_spoke_is_waited_for_longer() -> None:
    clock = Clock()
    waits = patience(clock, first=15, later=300)
    waits.heard()
    clock.now += 10_000
    waits.delay(Unavailable("away"))
    clock.now += 299
    waits.delay(Unavailable("away"))
    clock.now += 1
    with pytest.raises(Unavailable):
        waits.delay(Unavailable("away"))


def test_streams_that_break_at_once_are_not_hurried() -> None:
    clock = Clock()
    waits = patience(clock)
    delays = []
    for _ in range(8):
        waits.heard()
        clock.now += 0.01
        delays.append(waits.delay(Unavailable("away")))
    assert delays[-1] == BACKOFF_MAX_SECONDS


def test_a_stream_that_held_starts_backoff_anew() -> None:
    clock = Clock()
    waits = patience(clock)
    for _ in range(6):
        waits.delay(Unavailable("away"))
    waits.heard()
    clock.now += 60
    assert waits.delay(Unavailable("away")) == 0.1


def test_a_snapshot_that_was_not_asked_for_and_skips_events_is_a_gap() -> None:
    cursor = Cursor("j", 3)
    ahead = v1.WatchJobResponse(sequence=5, snapshot=v1.Job(id="j", sequence=5))
    with pytest.raises(SequenceGap):
        cursor.accept(ahead)


def test_a_reset_may_go_back() -> None:
    """A database restored from a backup has fewer events than the client has seen."""
    cursor = Cursor("j", 9)
    back = v1.WatchJobResponse(sequence=5, snapshot=v1.Job(id="j", sequence=5), reset=True)
    update = cursor.accept(back)
    assert isinstance(update, Snapshot)
    assert cursor.request(min_progress_interval=None).after_sequence == 5


def test_the_first_event_without_a_snapshot_must_be_number_1() -> None:
    with pytest.raises(SequenceGap):
        Cursor("j", None).accept(v1.WatchJobResponse(sequence=2, event=v1.JobEvent(sequence=2)))


def test_an_unknown_kind_of_update_is_ignored() -> None:
    assert Cursor("j", 1).accept(v1.WatchJobResponse(sequence=1)) is None
