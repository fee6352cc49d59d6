"""P1, P2, P4, P6: the connection is reset after a COMMIT and before its reply reaches the caller.

Nobody can tell such a commit from one that never was. So every transition is run again with the
same arguments, and has to recognise what it did itself: the row is changed once, the caller gets
the answer that was lost.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest

from headway_core import claims, dead_letters, jobs, leases, runs, steps, submissions
from headway_core.content import json_content
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.job import JobError, RetryPolicy, Submission
from headway_core.outcomes import Failed, Outcome, Snoozed, Succeeded
from headway_core.settlement import decide
from headway_core.states import JobState
from tests.faults.history import check
from tests.faults.proxy import Deed, Proxy
from tests.store.conftest import submission

Result = TypeVar("Result")
TYPES = frozenset({"noop"})
LEASE = timedelta(seconds=15)
TABLES = """
SELECT 'job', id, to_jsonb(jobs) FROM jobs
UNION ALL SELECT 'event', job_id, to_jsonb(job_events) FROM job_events
UNION ALL SELECT 'outbox', job_id, to_jsonb(outbox) FROM outbox
UNION ALL SELECT 'run', job_id, to_jsonb(runs) FROM runs
UNION ALL SELECT 'step', job_id, to_jsonb(job_steps) FROM job_steps
UNION ALL SELECT 'letter', job_id, to_jsonb(dead_letters) FROM dead_letters
UNION ALL SELECT 'worker', id, to_jsonb(workers) - 'lease_expires' FROM workers
ORDER BY 1, 2, 3
"""


class Troubled:
    """Runs transitions so that their first reply is lost."""

    def __init__(self, proxy: Proxy, through: Database, beside: Database) -> None:
        self.proxy, self.through, self.beside = proxy, through, beside

    async def twice(
        self, statement: str, call: Callable[[Database], Awaitable[Result]], *, deed: Deed
    ) -> Result:
        """Lose the reply to the statement's commit, then run it again and return that answer.

        The first try has changed the tables, as seen from beside, and the second one has not.
        """
        before = await self.beside.fetch(TABLES)
        fault = self.proxy.on(f"committed {statement}", deed)
        with pytest.raises(StoreUnavailable):
            await call(self.through)
        assert fault.struck.is_set(), f"{statement} never committed: {self.proxy.seen}"
        changed = await self.beside.fetch(TABLES)
        assert changed != before, f"{statement} was not committed"
        answer = await call(self.through)
        assert await self.beside.fetch(TABLES) == changed, f"{statement} was done twice"
        return answer

    async def submitted(self, **given: Any) -> Submission:
        item = submission(**given)
        await submissions.submit(self.beside, [item], queue_depth_max=None)
        return item

    async def worker(self) -> UUID:
        worker_id = uuid4()
        await register(self.beside, worker_id)
        return worker_id

    async def claimed(self, worker_id: UUID, **given: Any) -> claims.Claim:
        item = await self.submitted(**given)
        request = claims.ClaimRequest(item.id, uuid4(), 1)
        (claim,) = await claims.claim(self.beside, [request], worker_id=worker_id, types=TYPES)
        assert isinstance(claim, claims.Claim)
        return claim


async def register(database: Database, worker_id: UUID) -> None:
    handler = leases.HandlerType("noop", "default", RetryPolicy(), None)
    await leases.register(
        database, worker_id, name="test", queues=["default"], types=[handler], lease=LEASE
    )


@pytest.fixture
def trouble(postgres_proxy: Proxy, troubled: Database, database: Database) -> Troubled:
    return Troubled(postgres_proxy, troubled, database)


@pytest.fixture(params=[Deed.RESET, Deed.BLACK_HOLE, Deed.HALF_CLOSE], ids=lambda deed: deed.name)
def deed(request: pytest.FixtureRequest) -> Deed:
    """A reset, a route that is gone, and a server that closes its side."""
    found: Deed = request.param
    return found


async def test_a_submit_whose_reply_is_lost_makes_one_job(trouble: Troubled, deed: Deed) -> None:
    """P1, P6: with a key or without; the server repeats the same submission with the same ID."""
    items = [submission(), submission(idempotency_key="order-1")]
    outcomes = await trouble.twice(
        "submissions.submit",
        lambda store: submissions.submit(store, items, queue_depth_max=None),
        deed=deed,
    )
    assert [
        outcome.job.id for outcome in outcomes if isinstance(outcome, submissions.Submitted)
    ] == [item.id for item in items]
    assert await trouble.beside.fetchval("SELECT count(*) FROM jobs") == 2
    assert await trouble.beside.fetchval("SELECT count(*) FROM outbox") == 2
    assert not await check(trouble.beside, at_rest=False, accepted=[item.id for item in items])


@pytest.mark.parametrize("key", [None, "order-1"], ids=["plain", "with a key"])
async def test_a_batch_whose_reply_is_lost_makes_its_jobs_once(
    trouble: Troubled, deed: Deed, key: str | None
) -> None:
    """P1, P6: one statement without keys, a transaction with one; all of its jobs are answered."""
    items = [submission(), submission(idempotency_key=key), submission()]
    outcomes = await trouble.twice(
        "submissions.submit",
        lambda store: submissions.submit_all(store, items, queue_depth_max=None),
        deed=deed,
    )
    assert [(outcome.job.id, outcome.created) for outcome in outcomes] == [
        (item.id, True) for item in items
    ]
    assert await trouble.beside.fetchval("SELECT count(*) FROM outbox") == 3
    assert not await check(trouble.beside, at_rest=False, accepted=[item.id for item in items])


async def test_a_claim_whose_reply_is_lost_is_the_claimers(trouble: Troubled, deed: Deed) -> None:
    """P2, P4: the rerun has the run that the first try began, with the same epoch."""
    worker_id = await trouble.worker()
    item = await trouble.submitted()
    request = claims.ClaimRequest(item.id, uuid4(), 1)
    (claim,) = await trouble.twice(
        "claims.claim",
        lambda store: claims.claim(store, [request], worker_id=worker_id, types=TYPES),
        deed=deed,
    )
    assert isinstance(claim, claims.Claim)
    assert claim.run_epoch == 1
    assert not await check(trouble.beside, at_rest=False)


async def test_a_claim_of_unknown_outcome_that_was_ended_is_not_resumed(trouble: Troubled) -> None:
    """P4, model trace 1: a heartbeat ended it as not held; its rerun claims anew, or nothing."""
    worker_id = await trouble.worker()
    item = await trouble.submitted()
    request = claims.ClaimRequest(item.id, uuid4(), 1)

    async def claim(store: Database) -> claims.ClaimOutcome:
        (outcome,) = await claims.claim(store, [request], worker_id=worker_id, types=TYPES)
        return outcome

    fault = trouble.proxy.on("committed claims.claim", Deed.RESET)
    with pytest.raises(StoreUnavailable):
        await claim(trouble.through)
    assert fault.struck.is_set()
    ended = await runs.interrupt_unheld(trouble.beside, worker_id, [(item.id, 1)])
    assert ended[item.id].state is JobState.PENDING
    again = await claim(trouble.through)
    assert isinstance(again, claims.Claim)
    assert again.run_epoch == 2
    assert not await check(trouble.beside, at_rest=False)


OUTCOMES: dict[str, tuple[Outcome, JobState]] = {
    "completed": (Succeeded(json_content({"n": 1})), JobState.COMPLETED),
    "failed": (Failed(JobError("E", "bad", retryable=True)), JobState.FAILED),
    "snoozed": (Snoozed(timedelta(minutes=1)), JobState.PENDING),
    "dead": (Failed(JobError("E", "bad", retryable=False)), JobState.DEAD),
}


@pytest.mark.parametrize("end", OUTCOMES)
async def test_a_settle_whose_reply_is_lost_counts_once(trouble: Troubled, end: str) -> None:
    """P2, P3: the rerun recognises its own result, so the delivery is acked, or rejected if dead.

    Each end adds one event and one outbox row at most, and charges one attempt at most.
    """
    outcome, state = OUTCOMES[end]
    worker_id = await trouble.worker()
    claim = await trouble.claimed(worker_id)
    settlement = decide(claim.budget, outcome, random=Random(1))
    item = runs.Settle(claim.job_id, claim.run_epoch, claim.claim_id, settlement)
    (settled,) = await trouble.twice(
        "runs.settle",
        lambda store: runs.settle(store, [item], worker_id=worker_id),
        deed=Deed.RESET,
    )
    assert isinstance(settled, runs.Settled)
    assert settled.state is state
    row = await trouble.beside.fetchrow("SELECT failures, dispatch_no, sequence FROM jobs")
    assert row is not None
    waits = state in (JobState.FAILED, JobState.PENDING)
    assert tuple(row) == (isinstance(outcome, Failed), 1 + waits, 3)
    assert not await check(trouble.beside, at_rest=False)


async def test_a_step_whose_reply_is_lost_is_stored_once(trouble: Troubled) -> None:
    """P2: the rerun finds the result stored, adds no event, and the run goes on."""
    worker_id = await trouble.worker()
    claim = await trouble.claimed(worker_id)
    stored = await trouble.twice(
        "steps.complete_step",
        lambda store: steps.complete_step(
            store,
            job_id=claim.job_id,
            run_epoch=claim.run_epoch,
            worker_id=worker_id,
            name="fetch",
            result=json_content([1]),
        ),
        deed=Deed.RESET,
    )
    assert stored == steps.StepStored(None)
    assert list(await steps.load_steps(trouble.beside, claim.job_id)) == ["fetch"]
    assert not await check(trouble.beside, at_rest=False)


async def test_a_replay_whose_reply_is_lost_revives_one_death(trouble: Troubled) -> None:
    """P2, model trace 12: the rerun changes nothing, and cannot revive a second death either."""
    worker_id = await trouble.worker()
    claim = await trouble.claimed(worker_id)
    settlement = decide(claim.budget, OUTCOMES["dead"][0], random=Random(1))
    item = runs.Settle(claim.job_id, claim.run_epoch, claim.claim_id, settlement)
    await runs.settle(trouble.beside, [item], worker_id=worker_id)
    replayed = await trouble.twice(
        "dead_letters.replay",
        lambda store: dead_letters.replay(store, claim.job_id),
        deed=Deed.RESET,
    )
    assert replayed.count == 0
    assert replayed.jobs[0].state is JobState.PENDING
    assert await trouble.beside.fetchval("SELECT count(*) FROM outbox WHERE dispatch_no = 2") == 1
    assert not await check(trouble.beside, at_rest=False)


async def test_a_cancel_whose_reply_is_lost_counts_once(trouble: Troubled) -> None:
    """P2: the rerun returns the cancelled job as it is."""
    item = await trouble.submitted()
    job = await trouble.twice(
        "jobs.cancel", lambda store: jobs.cancel(store, item.id, reason="no more"), deed=Deed.RESET
    )
    assert job.state is JobState.CANCELLED
    assert job.sequence == 2
    assert not await check(trouble.beside, at_rest=True)


async def test_an_end_of_a_lease_whose_reply_is_lost_judges_once(trouble: Troubled) -> None:
    """P7: a death is charged once, however often the supervisor has to report it."""
    worker_id = await trouble.worker()
    claim = await trouble.claimed(worker_id)
    await trouble.twice(
        "workers.end",
        lambda store: leases.end(store, worker_id, how=leases.LeaseEnd.DIED, message="killed"),
        deed=Deed.RESET,
    )
    row = await trouble.beside.fetchrow(
        "SELECT state, crashes, run_epoch FROM jobs WHERE id = $1", claim.job_id
    )
    assert row is not None
    assert tuple(row) == (JobState.FAILED, 1, 1)
    assert not await check(trouble.beside, at_rest=False)


async def test_a_registration_whose_reply_is_lost_registers_once(trouble: Troubled) -> None:
    """P4: one worker, one lease."""
    worker_id = uuid4()
    await trouble.twice(
        "workers.register", lambda store: register(store, worker_id), deed=Deed.RESET
    )
    assert await trouble.beside.fetchval("SELECT count(*) FROM workers") == 1
