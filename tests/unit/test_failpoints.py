"""Failpoints do nothing unless armed, and exactly what the plan says if they are."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headway_core import failpoints
from headway_core.errors import Defect, StoreUnavailable
from headway_core.failpoints import VARIABLE, Action, Failpoints, Failure, failpoint, parse


async def test_without_the_variable_nothing_happens() -> None:
    """Production: one comparison."""
    assert failpoints._ARMED is None
    await failpoint("after_claim_commit")


def test_a_plan_is_read() -> None:
    plan = parse("a=kill, b=pause:0.5@2,c=raise@2-4")
    assert plan == {
        "a": Failure(Action.KILL),
        "b": Failure(Action.PAUSE, seconds=0.5, first=2, last=2),
        "c": Failure(Action.RAISE, first=2, last=4),
    }
    assert parse("") == {}


@pytest.mark.parametrize("plan", ["a", "a=explode", "a=pause:soon", "a=kill@x"])
def test_a_plan_with_an_error_is_refused(plan: str) -> None:
    with pytest.raises(Defect, match="no failpoint"):
        parse(plan)


async def test_only_the_hits_of_the_plan_strike() -> None:
    points = Failpoints("a=raise@2")
    await points.reach("a")
    await points.reach("b")
    with pytest.raises(StoreUnavailable):
        await points.reach("a")
    await points.reach("a")


async def test_a_file_is_read_at_each_hit_and_counts_over_all_processes(tmp_path: Path) -> None:
    """So a restarted process does not begin from 1 again, and a test sees each hit."""
    plan = tmp_path / "plan"
    ours, theirs = Failpoints(str(plan)), Failpoints(str(plan))
    await ours.reach("a")
    plan.write_text("a=raise@3")
    await ours.reach("a")
    await theirs.reach("a")
    with pytest.raises(StoreUnavailable):
        await ours.reach("a")
    for hit in ("a.1", "a.2", "a.3"):
        assert (tmp_path / hit).read_text() == str(os.getpid())
    assert not (tmp_path / "a.4").exists()


async def test_a_file_that_is_armed_anew_is_counted_from_1(tmp_path: Path) -> None:
    """By a process, too, that has reached the place before."""
    plan = tmp_path / "plan"
    plan.write_text("a=raise@3")
    points = Failpoints(str(plan))
    for _ in range(2):
        await points.reach("a")
    for hit in ("a.1", "a.2"):
        (tmp_path / hit).unlink()
    plan.write_text("a=raise@1")
    with pytest.raises(StoreUnavailable):
        await points.reach("a")


async def test_a_pause_holds_up_this_call_alone() -> None:
    points = Failpoints("a=pause:600")
    async with asyncio.timeout(60):
        held = asyncio.create_task(points.reach("a"))
        await points.reach("b")
        assert not held.done()
        held.cancel()


def test_an_armed_process_kills_itself_there() -> None:
    script = "import asyncio; from headway_core.failpoints import failpoint as f; "
    script += "asyncio.run(f('b')); print('b passed', flush=True); asyncio.run(f('a'))"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, VARIABLE: "a=kill"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == -9
    assert "b passed" in ran.stdout
