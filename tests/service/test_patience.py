"""When a reaper may judge."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from headway_core.leases import DatabaseClock
from headway_server.patience import Patience, Reason, Sight, fail, may_judge, see

LEASE = timedelta(seconds=15)
BORN = datetime(2026, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def sight(seconds: float, *, monotonic: float | None = None, born: datetime = BORN) -> Sight:
    """What a tick sees `seconds` after the first, the two clocks in step unless said otherwise."""
    clock = DatabaseClock(NOON + timedelta(seconds=seconds), born)
    return Sight(clock, 1000 + (seconds if monotonic is None else monotonic))


@pytest.fixture
def calm() -> Patience:
    """A reaper that has ticked every second for a minute."""
    patience = Patience(LEASE, timedelta(seconds=5), timedelta(seconds=1))
    for second in range(-60, 1):
        patience, _ = see(patience, sight(second))
    assert may_judge(patience, 1000)
    return patience


def test_a_reaper_waits_one_lease_after_its_start() -> None:
    """It may have been started because everything was down."""
    patience, reason = see(Patience(LEASE, timedelta(seconds=5), timedelta(seconds=1)), sight(0))
    assert reason is Reason.STARTED
    assert not may_judge(patience, 1014.9)
    assert may_judge(patience, 1015)


def test_a_reaper_that_has_seen_nothing_judges_nobody() -> None:
    """Before its first tick there is no evidence at all."""
    assert not may_judge(Patience(LEASE, timedelta(seconds=5), timedelta(seconds=1)), 10**9)


@pytest.mark.parametrize(
    ("next_sight", "reason"),
    [
        pytest.param(sight(1), None, id="in time"),
        pytest.param(sight(5.9), None, id="late by less than a heartbeat"),
        pytest.param(sight(6.1), Reason.TICK_LATE, id="late by more than a heartbeat"),
        pytest.param(sight(1, monotonic=2.5), Reason.CLOCKS_MOVED_APART, id="database set back"),
        pytest.param(sight(1, monotonic=0), None, id="apart by a second at most"),
        pytest.param(
            sight(3600, monotonic=1), Reason.CLOCKS_MOVED_APART, id="this machine was asleep"
        ),
        pytest.param(sight(1, born=NOON), Reason.POSTGRES_RESTARTED, id="Postgres was restarted"),
    ],
)
def test_a_reaper_waits_one_lease_when_beats_may_have_been_lost(
    calm: Patience, next_sight: Sight, reason: Reason | None
) -> None:
    """Each of these makes leases lapse whose workers are well."""
    patience, found = see(calm, next_sight)
    assert found is reason
    assert may_judge(patience, next_sight.monotonic) is (reason is None)
    assert may_judge(patience, next_sight.monotonic + 15)


def test_a_reaper_waits_one_lease_after_a_failed_tick(calm: Patience) -> None:
    """What failed for it has failed for the workers' beats, too."""
    failed = fail(calm)
    assert not may_judge(failed, 10**9)
    patience, reason = see(failed, sight(1))
    assert reason is Reason.TICK_FAILED
    assert not may_judge(patience, 1002)
    assert may_judge(patience, 1016)


def test_a_further_sign_begins_the_lease_anew(calm: Patience) -> None:
    """Ten seconds into the wait Postgres restarts once more: fifteen more."""
    patience, _ = see(calm, sight(1, born=NOON))
    patience, reason = see(replace(patience), sight(11, born=NOON + timedelta(seconds=1)))
    assert reason is Reason.POSTGRES_RESTARTED
    assert not may_judge(patience, 1025)
    assert may_judge(patience, 1026)
