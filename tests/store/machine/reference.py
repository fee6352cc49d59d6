"""What the store should do, once more in plain Python: no SQL, no locks, no time.

A delay is zero or an hour; that it has passed is a step of its own.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final, TypeVar
from uuid import UUID

from headway_core.leases import LeaseEnd
from headway_core.states import WAITING, EventType, Isolation, JobState
from tests.store.machine.ends import follows, spent
from tests.store.machine.tables import JobRow, OutboxRow, WorkerRow

STARVING_PRIORITY: Final = 9
NONE: Final[frozenset[UUID]] = frozenset()

Key = TypeVar("Key")
Row = TypeVar("Row")


_numbers = count(1)


@dataclass(slots=True)
class Reference:
    """The tables. Each method is a transition and returns what its caller should be told."""

    jobs: dict[UUID, JobRow] = field(default_factory=dict)
    outbox: dict[int, OutboxRow] = field(default_factory=dict)
    workers: dict[UUID, WorkerRow] = field(default_factory=dict)
    keys: dict[str, tuple[UUID, str]] = field(default_factory=dict)
    steps: dict[tuple[UUID, str], int] = field(default_factory=dict)

    def copy(self) -> "Reference":
        """Another with the same rows, which never change themselves."""
        return Reference(
            dict(self.jobs),
            dict(self.outbox),
            dict(self.workers),
            dict(self.keys),
            dict(self.steps),
        )

    def running(self, worker: UUID) -> list[UUID]:
        """What runs in a worker's name."""
        running = JobState.RUNNING
        return [
            id_ for id_, job in self.jobs.items() if job.state is running and job.worker == worker
        ]

    def send(self, job: UUID, **given: object) -> None:
        """Write an outbox row of the current dispatch."""
        row = OutboxRow(job, self.jobs[job].dispatch_no, **given)  # type: ignore[arg-type]
        self.outbox[next(_numbers)] = row

    def submit(
        self, id_: UUID, type_: str, key: str | None, text: str, due: bool, patient: bool
    ) -> object:
        """Store a job; `text` stands for the rest of the request."""
        if key in self.keys:
            stored, before = self.keys[key]
            return (
                ("created" if stored == id_ else "existing", stored) if before == text else "reused"
            )
        if id_ not in self.jobs:
            self.jobs[id_] = JobRow(type_, due, patient)
            self.send(id_, due=due, reserved=due)
            if key is not None:
                self.keys[key] = (id_, text)
        return ("created", id_)

    def take(self, locked: Collection[int]) -> object:
        """Publish and forget what is due."""
        taken = [
            n for n, row in self.outbox.items() if row.due and not row.reserved and n not in locked
        ]
        rows = [self.outbox.pop(n) for n in taken]
        return sorted((row.job, row.dispatch_no, row.dead) for row in rows)

    def mark(self, pairs: Mapping[UUID, int], locked: Collection[UUID]) -> object:
        """The broker has confirmed dispatches."""
        marked = []
        for id_, dispatch_no in pairs.items():
            job = self.jobs[id_]
            fits = (
                job.state in (JobState.PENDING, JobState.FAILED) and job.dispatch_no == dispatch_no
            )
            if fits and id_ not in locked:
                self.jobs[id_] = job.after(EventType.QUEUED, state=JobState.QUEUED, due=None)
                marked.append((id_, self.jobs[id_].sequence))
        return sorted(marked)

    def claim(self, worker: UUID, requests: Sequence[tuple[UUID, UUID, int]]) -> object:
        """Deliveries become runs, or not."""
        busy = bool(self.running(worker))
        return [self._claim(worker, *one, busy or len(requests) > 1) for one in requests]

    def _claim(self, worker: UUID, id_: UUID, claim: UUID, dispatch_no: int, busy: bool) -> object:
        job, lease = self.jobs[id_], self.workers[worker]
        if job.state is JobState.RUNNING and (job.worker, job.claim) == (worker, claim):
            return ("Claim", job.run_epoch)
        if not lease.live:
            return "LeaseLapsed"
        if not job.claimable:
            return ("NothingToDo", job.state is JobState.DEAD and job.dispatch_no == dispatch_no)
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
        )
        return ("Claim", job.run_epoch + 1)

    def decline(self, worker: UUID, id_: UUID, dispatch_no: int) -> object:
        """Give back a job of a type the worker lacks."""
        job, lease = self.jobs[id_], self.workers[worker]
        if not lease.live:
            return "LeaseLapsed"
        if not job.claimable or job.type in lease.types:
            return ("NothingToDo", job.state is JobState.DEAD and job.dispatch_no == dispatch_no)
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

    def settle(
        self, worker: UUID, id_: UUID, epoch: int, claim: UUID, end: str, in_hand: bool
    ) -> object:
        """A run ends by its own worker; `end` is a word of `_end`."""
        job = self.jobs[id_]
        if job.state is JobState.RUNNING:
            if (job.worker, job.run_epoch) != (worker, epoch):
                return "Fenced"
            self._end(id_, end, own=True, in_hand=in_hand)
        elif (job.run_epoch, job.claim) != (epoch, claim):
            return "Fenced"
        return ("Settled", self.jobs[id_].state, self.jobs[id_].sequence)

    def _end(self, id_: UUID, end: str, *, own: bool = False, in_hand: bool = False) -> None:
        job = spent(self.jobs[id_], end)
        state, event, due = follows(job, end)
        if job.cancel_asked and state is not JobState.COMPLETED:
            state, event = JobState.CANCELLED, EventType.CANCELLED
        again = state in WAITING
        self.jobs[id_] = job.after(
            event,
            state=state,
            due=due if again else None,
            claim=job.claim if own else None,
            dispatch_no=job.dispatch_no + again,
            error=None if state is JobState.COMPLETED else job.error,
        )
        if again:
            self.send(id_, due=due)
        elif state is JobState.DEAD and not in_hand:
            self.send(id_, dead=True)

    def interrupt(self, worker: UUID, runs: Mapping[UUID, int]) -> object:
        """What runs in a worker's name and is not held."""
        ours = [id_ for id_ in self.running(worker) if runs.get(id_) == self.jobs[id_].run_epoch]
        for id_ in ours:
            self._end(id_, "interrupted")
        return sorted(ours)

    def step(self, worker: UUID, id_: UUID, epoch: int, name: str) -> object:
        """Store a step's result."""
        job = self.jobs[id_]
        if id_ not in self.running(worker) or job.run_epoch != epoch:
            return "Fenced"
        if (id_, name) not in self.steps:
            self.steps[id_, name] = epoch
            self.jobs[id_] = job.after(EventType.STEP_COMPLETED)
        return "StepStored"

    def beat(self, worker: UUID) -> object:
        """Renew a lease."""
        lease = self.workers[worker]
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
        covered, lease = self.running(worker), self.workers[worker]
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

    def reap(self, worker: UUID, locked: Collection[UUID]) -> object:
        """Judge a worker, unless its lease lives."""
        if self.workers[worker].live:
            return []
        return self.end_lease(worker, LeaseEnd.LOST, NONE, locked)

    def redispatch(self, pairs: Mapping[UUID, int], locked: Collection[UUID]) -> object:
        """Publish again what waits and has no row."""
        sent = []
        for id_, dispatch_no in pairs.items():
            job = self.jobs[id_]
            spoken = any(row.job == id_ for row in self.outbox.values())
            waits = job.state in WAITING and job.dispatch_no == dispatch_no
            if waits and not spoken and id_ not in locked:
                self.send(id_, reserved=True)
                self.jobs[id_] = replace(job, boosted=False)
                sent.append(id_)
        return sorted(sent)

    def boost(self, locked: Collection[UUID]) -> object:
        """Publish what is QUEUED at the highest priority, once."""
        starving = [
            id_
            for id_, job in self.jobs.items()
            if job.state is JobState.QUEUED and not job.boosted and id_ not in locked
        ]
        for id_ in starving:
            self.jobs[id_] = replace(self.jobs[id_], boosted=True)
            self.send(id_, priority=STARVING_PRIORITY, reserved=True)
        return sorted(starving)

    def cancel(self, id_: UUID) -> object:
        """Cancel what waits; ask what runs."""
        job = self.jobs[id_]
        if job.state in WAITING:
            self.jobs[id_] = job.after(
                EventType.CANCELLED, state=JobState.CANCELLED, due=None, cancel_asked=True
            )
            self.forget(n for n, row in self.outbox.items() if row.job == id_)
        elif job.state is JobState.RUNNING and not job.cancel_asked:
            self.jobs[id_] = job.after(EventType.CANCEL_REQUESTED, cancel_asked=True)
        return self.jobs[id_].state

    def replay(self, id_: UUID) -> object:
        """A dead job lives again."""
        job = self.jobs[id_]
        if job.state is not JobState.DEAD:
            return 0 if job.replays else "JobNotDead"
        self.jobs[id_] = job.after(
            EventType.REPLAYED,
            state=JobState.PENDING,
            due=True,
            dispatch_no=job.dispatch_no + 1,
            attempt=0,
            failures=0,
            crashes=0,
            declines=0,
            replays=job.replays + 1,
            cancel_asked=False,
            claim=None,
            error=None,
        )
        self.send(id_, reserved=True)
        return 1

    def forget(self, numbers: Iterable[int]) -> None:
        """Rows whose messages are confirmed."""
        for n in list(numbers):
            self.outbox.pop(n, None)

    def register(self, worker: UUID, types: frozenset[str]) -> None:
        """A new worker; what was declined for want of its types is due."""
        self.workers[worker] = WorkerRow(types)
        for id_, job in self.jobs.items():
            waits = job.state is JobState.PENDING and job.due is False and job.declines
            if waits and job.type in types:
                self.pass_time(id_)

    def pass_time(self, id_: UUID) -> None:
        """A job is due, and its row with it."""
        job = self.jobs[id_]
        if job.due is False:
            self.jobs[id_] = replace(job, due=True)
            for n, row in self.outbox.items():
                if row.job == id_ and row.dispatch_no == job.dispatch_no:
                    self.outbox[n] = replace(row, due=True)


def merged(before: Reference, first: Reference, second: Reference) -> Reference:
    """What both changes make of `before`; no row is changed by both."""
    return Reference(
        _merged(before.jobs, first.jobs, second.jobs),
        _merged(before.outbox, first.outbox, second.outbox),
        _merged(before.workers, first.workers, second.workers),
        _merged(before.keys, first.keys, second.keys),
        _merged(before.steps, first.steps, second.steps),
    )


def _merged(
    before: dict[Key, Row], first: dict[Key, Row], second: dict[Key, Row]
) -> dict[Key, Row]:
    result = dict(second)
    for key in before.keys() | first.keys():
        if before.get(key) != first.get(key):
            assert before.get(key) == second.get(key), f"both change {key}"
            if key in first:
                result[key] = first[key]
            else:
                result.pop(key, None)
    return result
