"""A service played over the real store: the broker is a list, and all else is done when told.

What it makes of the jobs is judged by the history checker, and by what a checker of tables cannot
see: copies at the broker, and what a caller was told.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Final
from uuid import UUID, uuid4

from headway_core import claims, leases, outbox, runs, submissions
from headway_core.content import Content, json_content
from headway_core.database import Database
from headway_core.job import Dispatch, RetryPolicy
from headway_core.outcomes import Outcome, Succeeded
from headway_core.settlement import decide
from headway_server.sweeper import Sweeper
from headway_worker.reconciliation import reconcile
from headway_worker.running import RunTable
from tests.faults.history import check
from tests.store.conftest import submission

LEASE: Final = timedelta(minutes=5)
TYPES: Final = frozenset({"noop"})
ROUNDS_MAX: Final = 8

Message = tuple[UUID, int]
"""A job and its dispatch number."""


class NoHints:
    """Hints are lossy by contract."""

    def send(self, hint: object) -> None:
        """Lose it."""


@dataclass(slots=True)
class Service:
    """Everything but Postgres."""

    database: Database
    messages: list[Message] = field(default_factory=list)
    """Ready at the broker."""
    confirmed: list[Message] = field(default_factory=list)
    """To be marked."""
    workers: list[UUID] = field(default_factory=list)
    ready = True
    """As the sweeper asks its publisher."""
    _sweeper: Sweeper | None = None

    async def submit(self, type_: str = "noop", *, backoff: timedelta = timedelta(0)) -> UUID:
        """Submit a job."""
        item = submission(type_, retry_policy=RetryPolicy(5, backoff, backoff, 1.0))
        await submissions.submit(self.database, [item], queue_depth_max=None)
        return item.id

    async def worker(self) -> UUID:
        """Register a worker."""
        worker_id = uuid4()
        handlers = [leases.HandlerType(type_, "default", RetryPolicy(), None) for type_ in TYPES]
        await leases.register(
            self.database, worker_id, name="m", queues=["default"], types=handlers, lease=LEASE
        )
        self.workers.append(worker_id)
        return worker_id

    async def relay(self, *, crashes: bool = False) -> None:
        """Publish what is due, and forget it unless the relay crashes before that."""
        await self.database.execute("UPDATE outbox SET reserved_until = NULL")
        async with self.database.transaction() as connection:
            due = await outbox.take_due(connection, limit=100)
            self.messages += [(one.job_id, one.dispatch_no) for one in due if not one.dead]
            if not crashes:
                await outbox.delete(connection, [one.outbox_id for one in due])
                self.confirmed += [(one.job_id, one.dispatch_no) for one in due if not one.dead]

    async def mark(self) -> None:
        """The lazy mark."""
        for one in self.confirmed:
            await outbox.mark_queued(self.database, [one])
        self.confirmed.clear()

    async def claim(self, worker: UUID, *job_ids: UUID) -> list[claims.Claim]:
        """Claim jobs that must be had, their deliveries gone."""
        found = []
        for job_id in job_ids:
            outcome = await self._claim(worker, (job_id, 1))
            assert isinstance(outcome, claims.Claim), outcome
            found.append(outcome)
        return found

    async def settle(
        self, worker: UUID, claimed: claims.Claim, outcome: Outcome
    ) -> runs.Settled | runs.Fenced:
        """End a run."""
        settlement = decide(claimed.budget, outcome, random=Random(1))
        item = runs.Settle(claimed.job_id, claimed.run_epoch, claimed.claim_id, settlement)
        (settled,) = await runs.settle(self.database, [item], worker_id=worker)
        return settled

    async def deliver(self, worker: UUID) -> None:
        """Give a worker all that is ready: it completes, declines or acks."""
        messages, self.messages = self.messages, []
        for message in messages:
            outcome = await self._claim(worker, message)
            match outcome:
                case claims.Claim():
                    await self.settle(worker, outcome, Succeeded(result("done")))
                case claims.TypeLacking():
                    job_id, number = message
                    await claims.decline(
                        self.database, job_id, worker_id=worker, dispatch_no=number, types=TYPES
                    )
                case claims.NothingToDo():
                    pass
                case _:
                    self.messages.append(message)

    async def _claim(self, worker: UUID, message: Message) -> claims.ClaimOutcome:
        request = claims.ClaimRequest(message[0], uuid4(), message[1])
        (outcome,) = await claims.claim(self.database, [request], worker_id=worker, types=TYPES)
        return outcome

    async def beat(self, worker: UUID) -> None:
        """Renew the lease of a worker that holds nothing, and compare."""
        await leases.beat(self.database, [worker], lease=LEASE)
        await reconcile(self.database, worker, RunTable(), NoHints())  # type: ignore[arg-type]

    async def lapse(self, worker: UUID) -> None:
        """Its lease is over by time."""
        await self.database.execute(
            "UPDATE workers SET lease_expires = clock_timestamp() WHERE id = $1", worker
        )

    async def reap(self) -> None:
        """One tick of the reaper."""
        for worker in await leases.lapsed(self.database, limit=100):
            await leases.reap(self.database, worker)

    async def sweep(self) -> None:
        """One sweep; the same sweeper each time."""
        if self._sweeper is None:
            self._sweeper = Sweeper(
                self.database,
                self,  # type: ignore[arg-type]
                starvation=timedelta(hours=1),
                dispatch=self._dispatch,
            )
        await self._sweeper.sweep()

    async def ready_count(self, queue: str) -> int | None:
        """What the broker says to the sweeper."""
        return len(self.messages)

    def _dispatch(self, dispatches: Sequence[Dispatch]) -> None:
        """The poller will find them."""

    async def finish(self) -> list[str]:
        """Let everything take its course, with a fresh worker; what is wrong then."""
        worker = await self.worker()
        for _ in range(ROUNDS_MAX):
            await self.reap()
            for one in self.workers:
                await self.beat(one)
            await self.relay()
            await self.mark()
            await self.deliver(worker)
            await self.sweep()
        return await check(self.database, at_rest=True)

    async def copies(self) -> list[str]:
        """Jobs for which more than one message speaks, in the outbox or at the broker."""
        rows = await self.database.fetch("SELECT job_id FROM outbox WHERE NOT dead")
        counts = Counter([row["job_id"] for row in rows] + [id_ for id_, _ in self.messages])
        return [f"{id_}: {n} messages for one job" for id_, n in counts.items() if n > 1]


def result(word: str) -> Content:
    """What a handler returns."""
    return json_content(word)
