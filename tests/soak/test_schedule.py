"""The same seed makes the same faults."""

import subprocess
import sys
from itertools import pairwise

from tests.soak.schedule import NATURES, Kind, Strike, digest, schedule

HOUR = 3600.0


def test_the_same_seed_gives_the_same_faults_in_every_process() -> None:
    """Kinds, targets, times: nothing hangs on the hash seed, the clock or what ran before."""
    code = "from tests.soak.schedule import *; print(digest(schedule(7, seconds=600)))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("0", "1", "42")
    }
    assert found == {digest(schedule(7, seconds=600))}


def test_another_seed_gives_others() -> None:
    assert len({digest(schedule(seed, seconds=60)) for seed in range(50)}) == 50


def test_a_longer_soak_begins_like_a_shorter_one() -> None:
    """So that what a soak found can be had sooner."""
    short, long = schedule(3, seconds=120), schedule(3, seconds=1200)
    assert long[: len(short)] == short


def test_every_kind_comes_before_any_comes_a_third_time() -> None:
    strikes = schedule(11, seconds=HOUR)
    for start in range(0, len(strikes) - len(Kind), len(Kind)):
        assert {strike.kind for strike in strikes[start : start + len(Kind)]} == set(Kind)


def test_faults_keep_to_the_time_their_targets_and_each_other() -> None:
    for seed in range(30):
        strikes = schedule(seed, seconds=HOUR)
        by_target: dict[str, list[Strike]] = {}
        for strike in strikes:
            nature = NATURES[strike.kind]
            assert strike.target in nature.targets
            assert nature.hold[0] <= strike.hold <= nature.hold[1]
            assert strike.at + strike.hold <= HOUR
            by_target.setdefault(strike.target, []).append(strike)
        for one in by_target.values():
            assert all(before.at + before.hold < after.at for before, after in pairwise(one))
        together = sum(before.at + before.hold > after.at for before, after in pairwise(strikes))
        assert together > 10, "faults never come together"


def test_only_the_kinds_asked_for_come() -> None:
    kinds = {Kind.SERVER_KILL, Kind.POSTGRES_STOP}
    assert {strike.kind for strike in schedule(1, seconds=300, kinds=kinds)} == kinds
