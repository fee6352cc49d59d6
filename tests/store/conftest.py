"""What the store's tests share: a database, a worker with a live lease, a job to try things on."""

import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from headway_core import claims, leases, runs, steps, submissions
from headway_core.content import json_content
from headway_core.database import Database
from headway_core.job import JobError, RetryPolicy, Submission
from headway_core.outcomes import Failed, Outcome, Succeeded
from headway_core.settlement import decide

LEASE = timedelta(seconds=15)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Submit = Callable[..., Awaitable[submissions.Submitted]]
Register = Callable[..., Awaitable[UUID]]
Run = Callable[..., Awaitable[UUID]]

DEATH = Failed(JobError("PermanentError", "no use", retryable=False))


def submission(type_: str = "noop", **given: object) -> Submission:
    """A submission with plain defaults."""
    given.setdefault("request_hash", hashlib.sha256(repr((type_, given)).encode()).digest())
    return Submission(id=uuid7(), type=type_, traceparent=TRACEPARENT, **given)  # type: ignore[arg-type]


@pytest.fixture
def submit(database: Database) -> Submit:
    """Submit one job and return what came of it."""

    async def submit(type_: str = "noop", **given: object) -> submissions.Submitted:
        (outcome,) = await submissions.submit(
            database, [submission(type_, **given)], queue_depth_max=None
        )
        assert isinstance(outcome, submissions.Submitted)
        return outcome

    return submit


@pytest.fixture
def register(database: Database) -> Register:
    """Register a worker and return its ID."""

    async def register(
        *types: str, queue: str = "default", lease: timedelta = LEASE, **policy: object
    ) -> UUID:
        worker_id = uuid4()
        await leases.register(
            database,
            worker_id,
            name="test",
            queues=[queue],
            types=[
                leases.HandlerType(type_, queue, RetryPolicy(**policy), None)  # type: ignore[arg-type]
                for type_ in types or ("noop",)
            ],
            lease=lease,
        )
        return worker_id

    return register


@pytest.fixture
async def run(database: Database, submit: Submit, register: Register) -> Run:
    """Run a new job to an end and return its ID."""
    worker = await register(lease=timedelta(minutes=5))

    async def run(outcome: Outcome | None = None, **given: object) -> UUID:
        job_id = (await submit(**given)).job.id
        request = claims.ClaimRequest(job_id, uuid4(), 1)
        (claim,) = await claims.claim(database, [request], worker_id=worker, types={"noop"})
        assert isinstance(claim, claims.Claim)
        await steps.complete_step(
            database,
            job_id=job_id,
            run_epoch=claim.run_epoch,
            worker_id=worker,
            name="one",
            result=json_content({}),
        )
        settlement = decide(claim.budget, outcome or Succeeded(None), random=Random(1))
        item = runs.Settle(job_id, claim.run_epoch, claim.claim_id, settlement)
        await runs.settle(database, [item], worker_id=worker)
        await database.execute("DELETE FROM outbox WHERE job_id = $1", job_id)
        return job_id

    return run
