"""P2, P4, P5, P7: transitions that meet each other on one job, many times over.

In every race each side is told whether it won, and the history tells the same. So many rounds run
in `make test`; ten thousand in `make faults`.
"""

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import Awaitable
from datetime import timedelta
from random import Random
from typing import TypeVar
from uuid import UUID, uuid4

import pytest

from headway_core import claims, dead_letters, jobs, leases, outbox, runs, submissions
from headway_core.database import Database
from headway_core.job import JobError, RetryPolicy
from headway_core.outcomes import Failed, Interrupted, Succeeded
from headway_core.settlement import decide
from headway_core.states import JobState
from tests.faults.history import check
from tests.store.conftest import submission

Result = TypeVar("Result")

ROUNDS = int(os.environ.get("HEADWAY_TEST_RACE_ROUNDS", "200"))
AT_ONCE = 8
LATE_SECONDS_MAX = 0.01
"""A few times a transition's length: any side may come first, or be in the midst of it."""
TYPES = frozenset({"noop"})
HANDLER = leases.HandlerType("noop", "default", RetryPolicy(), None)
REPLAYS = 50
# A round is fifty times as long as another's.
REPLAY_ROUNDS = ROUNDS if ROUNDS >= 10_000 else max(ROUNDS // 20, 3)


async def _worker(database: Database, lease: timedelta = timedelta(hours=1)) -> UUID:
    worker_id = uuid4()
    await leases.register(
        database, worker_id, name="race", queues=["default"], types=[HANDLER], lease=lease
    )
    return worker_id


async def _claimed(database: Database, worker_id: UUID) -> claims.Claim:
    item = submission()
    await submissions.submit(database, [item], queue_depth_max=None)
    request = claims.ClaimRequest(item.id, uuid4(), 1)
    (claim,) = await claims.claim(database, [request], worker_id=worker_id, types=TYPES)
    assert isinstance(claim, claims.Claim)
    return claim


async def _lapse(database: Database, worker_id: UUID) -> None:
    await database.execute(
        "UPDATE workers SET lease_expires = clock_timestamp() WHERE id = $1", worker_id
    )


def _settle(claim: claims.Claim, outcome: Succeeded | Failed | Interrupted) -> runs.Settle:
    settlement = decide(claim.budget, outcome, random=Random(1))
    return runs.Settle(claim.job_id, claim.run_epoch, claim.claim_id, settlement)


async def _late(call: Awaitable[Result]) -> Result:
    """Begin a little later, by chance."""
    await asyncio.sleep(random.uniform(0, LATE_SECONDS_MAX))
    return await call


async def _rounds(round_: object, count: int = ROUNDS) -> Counter[str]:
    """Run rounds, AT_ONCE at a time, and count how they ended."""
    won: Counter[str] = Counter()
    left = iter(range(count))

    async def lane() -> None:
        for _ in left:
            won[await round_()] += 1  # type: ignore[operator]

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(lane())
    print(dict(won))
    return won


def _each_won(won: Counter[str], *ways: str) -> None:
    """A race that always ends in one way was none."""
    assert set(won) >= set(ways), f"one side always won: {won}"


async def test_cancel_against_complete_against_reap(database: Database) -> None:
    """P2, P4: exactly one end; COMPLETED beats a request that came first, CANCELLED any other end;
    a run that was reaped first is fenced.

    The reaper leaves out a job that one of the others has locked, and has it in its next round if
    it runs still. Every other worker is dead, and settles nothing.
    """
    dead = itertools.cycle((False, True))

    async def race() -> str:
        worker_id = await _worker(database)
        claim = await _claimed(database, worker_id)
        await _lapse(database, worker_id)
        item = [] if next(dead) else [_settle(claim, Succeeded(None))]
        settled, cancelled, judged = await asyncio.gather(
            _late(runs.settle(database, item, worker_id=worker_id)),
            _late(jobs.cancel(database, claim.job_id, reason="race")),
            _late(leases.reap(database, worker_id)),
        )
        assert cancelled.id == claim.job_id
        left = await leases.reap(database, worker_id)
        assert not await leases.reap(database, worker_id)
        job = await jobs.get(database, claim.job_id, full=False)
        if isinstance(next(iter(settled), None), runs.Settled):
            assert not judged
            assert not left
            assert job.state is JobState.COMPLETED
            return "completed"
        assert job.state is JobState.CANCELLED
        assert len(judged) + len(left) == 1
        if left:
            return "cancel asked for, left out, reaped later"  # too rare to be asked for
        (run,) = judged
        if run.state is JobState.CANCELLED:
            return "cancel asked for, reaped"
        assert run.state in (JobState.FAILED, JobState.PENDING)
        return "reaped, cancelled"

    _each_won(await _rounds(race), "completed", "reaped, cancelled", "cancel asked for, reaped")
    assert not await check(database, at_rest=False)


async def test_a_reaper_waits_for_no_lock_and_comes_back(database: Database) -> None:
    """P4: what it leaves out, under a lease that it has ended, is its next round's."""
    worker_id = await _worker(database)
    claim = await _claimed(database, worker_id)
    await _lapse(database, worker_id)
    async with database.transaction() as other:
        await other.execute("SELECT FROM jobs WHERE id = $1 FOR NO KEY UPDATE", claim.job_id)
        assert not await leases.reap(database, worker_id)
    assert await leases.lapsed(database, limit=10) == [worker_id]
    (run,) = await leases.reap(database, worker_id)
    assert run.state is JobState.FAILED
    assert not await check(database, at_rest=False)


async def test_cancel_against_complete_against_a_death_told(database: Database) -> None:
    """P2, P4: the same with a supervisor, who waits for the locks of others."""

    async def race() -> str:
        worker_id = await _worker(database)
        claim = await _claimed(database, worker_id)
        settled, cancelled, judged = await asyncio.gather(
            _late(runs.settle(database, [_settle(claim, Succeeded(None))], worker_id=worker_id)),
            _late(jobs.cancel(database, claim.job_id, reason="race")),
            _late(leases.end(database, worker_id, how=leases.LeaseEnd.DIED, message="race")),
        )
        job = await jobs.get(database, claim.job_id, full=False)
        assert cancelled.id == claim.job_id
        match settled[0]:
            case runs.Settled(state):
                assert state is JobState.COMPLETED
                assert job.state is JobState.COMPLETED
                assert not judged
                return "completed"
            case runs.Fenced():
                assert judged
                assert job.state in (JobState.FAILED, JobState.CANCELLED)
                # A cancel that came before the reaping, or found the job waiting after it.
                assert job.state is JobState.CANCELLED
                return "reaped, cancelled"

    _each_won(await _rounds(race), "completed", "reaped, cancelled")
    assert not await check(database, at_rest=False)


async def test_cancel_against_claim(database: Database) -> None:
    """P4: the job is cancelled before it runs, or runs with the request standing."""
    worker_id = await _worker(database)

    async def race() -> str:
        item = submission()
        await submissions.submit(database, [item], queue_depth_max=None)
        request = claims.ClaimRequest(item.id, uuid4(), 1)
        (claim,), cancelled = await asyncio.gather(
            _late(claims.claim(database, [request], worker_id=worker_id, types=TYPES)),
            _late(jobs.cancel(database, item.id, reason="race")),
        )
        if isinstance(claim, claims.Claim):
            assert cancelled.state is JobState.RUNNING
            failed = Failed(JobError("E", "bad", retryable=True))
            (settled,) = await runs.settle(database, [_settle(claim, failed)], worker_id=worker_id)
            assert isinstance(settled, runs.Settled)
            assert settled.state is JobState.CANCELLED
            return "ran"
        assert cancelled.state is JobState.CANCELLED
        return "cancelled"

    _each_won(await _rounds(race), "ran", "cancelled")
    assert not await check(database, at_rest=False)


@pytest.mark.timeout(3_000)  # half a million replays
async def test_fifty_concurrent_replays_make_one_life(database: Database) -> None:
    """P2: one of them revives the job, the others find it revived; the epoch is not used again."""
    worker_id = await _worker(database)

    async def race() -> str:
        claim = await _claimed(database, worker_id)
        failed = Failed(JobError("E", "bad", retryable=False))
        await runs.settle(database, [_settle(claim, failed)], worker_id=worker_id)
        answers = await asyncio.gather(
            *(dead_letters.replay(database, claim.job_id) for _ in range(REPLAYS))
        )
        assert sum(answer.count for answer in answers) == 1
        request = claims.ClaimRequest(claim.job_id, uuid4(), 2)
        (again,) = await claims.claim(database, [request], worker_id=worker_id, types=TYPES)
        assert isinstance(again, claims.Claim)
        assert again.run_epoch == claim.run_epoch + 1
        await runs.settle(database, [_settle(again, Succeeded(None))], worker_id=worker_id)
        return "one"

    await _rounds(race, REPLAY_ROUNDS)
    rows = await database.fetch(
        "SELECT count(*) FROM job_events WHERE type = 13 GROUP BY job_id HAVING count(*) <> 1"
    )
    assert not rows
    assert not await check(database, at_rest=False)


async def test_claim_against_mark(database: Database) -> None:
    """P5: the lazy mark never marks a job that has started; the event is there or is not."""
    worker_id = await _worker(database)

    async def race() -> str:
        item = submission()
        await submissions.submit(database, [item], queue_depth_max=None)
        request = claims.ClaimRequest(item.id, uuid4(), 1)
        (claim,), marked = await asyncio.gather(
            _late(claims.claim(database, [request], worker_id=worker_id, types=TYPES)),
            _late(outbox.mark_queued(database, [(item.id, 1)])),
        )
        assert isinstance(claim, claims.Claim)
        await runs.settle(database, [_settle(claim, Succeeded(None))], worker_id=worker_id)
        return "marked first" if marked else "claimed first"

    _each_won(await _rounds(race), "marked first", "claimed first")
    assert not await check(database, at_rest=False)


async def test_drain_against_settle(database: Database) -> None:
    """P10: the run's own end, or INTERRUPTED; never both, and never a charge."""

    async def race() -> str:
        worker_id = await _worker(database)
        claim = await _claimed(database, worker_id)
        settled, judged = await asyncio.gather(
            _late(runs.settle(database, [_settle(claim, Succeeded(None))], worker_id=worker_id)),
            _late(leases.end(database, worker_id, how=leases.LeaseEnd.DRAINED, message="left")),
        )
        job = await jobs.get(database, claim.job_id, full=False)
        if isinstance(settled[0], runs.Settled):
            assert not judged
            assert job.state is JobState.COMPLETED
            return "settled"
        assert [run.state for run in judged] == [JobState.PENDING]
        assert job.state is JobState.PENDING
        return "interrupted"

    _each_won(await _rounds(race), "settled", "interrupted")
    rows = await database.fetch("SELECT id FROM jobs WHERE failures + crashes > 0")
    assert not rows
    assert not await check(database, at_rest=False)


async def test_beat_against_reap(database: Database) -> None:
    """P4, model trace 8: a lapsed lease is renewed or ended; the run is ours or judged."""

    async def race() -> str:
        worker_id = await _worker(database)
        claim = await _claimed(database, worker_id)
        await _lapse(database, worker_id)
        renewed, judged = await asyncio.gather(
            _late(leases.beat(database, [worker_id], lease=timedelta(minutes=5))),
            _late(leases.reap(database, worker_id)),
        )
        assert renewed[worker_id] != bool(judged)
        (settled,) = await runs.settle(
            database, [_settle(claim, Succeeded(None))], worker_id=worker_id
        )
        assert isinstance(settled, runs.Settled) == renewed[worker_id]
        return "renewed" if renewed[worker_id] else "reaped"

    _each_won(await _rounds(race), "renewed", "reaped")
    assert not await check(database, at_rest=False)
