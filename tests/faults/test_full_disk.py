"""P1, P2, P9: the disk of Postgres is full, as the kernel says it, while jobs run."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from headway import HeadwayError
from headway_dev.errors import ServiceFailed
from headway_dev.schema import migrate
from headway_dev.services import AMQP_VARIABLE, DATABASE_VARIABLE, private_services
from tests.faults import disks
from tests.faults.lending import judged, served
from tests.faults.rig import Rig
from tests.faults.waiting import PATIENCE_SECONDS, promised, until

FULL = "No space left on device"
FULL_SECONDS = 3.0
SERVING_SECONDS_MAX = 5.0
LOAD = "x" * 50_000
SETTINGS = {"min_wal_size": "32MB", "max_wal_size": "32MB", "restart_after_crash": "on"}

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 224 MiB."""
    if reason := disks.why_not():
        pytest.skip(reason)
    # Whatever services the environment names: these are not ours to fill.
    monkeypatch.delenv(DATABASE_VARIABLE, raising=False)
    monkeypatch.delenv(AMQP_VARIABLE, raising=False)
    with disks.small_disk() as found:
        yield found


@pytest.fixture
async def small_disk_rig(
    disk: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Rig]:
    """A rig whose Postgres has a small disk."""
    owner = private_services(tmp_path / "services", start=False, postgres_settings=SETTINGS)
    with owner as services:
        services.state.services.setdefault("postgres", {})["data"] = str(disk / "postgres-data")
        services.start()
        migrate(services.database_url)
        directory = tmp_path / "rig"
        directory.mkdir()
        with served(services, directory) as rig:
            async with judged(rig, request):
                yield rig
        services.erase()


async def test_a_full_disk_refuses_and_loses_nothing(small_disk_rig: Rig, disk: Path) -> None:
    """P1, P9: what was answered is there; the rest is refused in time, and works again once there
    is room. Postgres itself may panic at a full disk: then somebody starts it again.
    """
    rig = small_disk_rig
    await rig.worker("--concurrency", "4")
    refused: list[float] = []
    ended = asyncio.Event()

    async with rig.client() as client:

        async def submit() -> None:
            while not ended.is_set():
                begun = time.monotonic()
                try:
                    job = await client.submit("fault.work", {"seconds": 0.05, "load": LOAD})
                    rig.accept([job])
                except HeadwayError:
                    refused.append(time.monotonic() - begun)
                await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(submit()) for _ in range(4)]
        await until(lambda: len(rig.accepted) > 20, "jobs are accepted")
        ballast = await asyncio.to_thread(disks.fill, disk)
        try:
            await until(lambda: refused and FULL in _log(rig), "submits fail, the disk being full")
            await asyncio.sleep(FULL_SECONDS)
        finally:
            ballast.unlink()
        await _start_again(rig)
        count = len(rig.accepted)
        took = await until(lambda: len(rig.accepted) > count + 4, "submits are accepted again")
        ended.set()
        await asyncio.gather(*tasks)
    print(f"disk full: {len(refused)} calls refused, the slowest in {max(refused):.2f} s")
    await rig.judge()
    promised("room on the disk again -> serving", took, SERVING_SECONDS_MAX)


def _log(rig: Rig) -> str:
    return rig.services.postgres.log.read_text(errors="replace")


async def _start_again(rig: Rig) -> None:
    """Until it answers: it may have ended, or be about to."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await rig.query("SELECT 1"):
        assert time.monotonic() < deadline, _log(rig)[-2000:]
        with contextlib.suppress(ServiceFailed):
            await asyncio.to_thread(rig.services.postgres.start)
        await asyncio.sleep(0.1)
