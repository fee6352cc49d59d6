"""What callers, the relay and the sweeper should bring about."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple
from uuid import UUID

from headway_core.states import WAITING, EventType, JobState
from tests.store.machine.rows import QUEUE, Rows
from tests.store.machine.tables import JobRow

STARVING_PRIORITY: Final = 9
MARKS: Final = (JobState.PENDING, JobState.FAILED)
OVER: Final = (JobState.COMPLETED, JobState.CANCELLED)


class New(NamedTuple):
    """A job to be stored."""

    id: UUID
    type: str
    queue: str | None
    priority: int
    key: str | None
    text: str
    """Stands for the rest of the request."""
    due: bool
    patient: bool


@dataclass(slots=True)
class Calls(Rows):
    """Each method is a transition and returns what its caller should be told.

    `locked` are the rows that others hold, for those that skip them.
    """

    def submit(self, items: Sequence[New]) -> object:
        """Store jobs in one commit."""
        return [self._submit(item) for item in items]

    def _submit(self, item: New) -> object:
        if item.key in self.keys:
            stored, before = self.keys[item.key]
            if before != item.text:
                return ("reused",)
            if stored not in self.jobs:
                return ("gone",)
            return ("created" if stored == item.id else "existing", stored)
        if item.id not in self.jobs:
            queue = item.queue or QUEUE
            self.queues |= {queue}
            self.jobs[item.id] = JobRow(item.type, queue, item.priority, item.due, item.patient)
            self.send(item.id, due=item.due, reserved=item.due)
            if item.key is not None:
                self.keys[item.key] = (item.id, item.text)
        return ("created", item.id)

    def take(self, how: str, locked: Collection[int]) -> object:
        """Publish what is due: forget what is confirmed and put off the rest, unless it crashes."""
        taken = {n: self.outbox[n] for n in self.due_rows() if n not in locked}
        for n, row in taken.items():
            if how == "confirmed" or (how == "in part" and row.dispatch_no % 2):
                self.outbox.pop(n)
            elif how == "in part":
                self.outbox[n] = replace(row, reserved=True)
        return sorted((row.job, row.dispatch_no, row.dead) for row in taken.values())

    def mark(self, pairs: Mapping[UUID, int], locked: Collection[UUID]) -> object:
        """The broker has confirmed dispatches."""
        marked = []
        for id_, dispatch_no in pairs.items():
            job = self.jobs.get(id_)
            fits = job and job.state in MARKS and job.dispatch_no == dispatch_no
            if job and fits and id_ not in locked:
                self.jobs[id_] = job.after(EventType.QUEUED, state=JobState.QUEUED, due=None)
                marked.append((id_, self.jobs[id_].sequence))
        return sorted(marked)

    def stranded(self) -> object:
        """What is due and has no row."""
        return sorted(
            (id_, job.dispatch_no)
            for id_, job in self.jobs.items()
            if job.state in MARKS and job.due and not self.spoken_for(id_)
        )

    def redispatch(self, pairs: Mapping[UUID, int], locked: Collection[UUID]) -> object:
        """Publish again what waits and has no row."""
        sent = []
        for id_, dispatch_no in pairs.items():
            job = self.jobs.get(id_)
            waits = job and job.state in WAITING and job.dispatch_no == dispatch_no
            if job and waits and not self.spoken_for(id_) and id_ not in locked:
                self.send(id_, reserved=True)
                self.jobs[id_] = replace(job, boosted=False)
                sent.append(id_)
        return sorted(sent)

    def queued(self, queue: str) -> dict[UUID, int]:
        """What is QUEUED in a queue, by dispatch number."""
        queued = JobState.QUEUED
        return {
            id_: job.dispatch_no
            for id_, job in self.jobs.items()
            if job.state is queued and job.queue == queue
        }

    def starving(self) -> set[UUID]:
        """What may be published at a higher priority."""
        return {
            id_
            for id_, job in self.jobs.items()
            if job.state is JobState.QUEUED and not job.boosted and job.priority < STARVING_PRIORITY
        }

    def boost(self, locked: Collection[UUID]) -> object:
        """Publish what starves at the highest priority, once."""
        starving = sorted(self.starving() - set(locked))
        for id_ in starving:
            self.jobs[id_] = replace(self.jobs[id_], boosted=True)
            self.send(id_, priority=STARVING_PRIORITY, reserved=True)
        return starving

    def cancel(self, id_: UUID) -> object:
        """Cancel what waits; ask what runs."""
        job = self.jobs.get(id_)
        if not job:
            return "JobNotFound"
        if job.state in WAITING:
            self.forget(self.unsent(id_))
            self.jobs[id_] = job.after(
                EventType.CANCELLED, state=JobState.CANCELLED, due=None, cancel_asked=True
            )
        elif job.state is JobState.RUNNING and not job.cancel_asked:
            self.jobs[id_] = job.after(EventType.CANCEL_REQUESTED, cancel_asked=True)
        return self.jobs[id_].state.name

    def unsent(self, id_: UUID) -> set[int]:
        """The messages of a job that waits."""
        job = self.jobs.get(id_)
        waits = job and job.state in WAITING
        return {n for n, row in self.outbox.items() if waits and row.job == id_}

    def replay(self, id_: UUID) -> object:
        """A dead job lives again, whichever death it is."""
        job = self.jobs.get(id_)
        if not job:
            return "JobNotFound"
        if job.state is not JobState.DEAD:
            return "replayed before" if job.replays else "JobNotDead"
        self.revive({id_: job.run_epoch})
        return "replayed"

    def revive(self, deaths: Mapping[UUID, int]) -> object:
        """Dead jobs live again if their deaths are those that the caller saw."""
        dead = JobState.DEAD
        revived = [
            id_
            for id_, epoch in deaths.items()
            if (job := self.jobs.get(id_)) and job.state is dead and job.run_epoch == epoch
        ]
        for id_ in revived:
            job = self.jobs[id_]
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
                progress=None,
            )
            self.send(id_, reserved=True)
        return sorted(revived)

    def finished(self) -> set[UUID]:
        """What need not be kept."""
        return {
            id_ for id_, job in self.jobs.items() if job.state in OVER and not self.spoken_for(id_)
        }

    def retire(self, locked: Collection[UUID]) -> object:
        """Remove what is done for long."""
        retired = self.finished() - set(locked)
        for id_ in retired:
            del self.jobs[id_]
        for id_, name in list(self.steps):
            if id_ in retired:
                del self.steps[id_, name]
        return len(retired)

    def forget_keys(self) -> object:
        """Remove keys whose jobs are gone."""
        gone = [key for key, (id_, _) in self.keys.items() if id_ not in self.jobs]
        for key in gone:
            del self.keys[key]
        return len(gone)
