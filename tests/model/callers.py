"""What callers do to a job, and the statements of all that reach Postgres late."""

from typing import TypeVar

from headway_core.states import DONE, JobState
from tests.model.state import Job, State, Step, Steps, redispatched, spend, with_job
from tests.model.work import Work

Item = TypeVar("Item")


class Callers:
    """Cancel and replay, without the guards named by `mutants`."""

    def __init__(self, mutants: frozenset[str], work: Work) -> None:
        self._mutants = mutants
        self._work = work

    def steps(self, state: State, number: int, job: Job) -> Steps:
        """Everything that may come to one job."""
        yield from self._asked(state, number, job)
        yield from self._late(state, number, job)

    def _asked(self, state: State, number: int, job: Job) -> Steps:
        budget = state.budget
        if budget.cancels and job.state not in DONE and not job.cancel:
            paid = spend(state, "cancels")
            running = job.state is JobState.RUNNING
            words = f"cancel of {number} is asked" if running else f"{number} is cancelled"
            yield Step(words, with_job(paid, number, _cancelled(job)), fault=True)
            if budget.lost_replies:
                unknown = _cancelled(job)._replace(cancel_unanswered=True)
                lost = with_job(spend(paid, "lost_replies"), number, unknown)
                yield Step(f"{words}, reply lost", lost, fault=True)
        if job.cancel_unanswered:
            again = _cancelled(job)._replace(cancel_unanswered=False)
            yield Step(f"{number} is cancelled once more", with_job(state, number, again))
        if budget.replays and job.state is JobState.DEAD:
            paid = spend(state, "replays")
            words = f"{number} is replayed"
            yield Step(words, self._replayed(paid, number, seen=True), fault=True)
            rerun = (*job.late_replays, True)
            under_way = with_job(paid, number, job._replace(late_replays=rerun))
            if budget.late_replays:
                late = spend(under_way, "late_replays")
                yield Step(f"a replay of {number} hangs", late, fault=True)
            if budget.lost_replies:
                lost = self._replayed(spend(under_way, "lost_replies"), number, seen=True)
                yield Step(f"{words}, reply lost", lost, fault=True)

    def _replayed(self, state: State, number: int, *, seen: bool) -> State:
        """`seen`: whether the death is the one that the caller saw; it named the run's epoch."""
        job = state.jobs[number]
        anyhow = "a replay of whatever death there is" in self._mutants
        if job.state is not JobState.DEAD or not (seen or anyhow):
            return state
        job = job._replace(
            crashes=0, failures=0, cancel=False, unseen_death=job.unseen_death or not seen
        )
        return redispatched(state, number, job, JobState.PENDING, due=True)

    def _late(self, state: State, number: int, job: Job) -> Steps:
        """A first try reaches Postgres after its sender has its answer from another one."""
        for place in set(job.late):
            arrived = job._replace(late=_without(job.late, place))
            changed = with_job(state, number, arrived)
            if self._work.may_claim(state, place, number):
                changed = self._work.claimed(changed, place, number)
            yield Step(f"a late claim of {number} by worker {place} arrives", changed)
        for sent in set(job.late_settles):
            arrived = job._replace(late_settles=_without(job.late_settles, sent))
            changed = with_job(state, number, arrived)
            words = f"a late settle of {number} by worker {sent.place}"
            if settled := self._work.settled(changed, number, sent):
                yield Step(f"{words} arrives", settled)
            else:
                yield Step(f"{words} is fenced", changed)
        for seen in set(job.late_replays):
            arrived = job._replace(late_replays=_without(job.late_replays, seen))
            changed = self._replayed(with_job(state, number, arrived), number, seen=seen)
            yield Step(f"a late replay of {number} arrives", changed)


def _without(items: tuple[Item, ...], item: Item) -> tuple[Item, ...]:
    left = items.index(item)
    return items[:left] + items[left + 1 :]


def _cancelled(job: Job) -> Job:
    if job.state in DONE:
        return job
    if job.state is JobState.RUNNING:
        return job._replace(cancel=True)
    return job._replace(state=JobState.CANCELLED, cancel=True, outbox=())
