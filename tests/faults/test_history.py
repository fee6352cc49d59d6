"""The checker itself: each kind of broken history is seen for what it is."""

from uuid import UUID

import pytest

from headway_core import submissions
from headway_core.database import Database
from tests.faults.history import check
from tests.service.worker import PlayedWorker
from tests.store.conftest import submission

TWO_ENDS = """
WITH more AS (
    INSERT INTO job_events (job_id, sequence, type, state, attempt, run_epoch)
    SELECT id, sequence + 1, 10, 4, 1, 1 FROM jobs
)
UPDATE jobs SET sequence = sequence + 1
"""
BREAKS = {
    "a gap in its sequences": (
        "DELETE FROM job_events WHERE sequence = 2",
        "sequences are",
    ),
    "no history": ("DELETE FROM job_events", "has no history"),
    "a lost first event": ("DELETE FROM job_events WHERE sequence = 1", "begin with SUBMITTED"),
    "two ends": (TWO_ENDS, "follows the end"),
    "an epoch that goes back": (
        "UPDATE job_events SET run_epoch = 0 WHERE sequence = 3",
        "epoch goes back",
    ),
    "an epoch started twice": (
        "UPDATE job_events SET type = 3, state = 3 WHERE sequence = 3",
        "started epoch 1 2 times",
    ),
    "another state than its last event": (
        "UPDATE job_events SET state = 3 WHERE sequence = 3",
        "its last event says",
    ),
    "a death without a letter": ("DELETE FROM dead_letters", "DEAD without a letter"),
    "a lost job": ("DELETE FROM jobs", "accepted, and lost"),
    "a message left": (
        "INSERT INTO outbox OVERRIDING SYSTEM VALUE SELECT * FROM saved",
        "outbox rows at rest",
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
async def test_a_broken_history_is_seen(database: Database, broken: str) -> None:
    """Broken by hand in the database; whole again, there is nothing to find."""
    statement, word = BREAKS[broken]
    job_id = await _dead_job(database)
    assert not await check(database, at_rest=True, accepted=[job_id])
    await database.execute(statement)
    violations = await check(database, at_rest=True, accepted=[job_id])
    assert any(word in violation for violation in violations), violations
    await database.execute("TRUNCATE jobs, job_events, outbox, dead_letters")
    assert not await check(database, at_rest=True)


async def _dead_job(database: Database) -> UUID:
    """SUBMITTED, STARTED, DEAD."""
    item = submission()
    await submissions.submit(database, [item], queue_depth_max=None)
    await database.execute("CREATE TABLE saved AS SELECT * FROM outbox")
    await database.execute("DELETE FROM outbox")
    worker = await PlayedWorker.register(database, "noop")
    await worker.kill(item.id)
    await database.execute("DELETE FROM outbox")
    return item.id
