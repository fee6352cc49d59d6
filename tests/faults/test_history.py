"""The checker itself: each kind of broken history is seen for what it is."""

from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest

from headway_core import submissions
from headway_core.database import Database
from headway_core.states import JobState
from tests.faults.evidence import Sight, executions, unlike, unnoticed
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
STRAY = """
INSERT INTO job_events (job_id, sequence, type, state, attempt, run_epoch)
VALUES (gen_random_uuid(), 1, 1, 1, 0, 0)
"""
FORGET = "TRUNCATE jobs, job_events, outbox, dead_letters, runs, idempotency_keys"
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
    "a letter without a death": (
        "UPDATE jobs SET state = 4",
        "letter without DEAD",
    ),
    "a state without a run": (
        "UPDATE jobs SET state = 3, end_time = NULL",
        "RUNNING without a run",
    ),
    "a run without its state": (
        "INSERT INTO runs SELECT id, worker_id, run_epoch, claim_id FROM jobs",
        "a run without RUNNING",
    ),
    "a key without a job": (
        "INSERT INTO idempotency_keys VALUES ('key', gen_random_uuid(), '')",
        "one key, two jobs or none",
    ),
    "events of another job": (
        STRAY,
        "events of no job",
    ),
    "a step that no job may take": (
        "UPDATE job_events SET state = 4 WHERE sequence = 1",
        "RUNNING follows COMPLETED",
    ),
    "a job that is not done": (
        "UPDATE jobs SET state = 5, end_time = NULL, wait_time = clock_timestamp()",
        "FAILED at rest",
    ),
    "a job that waits for nothing": (
        "UPDATE jobs SET state = 5, end_time = NULL, wait_time = clock_timestamp() + '1 h'",
        "no message is to come",
    ),
    "a second run": ("UPDATE jobs SET run_epoch = 2", "ran 2 times without a fault"),
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
    given: Any = {"at_rest": True, "accepted": [job_id], "without_fault": True}
    assert not await check(database, **given)
    await database.execute(statement)
    violations = await check(database, **given)
    assert any(word in violation for violation in violations), violations
    await database.execute(
        "TRUNCATE jobs, job_events, outbox, dead_letters, runs, idempotency_keys"
    )
    assert not await check(database, at_rest=True)


STORED = [(1, "SUBMITTED", 0), (2, "STARTED", 1), (3, "COMPLETED", 1)]


@pytest.mark.parametrize(
    ("sight", "holds"),
    [
        (Sight(0, STORED), True),
        (Sight(2, STORED[2:]), True),
        (Sight(3), True),
        (Sight(0, STORED[:2]), False),
        (Sight(1, STORED[2:]), False),
        (Sight(0, [STORED[0], STORED[2], STORED[1]]), False),
        (Sight(0, [*STORED, STORED[2]]), False),
    ],
)
def test_a_watcher_that_missed_something_is_seen(sight: Sight, *, holds: bool) -> None:
    """From the beginning, or from a snapshot: all that follows, once, in order."""
    assert (not unlike(sight, STORED)) == holds


def test_a_death_without_a_notice_is_seen() -> None:
    """Each death of a job has one; more are no harm."""
    job_id = uuid4()
    assert not unnoticed({job_id: 2}, {job_id: 3})
    assert unnoticed({job_id: 2}, {job_id: 1})
    assert unnoticed({job_id: 1}, {})


@pytest.mark.parametrize(
    ("begun", "run_epoch", "holds", "holds_without_fault"),
    [(1, 1, True, True), (2, 1, False, False), (1, 2, True, False), (0, 1, False, False)],
)
def test_an_execution_too_many_is_seen(
    begun: int, run_epoch: int, *, holds: bool, holds_without_fault: bool
) -> None:
    """An epoch that began twice in the handlers' journal, and a result without an execution."""
    jobs = [("job", JobState.COMPLETED, run_epoch)]
    runs = Counter({"job": begun})
    assert (not executions(runs, jobs, without_fault=False)) == holds
    assert (not executions(runs, jobs, without_fault=True)) == holds_without_fault


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
