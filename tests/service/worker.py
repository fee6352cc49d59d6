"""A worker's part, played through the core: no test here may import the worker."""

from datetime import timedelta
from random import Random
from uuid import UUID, uuid4

from headway_core import claims, leases, runs, steps
from headway_core.content import json_content
from headway_core.database import Database
from headway_core.job import JobError, Progress, RetryPolicy
from headway_core.outcomes import Failed, Outcome, Succeeded
from headway_core.settlement import decide


class PlayedWorker:
    """A worker with a lease that takes what it is told to take."""

    def __init__(self, database: Database, types: frozenset[str]) -> None:
        self._database = database
        self._types = types
        self.id = uuid4()

    @classmethod
    async def register(
        cls, database: Database, *types: str, lease: timedelta = timedelta(minutes=5)
    ) -> "PlayedWorker":
        worker = cls(database, frozenset(types))
        await leases.register(
            database,
            worker.id,
            name="played",
            queues=["default"],
            types=[leases.HandlerType(name, "default", RetryPolicy(), None) for name in types],
            lease=lease,
        )
        return worker

    async def claim(self, job_id: str | UUID) -> claims.Claim:
        request = claims.ClaimRequest(UUID(str(job_id)), uuid4(), 1)
        (outcome,) = await claims.claim(
            self._database, [request], worker_id=self.id, types=self._types
        )
        assert isinstance(outcome, claims.Claim), outcome
        return outcome

    async def settle(self, claim: claims.Claim, outcome: Outcome) -> runs.Settled | runs.Fenced:
        settlement = decide(claim.budget, outcome, random=Random(1))
        item = runs.Settle(claim.job_id, claim.run_epoch, claim.claim_id, settlement)
        (settled,) = await runs.settle(self._database, [item], worker_id=self.id)
        return settled

    async def complete(self, job_id: str | UUID, result: object = None) -> None:
        claim = await self.claim(job_id)
        content = json_content(result) if result is not None else None
        assert isinstance(await self.settle(claim, Succeeded(content)), runs.Settled)

    async def kill(self, job_id: str | UUID, message: str = "no use") -> None:
        """Run the job once and let it die."""
        claim = await self.claim(job_id)
        failed = Failed(JobError("PermanentError", message, retryable=False))
        assert isinstance(await self.settle(claim, failed), runs.Settled)

    async def step(self, claim: claims.Claim, name: str) -> None:
        await steps.complete_step(
            self._database,
            job_id=claim.job_id,
            run_epoch=claim.run_epoch,
            worker_id=self.id,
            name=name,
            result=json_content({}),
        )

    async def save_progress(self, claim: claims.Claim, progress: Progress) -> None:
        await runs.save_progress(self._database, [(claim.job_id, claim.run_epoch, progress)])
