"""P2, P4, P5: the clocks of workers are wrong. Only the database's counts."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from headway import Progress
from tests.faults import clocks
from tests.faults.clocks import Clock
from tests.faults.rig import LEASE_SECONDS, Rig
from tests.faults.waiting import until

OFF_SECONDS = 600.0
TOLERANCE_SECONDS = 120.0

pytestmark = pytest.mark.skipif(
    clocks.compiler() is None, reason="a process gets a clock of its own by a C compiler on Linux"
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is loaded into processes with a clock of their own."""
    return clocks.build(tmp_path_factory.mktemp("clock"))


async def test_workers_whose_clocks_are_ten_minutes_off_are_like_others(
    rig: Rig, library: Path, tmp_path: Path
) -> None:
    """P2, P4: one ahead, one behind; leases, retries and settles go by the database's time.

    The jobs run for longer than a lease, fail once, and are retried at once, not in ten minutes.
    """
    offsets = {"ahead": OFF_SECONDS, "behind": -OFF_SECONDS}
    for name, off in offsets.items():
        clock = Clock(library, tmp_path / name)
        clock.set(off)
        await rig.worker("--concurrency", "4", **clock.settings)
    journal = rig.journal()
    async with rig.client() as client:
        begun = time.time()
        await rig.submit(client, 8, journal=str(journal), seconds=LEASE_SECONDS + 1, failures=1)
        await rig.done()
        took = time.time() - begun
    assert took < TOLERANCE_SECONDS
    shown = [line.time - begun for line in journal.lines()]
    for off in offsets.values():
        assert any(abs(seconds - off) <= TOLERANCE_SECONDS for seconds in shown), shown
    assert all(abs(seconds) > TOLERANCE_SECONDS for seconds in shown), "a clock is right"
    assert set(journal.runs().values()) == {2}, "each fails once, and nobody is reaped"
    rows = await rig.query("SELECT min(failures), max(failures), max(crashes) FROM jobs")
    assert tuple(rows[0]) == (1, 1, 0)
    await rig.judge()


async def test_progress_goes_on_when_a_clock_is_set_back_during_the_run(
    rig: Rig, library: Path, tmp_path: Path
) -> None:
    """P5: the newest progress is shown, by the order in which it was reported."""
    clock = Clock(library, tmp_path / "clock")
    await rig.worker("--concurrency", "2", **clock.settings)
    gate = rig.gate()
    seen: list[Progress] = []
    async with rig.client() as client:
        (job,) = await rig.submit(client, 1, "fault.progress", until=str(gate))

        async def watch() -> None:
            async with contextlib.aclosing(client.watch(job.id)) as updates:
                async for update in updates:
                    if isinstance(update, Progress):
                        seen.append(update)  # noqa: PERF401 - it is looked at meanwhile

        watching = asyncio.create_task(watch())
        await until(lambda: len(seen) >= 2, "progress is shown")
        clock.set(-OFF_SECONDS)
        set_back_at = time.time()
        await until(
            lambda: sum(_clock_of(one) < set_back_at - TOLERANCE_SECONDS for one in seen) >= 3,
            "progress by the clock that was set back is shown",
        )
        gate.touch()
        await watching
    numbers = [one.done or 0 for one in seen]
    assert numbers == sorted(numbers)
    await rig.judge(without_fault=True)


def _clock_of(progress: Progress) -> float:
    """What the worker's clock showed when this was reported: its message."""
    return float(progress.message)
