"""What the store should do, once more in plain Python: no SQL, no locks, no time.

A delay is zero or an hour; that it has passed is a step of its own.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple
from uuid import UUID

from headway_core.leases import LeaseEnd
from headway_core.states import WAITING, EventType, Isolation, JobState
from tests.store.machine.calls import Calls
from tests.store.machine.ends import follows, spent
from tests.store.machine.tables import WorkerRow

NONE: Final[frozenset[UUID]] = frozenset()


class Ending(NamedTuple):
    """How a worker ends a run of its own."""

    id: UUID
    epoch: int
    claim: UUID
    end: str
    """A word of `ends`."""
    in_hand: bool
    progress: int | None


@dataclass(slots=True)
class Reference(Calls):
    """With what workers, their supervisors and the reaper should bring about."""

    def claim(self, worker: UUID, requests: Sequence[tuple[UUID, UUID, int]]) -> object:
        """Deliveries become runs, or not."""
        busy = bool(self.running(worker))
        return [self._claim(worker, *one, busy or len(requests) > 1) for one in requests]

    def _claim(self, worker: UUID, id_: UUID, claim: UUID, dispatch_no: int, busy: bool) -> object:
        job, lease = self.jobs.get(id_), self.lease(worker)
        if job and job.state is JobState.RUNNING and (job.worker, job.claim) == (worker, claim):
            return ("Claim", job.run_epoch)
        if not lease.live:
            return "LeaseLapsed"
        if not job or not job.claimable:
            return self._nothing_to_do(id_, dispatch_no)
        if job.type not in lease.types:
            return "TypeLacking"
        if job.isolation is Isolation.ALONE and busy:
            return "MustRunAlone"
        self.jobs[id_] = job.after(
            EventType.STARTED,
            state=JobState.RUNNING,
            due=None,
            run_epoch=job.run_epoch + 1,
            worker=worker,
            claim=claim,
            attempt=job.failures + 1,
            boosted=False,
            progress=None,
        )
        return ("Claim", job.run_epoch + 1)

    def _nothing_to_do(self, id_: UUID, dispatch_no: int) -> object:
        job = self.jobs.get(id_)
        dead = job and job.state is JobState.DEAD and job.dispatch_no == dispatch_no
        return "NothingToDo, dead" if dead else "NothingToDo"

    def decline(self, worker: UUID, id_: UUID, dispatch_no: int) -> object:
        """Give back a job of a type the worker lacks."""
        job, lease = self.jobs.get(id_), self.lease(worker)
        if not lease.live:
            return "LeaseLapsed"
        if not job or not job.claimable or job.type in lease.types:
            return self._nothing_to_do(id_, dispatch_no)
        changes = {
            "state": JobState.PENDING,
            "due": False,
            "dispatch_no": job.dispatch_no + 1,
            "declines": job.declines + 1,
        }
        first = job.declines == 0
        self.jobs[id_] = (
            job.after(EventType.DECLINED, **changes) if first else replace(job, **changes)  # type: ignore[arg-type]
        )
        self.send(id_, due=False)
        return "Declined"

    def settle(self, worker: UUID, items: Sequence[Ending]) -> object:
        """Runs end by their own worker."""
        return [self._settle(worker, item) for item in items]

    def _settle(self, worker: UUID, item: Ending) -> object:
        job = self.jobs.get(item.id)
        if not job:
            return "Fenced"
        if job.state is JobState.RUNNING:
            if (job.worker, job.run_epoch) != (worker, item.epoch):
                return "Fenced"
            self._end(item.id, item.end, own=item)
        elif (job.run_epoch, job.claim) != (item.epoch, item.claim):
            return "Fenced"
        return ("Settled", self.jobs[item.id].state, self.jobs[item.id].sequence)

    def _end(self, id_: UUID, end: str, *, own: Ending | None = None) -> None:
        job = spent(self.jobs[id_], end)
        state, event, due = follows(job, end)
        if job.cancel_asked and state is not JobState.COMPLETED:
            state, event = JobState.CANCELLED, EventType.CANCELLED
        again, completed = state in WAITING, state is JobState.COMPLETED
        self.jobs[id_] = job.after(
            event,
            state=state,
            due=due if again else None,
            claim=job.claim if own else None,
            dispatch_no=job.dispatch_no + again,
            error=None if completed else job.error,
            result=str(own.claim) if own and completed else None,
            progress=own.progress if own and own.progress is not None else job.progress,
        )
        if again:
            self.send(id_, due=due)
        elif state is JobState.DEAD and not (own and own.in_hand):
            self.send(id_, dead=True)

    def save_progress(
        self, epochs: Mapping[UUID, int], done: int, locked: Collection[UUID]
    ) -> object:
        """Keep how far runs are."""
        for id_, epoch in epochs.items():
            job = self.jobs.get(id_)
            runs = job and job.state is JobState.RUNNING and job.run_epoch == epoch
            if job and runs and id_ not in locked:
                self.jobs[id_] = replace(job, progress=done)
        return None

    def interrupt(self, worker: UUID, runs: Mapping[UUID, int]) -> object:
        """What runs in a worker's name and is not held."""
        ours = [id_ for id_ in self.running(worker) if runs.get(id_) == self.jobs[id_].run_epoch]
        for id_ in ours:
            self._end(id_, "interrupted")
        return sorted(ours)

    def step(self, worker: UUID, id_: UUID, epoch: int, name: str) -> object:
        """Store a step's result."""
        if id_ not in self.running(worker) or self.jobs[id_].run_epoch != epoch:
            return "Fenced"
        if (id_, name) not in self.steps:
            self.steps[id_, name] = epoch
            self.jobs[id_] = self.jobs[id_].after(EventType.STEP_COMPLETED)
        return "StepStored"

    def beat(self, worker: UUID) -> object:
        """Renew a lease."""
        lease = self.lease(worker)
        if lease.how is None:
            self.workers[worker] = replace(lease, lapsed=False)
        return lease.how is None

    def end_lease(
        self,
        worker: UUID,
        how: LeaseEnd,
        timed_out: Collection[UUID] = NONE,
        locked: Collection[UUID] = NONE,
    ) -> object:
        """A lease ends, if it has not, and all runs under it that nobody else has locked."""
        covered, lease = self.running(worker), self.lease(worker)
        if lease.how is None:
            lease = replace(lease, how=how, company=len(covered))
            self.workers[worker] = lease
        judged = [id_ for id_ in covered if id_ not in locked]
        for id_ in judged:
            if id_ in timed_out:
                self._end(id_, "timed out")
            elif lease.how in (LeaseEnd.DRAINED, LeaseEnd.STOPPED):
                self._end(id_, "interrupted")
            else:
                self._end(id_, "suspect" if (lease.company or 0) > 1 else "lost")
        return sorted((id_, self.jobs[id_].state) for id_ in judged)

    def lapsed(self) -> object:
        """Workers that have runs and no live lease."""
        return sorted(
            id_ for id_, lease in self.workers.items() if not lease.live and self.running(id_)
        )

    def reap(self, worker: UUID, locked: Collection[UUID]) -> object:
        """Judge a worker, unless its lease lives."""
        if self.lease(worker).live:
            return []
        return self.end_lease(worker, LeaseEnd.LOST, NONE, locked)

    def tidy(self, forgotten: bool) -> object:
        """End lapsed leases that cover no run; drop workers whose leases ended."""
        idle = {id_: row for id_, row in self.workers.items() if not self.running(id_)}
        for id_, row in idle.items():
            if row.how is None and row.lapsed:
                self.workers[id_] = replace(row, how=LeaseEnd.LOST, company=0)
            if forgotten and self.workers[id_].how is not None:
                del self.workers[id_]
        return None

    def register(self, worker: UUID, types: frozenset[str]) -> None:
        """A new worker; what was declined for want of its types is due."""
        self.workers[worker] = WorkerRow(types)
        for id_, job in self.jobs.items():
            waits = job.state is JobState.PENDING and job.due is False and job.declines
            if waits and job.type in types:
                self.pass_time(id_)
