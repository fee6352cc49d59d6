"""The steps of a run, in Postgres."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar
from uuid import UUID

from headway_core import steps
from headway_core.claims import Claim
from headway_core.content import Content
from headway_core.database import Database
from headway_core.runs import Fenced
from headway_worker.endings import Stop
from headway_worker.handler_errors import JobCancelled
from headway_worker.lease import Lease
from headway_worker.patience import until_answered
from headway_worker.running import Run

LEASE_WAIT_SECONDS: Final = 0.1
"""How often a step that waits for the lease looks whether its run is still wanted."""

Result = TypeVar("Result")


class StoredSteps:
    """One run's steps, for a handler in this process or, through a pipe, in a child."""

    def __init__(
        self,
        run: Run,
        claim: Claim,
        *,
        database: Database,
        worker_id: UUID,
        lease: Lease,
        stored: Callable[[int], None],
    ) -> None:
        """`stored` is told the sequence of each STEP_COMPLETED event."""
        self._run = run
        self._claim = claim
        self._database = database
        self._worker_id = worker_id
        self._lease = lease
        self._on_stored = stored
        self._loop = asyncio.get_running_loop()
        # The first run of a job can have no steps: no query for the many jobs that run once.
        self._known: dict[str, Content] | None = {} if claim.run_epoch == 1 else None

    def recall(self, name: str) -> Future[Content | None]:
        """See Steps; from any thread."""
        return self._on_loop(self.find(name))

    def store(self, name: str, result: Content) -> Future[None]:
        """See Steps; from any thread."""
        return self._on_loop(self.keep(name, result))

    async def find(self, name: str) -> Content | None:
        """Find a stored result; None once the step may begin. JobCancelled if the run is to end."""
        self._check()
        if self._known is None:
            self._known = await until_answered(
                lambda: steps.load_steps(self._database, self._claim.job_id)
            )
        if name in self._known:
            return self._known[name]
        while not self._lease.live:  # cut off: another worker may have the job by now
            self._check()
            await asyncio.sleep(LEASE_WAIT_SECONDS)
        self._check()
        return None

    async def keep(self, name: str, result: Content) -> None:
        """Store a result, however long Postgres is away. JobCancelled if the run was lost."""
        outcome = await until_answered(
            lambda: steps.complete_step(
                self._database,
                job_id=self._claim.job_id,
                run_epoch=self._claim.run_epoch,
                worker_id=self._worker_id,
                name=name,
                result=result,
            )
        )
        if isinstance(outcome, Fenced):
            self._run.request_stop(Stop.LOST)
            raise JobCancelled("the run is no longer the job's own")
        if self._known is not None:
            self._known[name] = result
        if outcome.sequence is not None:
            self._on_stored(outcome.sequence)

    def _check(self) -> None:
        if self._run.stop is not None:
            raise JobCancelled("the run is to end")

    def _on_loop(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
