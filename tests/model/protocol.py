"""The protocol of DESIGN §5 as explicit states, small enough to be explored to the end.

One or two jobs, workers with one or two slots each, one relay, one broker, one Postgres. A step is
one commit, one message, one reply or one crash; faults are spent from budgets. What the statements
guard is written here once more, by hand, so that each guard can be taken away (`MUTANTS`) and the
loss be seen.

A lease's end whose reply is lost is not modelled apart: its rerun finds the lease ended and does
what the reaper does then. Left out: real time, priority, batches, steps, child processes, failover
that loses commits.
"""

from collections.abc import Collection, Sequence
from typing import Final

from headway_core.states import Isolation, JobState
from tests.model.callers import Callers
from tests.model.processes import Processes
from tests.model.state import (
    COPIES_MAX,
    CRASHES_MAX,
    IDLE,
    WAITING,
    Budget,
    Job,
    Lease,
    Phase,
    State,
    Step,
    Steps,
    Worker,
    ended,
    less,
    more,
    spend,
    with_job,
    with_worker,
)
from tests.model.work import Work

MUTANTS: Final = frozenset(
    {
        "no fence",
        "a fence of the state alone",
        "a fence without the epoch",
        "ack before commit",
        "no sweeper",
        "mark without its guard",
        "no reconciliation at the beat",
        "reap of leases that just ended",
        "decline without the due check",
        "sweep on first sight",
        "every dead worker's job charged",
        "a drain that charges",
        "a rerun counts on any row",
        "an ack with a lapsed lease",
        "a replay of whatever death there is",
    }
)
NO_FAULT: Final = Budget()


