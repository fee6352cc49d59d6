"""What grows is told from what is merely there."""

from random import Random

import pytest

from tests.soak.recovery import percentile
from tests.soak.sampling import PER_HOUR_MAX, RSS, too_steep
from tests.soak.slopes import Series, slope


def life(*, level: float, per_hour: float, seconds: int, noise: float = 0.0) -> Series:
    random, series = Random(seconds), Series()
    for second in range(0, seconds, 2):
        value = level + per_hour * second / 3600 + random.uniform(-noise, noise)
        series.add(1e9 + second, value)
    return series


def test_a_straight_line_is_found_exactly() -> None:
    line = slope([life(level=80, per_hour=12, seconds=600)])
    assert line is not None
    assert line.per_hour == pytest.approx(12)
    assert line.error == pytest.approx(0, abs=1e-3)
    assert line.seconds == 598


def test_processes_of_different_size_do_not_make_a_slope_together() -> None:
    """A bigger one that is started later would look like growth, were their levels not apart."""
    small, big = Series(), Series()
    for second in range(300):
        small.add(second, 50)
        big.add(300 + second, 90)
    line = slope([small, big])
    assert line is not None
    assert line.per_hour == pytest.approx(0)
    assert line.highest == 90


def test_the_longest_life_decides() -> None:
    lives = [life(level=80, per_hour=10, seconds=3600)]
    lives += [life(level=80, per_hour=4000, seconds=20) for _ in range(20)]
    line = slope(lives)
    assert line is not None
    assert line.per_hour == pytest.approx(10, rel=0.02)


def test_too_few_samples_give_no_slope() -> None:
    assert slope([]) is None
    assert slope([life(level=1, per_hour=0, seconds=2)]) is None


@pytest.mark.parametrize(("per_hour", "found"), [(0.0, 0), (20.0, 0), (300.0, 1)])
def test_a_leak_is_found_under_noise(per_hour: float, found: int) -> None:
    line = slope([life(level=80, per_hour=per_hour, seconds=600, noise=1.0)])
    assert line is not None
    assert PER_HOUR_MAX[RSS] < 300
    assert len(too_steep({("server", RSS): line})) == found


def test_a_short_line_is_not_judged() -> None:
    line = slope([life(level=80, per_hour=5000, seconds=60)])
    assert line is not None
    assert too_steep({("server", RSS): line}) == []


def test_percentiles_are_of_what_was_measured() -> None:
    values = [float(value) for value in range(1, 21)]
    assert [percentile(values, part) for part in (0.5, 0.95)] == [10, 19]
    assert percentile([3.0], 0.5) == percentile([3.0], 0.95) == 3
