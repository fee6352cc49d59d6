"""How jobs stand with the broker."""

from typing import Final

from headway_core.states import JobState
from tests.faults.rig import Rig

QUEUED_LONG_SECONDS: Final = 30
"""After so long the sweeper asks what became of a job's message."""


async def all_queued(rig: Rig, count: int) -> bool:
    """Whether so many jobs are QUEUED."""
    rows = await rig.query("SELECT count(*) FROM jobs WHERE state = $1", JobState.QUEUED)
    return bool(rows) and rows[0][0] == count


async def age(rig: Rig) -> None:
    """Make jobs look as if they had been QUEUED for so long."""
    await rig.query(
        "UPDATE jobs SET wait_time = wait_time - make_interval(secs => $1) WHERE state = $2",
        QUEUED_LONG_SECONDS,
        JobState.QUEUED,
    )