class Protocol:
    """All steps from a state. `mutants`: the guards that are taken away."""

    def __init__(
        self,
        budget: Budget = NO_FAULT,
        *,
        mutants: Collection[str] = (),
        jobs: int = 1,
        slots: Sequence[int] = (1, 1),
        with_type: int = 2,
        poison: int | None = None,
        coarse: bool = False,
    ) -> None:
        """`slots` of each worker; the first `with_type` of them have a handler for the jobs.

        `poison`: the job whose run never ends but by the death of its whole process. `coarse`: the
        relay publishes, deletes and marks in one step, and nothing is handed off; for two jobs.
        """
        assert MUTANTS.issuperset(mutants), mutants
        self.mutants = frozenset(mutants)
        self.budget = budget
        self.poison = poison
        self._coarse = coarse
        self._work = Work(self.mutants, poison, hands_off=not coarse)
        self._processes = Processes(self.mutants, poison)
        self._callers = Callers(self.mutants, self._work)
        workers = tuple(
            Worker(place < with_type, (IDLE,) * count) for place, count in enumerate(slots)
        )
        self.start = State((Job(),) * jobs, workers, budget)

    def steps(self, state: State) -> Steps:
        """Every step that can be taken now."""
        for number, job in enumerate(state.jobs):
            if not job.submitted:
                stored = job._replace(submitted=True, outbox=(True,))
                yield Step(f"submit {number}", with_job(state, number, stored))
                continue
            yield from (self._relay_at_once if self._coarse else self._relay)(state, number, job)
            yield from self._sweep(state, number, job)
            yield from self._callers.steps(state, number, job)
            if not job.due:
                yield Step(f"{number} is due", with_job(state, number, job._replace(due=True)))
        if state.budget.broker_losses and any(job.broker for job in state.jobs):
            jobs = tuple(job._replace(broker=()) for job in state.jobs)
            lost = spend(state, "broker_losses")._replace(jobs=jobs)
            yield Step("the broker loses all", lost, fault=True)
        for place, worker in enumerate(state.workers):
            if worker.alive:
                yield from self._work.steps(state, place, worker)
                yield from self._processes.steps(state, place, worker)
            yield from self._judge(state, place, worker)

    # Relay: publish, delete, mark.

    def _relay(self, state: State, number: int, job: Job) -> Steps:
        crashes = state.budget.relay_crashes
        if job.published is not None:
            deleted = job._replace(
                outbox=less(job.outbox, job.published),
                published=None,
                marks=tuple(sorted({*job.marks, job.published})),
            )
            yield Step(f"relay deletes {number}", with_job(state, number, deleted))
            if crashes:
                forgot = with_job(state, number, job._replace(published=None))
                yield Step("relay crashes", spend(forgot, "relay_crashes"), fault=True)
        elif len(job.broker) < COPIES_MAX:
            for message in set(job.outbox):
                if job.due or not message:
                    sent = job._replace(
                        confirmed=job.confirmed or message,
                        published=message,
                        broker=more(job.broker, message),
                    )
                    yield Step(f"relay publishes {number}", with_job(state, number, sent))
        for message in job.marks:
            marked = job._replace(marks=less(job.marks, message))
            guarded = message and job.state in (JobState.PENDING, JobState.FAILED)
            if guarded or ("mark without its guard" in self.mutants and job.state in WAITING):
                marked = marked._replace(state=JobState.QUEUED)
            yield Step(f"relay marks {number}", with_job(state, number, marked))
        if job.marks and crashes:
            forgot = with_job(state, number, job._replace(marks=()))
            yield Step("relay forgets its marks", spend(forgot, "relay_crashes"), fault=True)

    def _relay_at_once(self, state: State, number: int, job: Job) -> Steps:
        if job.due and job.outbox and len(job.broker) < COPIES_MAX:
            message = job.outbox[-1]
            marked = message and job.state in (JobState.PENDING, JobState.FAILED)
            sent = job._replace(
                state=JobState.QUEUED if marked else job.state,
                confirmed=job.confirmed or message,
                outbox=job.outbox[:-1],
                broker=more(job.broker, message),
            )
            yield Step(f"relay publishes {number}", with_job(state, number, sent))

    # Sweeper.

    def _sweep(self, state: State, number: int, job: Job) -> Steps:
        if "no sweeper" in self.mutants:
            return
        again = job._replace(outbox=more(job.outbox, True), seen_stranded=False)
        if job.state is JobState.QUEUED and not job.outbox:
            if _broker_falls_short(state):
                words = f"sweep finds the broker short of {number}"
                yield Step(words, with_job(state, number, again))
            elif state.budget.slow and _broker_falls_short(state, slow=True):
                early = with_job(spend(state, "slow"), number, again)
                yield Step(f"sweep takes {number} in a slow hand for lost", early, fault=True)
        stranded = job.state in (JobState.PENDING, JobState.FAILED) and job.due and not job.outbox
        if stranded and "sweep on first sight" in self.mutants:
            yield Step(f"sweep publishes {number} at once", with_job(state, number, again))
        elif stranded and not job.seen_stranded:
            seen = job._replace(seen_stranded=True)
            yield Step(f"sweep sees {number} stranded", with_job(state, number, seen))
        elif stranded and not job.marks and not _in_a_live_hand(state, number):
            # Ten seconds lie between two sweeps: a mark or claim that was under way has arrived.
            yield Step(f"sweep publishes {number} again", with_job(state, number, again))
        elif stranded and state.budget.slow:
            # Unless it was slower than that.
            early = with_job(spend(state, "slow"), number, again)
            yield Step(f"sweep publishes {number} again, its mark or claim slow", early, fault=True)
        elif job.seen_stranded and not stranded:
            forgot = job._replace(seen_stranded=False)
            yield Step(f"sweep forgets {number}", with_job(state, number, forgot))

    # Reaper, and supervisors, which judge by the same rules.

    def _judge(self, state: State, place: int, worker: Worker) -> Steps:
        covered = state.runs_of(place)
        if worker.lease is Lease.LIVE:
            if not worker.alive:
                lapsed = with_worker(state, place, worker._replace(lease=Lease.LAPSED))
                yield Step(f"the lease of dead worker {place} lapses", lapsed)
                yield from self._ends(state, place, covered, "supervisor ends the lease of")
            return
        just_ended = "reap of leases that just ended" in self.mutants
        if covered and (worker.lease is Lease.LAPSED or not just_ended):
            yield from self._ends(state, place, covered, "reaper judges")
        if not covered and not (worker.alive and worker.lease is Lease.LAPSED):
            # A row of the old process that nobody locked is judged before a new process matters.
            yield Step(f"worker {place} is replaced", self._processes.replaced(state, place))

    def _ends(self, state: State, place: int, covered: list[int], who: str) -> Steps:
        """All runs of one worker in one transaction, but for those that others hold locked."""
        yield Step(f"{who} worker {place}", self._judged(state, place, covered))
        if state.budget.locks:
            for number in covered:
                free = [one for one in covered if one != number]
                left = self._judged(spend(state, "locks"), place, free)
                yield Step(f"{who} worker {place}, {number} being locked", left, fault=True)

    def _judged(self, state: State, place: int, numbers: list[int]) -> State:
        worker = state.workers[place]
        if worker.lease in (Lease.LIVE, Lease.LAPSED):
            company = len(state.runs_of(place))
            worker = worker._replace(lease=Lease.ENDED, company=company)
            state = with_worker(state, place, worker)
        for number in numbers:
            if worker.lease is Lease.DRAINED:
                charge = "a drain that charges" in self.mutants
                state = ended(state, number, JobState.PENDING, strike=True, charge=charge)
            elif worker.company > 1 and "every dead worker's job charged" not in self.mutants:
                state = _suspected(state, number)
            else:
                state = _charged(state, number)
        return state


def _suspected(state: State, number: int) -> State:
    """A death in company charges nobody; the next run is kept apart."""
    job = state.jobs[number]
    apart = Isolation.CHILD if job.isolation is Isolation.NONE else Isolation.ALONE
    state = with_job(state, number, job._replace(isolation=apart))
    return ended(state, number, JobState.PENDING, strike=True)


def _charged(state: State, number: int) -> State:
    job = state.jobs[number]
    crashes = job.crashes + 1
    isolation = max(job.isolation, Isolation.CHILD)
    state = with_job(state, number, job._replace(crashes=crashes, isolation=isolation))
    end = JobState.DEAD if crashes >= CRASHES_MAX else JobState.FAILED
    return ended(state, number, end, strike=True, charge=True)


def _broker_falls_short(state: State, *, slow: bool = False) -> bool:
    """QUEUED jobs for long, and fewer ready messages. A live hand, unless slow, has claimed."""
    queued = sum(
        job.state is JobState.QUEUED and (slow or not _in_a_live_hand(state, number))
        for number, job in enumerate(state.jobs)
    )
    return queued > sum(len(job.broker) for job in state.jobs)


def _in_a_live_hand(state: State, number: int) -> bool:
    return any(
        slot.job == number and slot.phase in (Phase.CLAIMING, Phase.DECLINING)
        for worker in state.workers
        if worker.alive and worker.lease is Lease.LIVE
        for slot in worker.slots
    )
