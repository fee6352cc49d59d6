"""What must hold in every state and of every step: the history checker's words, on the model."""

from collections.abc import Collection, Iterator

from headway_core.states import MAY_FOLLOW, JobState
from tests.model.protocol import NO_FAULT, Protocol
from tests.model.state import ATTEMPTS_MAX, CRASHES_MAX, WAITING, Job, Phase, State, Worker


class Invariants:
    """`chargeable`: the jobs to which an attempt or a crash may be charged."""

    def __init__(self, protocol: Protocol, chargeable: Collection[int]) -> None:
        self._chargeable = frozenset(chargeable)
        self._broker_losses = protocol.budget.broker_losses
        self._without_fault = protocol.budget == NO_FAULT and protocol.poison is None

    def broken_by_step(self, before: State, after: State) -> str:
        """The name of what a step breaks, or nothing."""
        for number, (was, job) in enumerate(zip(before.jobs, after.jobs, strict=True)):
            if job is not was and (word := self._job(number, was, job)):
                return word
        for place, (earlier, worker) in enumerate(zip(before.workers, after.workers, strict=True)):
            if worker is not earlier and (word := _begun(after, place, earlier, worker)):
                return word
        return ""

    def broken_in(self, state: State) -> str:
        """The name of what does not hold in a state, or nothing."""
        for number, job in enumerate(state.jobs):
            if word := self._messages(state, number, job):
                return word
        return ""

    def _job(self, number: int, was: Job, job: Job) -> str:
        if job.completions > 1:
            return "two completions"
        if job.state is not was.state and job.state not in MAY_FOLLOW[was.state]:
            return f"{job.state.name} follows {was.state.name}"
        if job.state is JobState.QUEUED and not job.confirmed:
            return "QUEUED, and the broker never confirmed it"
        if job.charged and number not in self._chargeable:
            return "charged without a fault of the job"
        if job.stale_write:
            return "a stale run's write stands"
        if job.unseen_death:
            return "a death is replayed that its caller did not see"
        if job.crashes > CRASHES_MAX or job.failures > ATTEMPTS_MAX:
            return "more crashes or failures than the budget"
        spent = job.crashes == CRASHES_MAX or job.failures == ATTEMPTS_MAX
        if job.state is JobState.DEAD and not spent:
            return "DEAD, with some of its budgets left"
        if self._without_fault and was.state is JobState.RUNNING is not job.state:
            return "" if job.state is JobState.COMPLETED else "a run ends without a fault"
        return ""

    def _messages(self, state: State, number: int, job: Job) -> str:
        if job.state not in WAITING or not job.submitted:
            return ""
        held, claiming = 0, 0
        for worker in state.workers:
            for slot in worker.slots:
                if slot.job == number and worker.alive:
                    held += bool(slot.message)
                    claiming += slot.phase is Phase.CLAIMING
        current = sum(job.outbox) + sum(job.broker) + held
        # Without a loss at the broker the sweeper has nothing to do (P3).
        if not current + claiming and state.budget.broker_losses == self._broker_losses:
            return "it waits, and no message speaks for it"
        if self._without_fault and current - bool(job.published) > 1:
            return "a duplicate without a fault"
        return ""


def messages(state: State, number: int) -> int:
    """How many messages of a job there are, stale ones included."""
    job = state.jobs[number]
    held = sum(
        slot.job == number and slot.message is not None
        for worker in state.workers
        for slot in worker.slots
    )
    return len(job.outbox) + len(job.broker) + held - (job.published is not None)


def _begun(state: State, place: int, earlier: Worker, worker: Worker) -> str:
    for number in _running(worker):
        if number not in _running(earlier):
            job = state.jobs[number]
            if job.state is not JobState.RUNNING or job.owner != place:
                return "a run begins that the row does not know"
    return ""


def _running(worker: Worker) -> Iterator[int]:
    return (slot.job for slot in worker.slots if slot.phase is Phase.RUNNING)
