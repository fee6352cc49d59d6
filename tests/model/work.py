"""A worker in the model: deliver, claim, decline, run, hand off, settle, ack, beat, drain, die."""

from headway_core.states import Isolation, JobState
from tests.model.state import (
    IDLE,
    NOBODY,
    WAITING,
    Lease,
    Phase,
    Slot,
    State,
    Step,
    Steps,
    Worker,
    ended,
    less,
    redispatched,
    returned,
    spend,
    with_job,
    with_slot,
    with_worker,
)

HOLDING = (Phase.CLAIMING, Phase.RUNNING, Phase.SETTLING)


class Work:
    """What workers can do, without the guards named by `mutants`."""

    def __init__(self, mutants: frozenset[str], poison: int | None, *, hands_off: bool) -> None:
        self._mutants = mutants
        self._poison = poison
        self._hands_off = hands_off

    def steps(self, state: State, place: int, worker: Worker) -> Steps:
        """Every step of a worker's process."""
        if not worker.alive:
            return
        before = None
        for number, slot in enumerate(worker.slots):
            if slot != before:  # slots are alike
                yield from self._slot(state, place, worker, number, slot)
            before = slot
        yield from self._beat(state, place, worker)
        yield from self._leave(state, place, worker)

    def replaced(self, state: State, place: int) -> State:
        """A new process comes; what the old one had in hand is at the broker again."""
        worker = state.workers[place]
        for slot in worker.slots:
            state = returned(state, slot)
        jobs = tuple(
            job._replace(
                late=tuple(one for one in job.late if one != place),
                owner=NOBODY if job.owner == place else job.owner,
            )
            for job in state.jobs
        )
        fresh = Worker(worker.has_type, (IDLE,) * len(worker.slots))
        return with_worker(state._replace(jobs=jobs), place, fresh)

    def may_claim(self, state: State, place: int, number: int) -> bool:
        """The conditions of the claim's statement."""
        job, worker = state.jobs[number], state.workers[place]
        alone = job.isolation is not Isolation.ALONE or not state.runs_of(place)
        mine = worker.lease is Lease.LIVE and worker.has_type
        return mine and job.state in WAITING and job.due and alone

    def claimed(self, state: State, place: int, number: int) -> State:
        """RUNNING with a new epoch: no other run and no other claim is the row's own."""
        for at, worker in enumerate(state.workers):
            for n, slot in enumerate(worker.slots):
                if slot.job == number and slot.own:
                    state = with_slot(state, at, n, slot._replace(own=False))
        job = state.jobs[number]
        running = job._replace(state=JobState.RUNNING, owner=place, claimed=True)
        return with_job(state, number, running)

    # A slot: take, claim, decline, run, settle, ack.

    def _slot(self, state: State, place: int, worker: Worker, n: int, slot: Slot) -> Steps:
        who = f"worker {place}"
        match slot.phase:
            case Phase.IDLE:
                if worker.lease is Lease.LIVE and not (
                    worker.draining or _runs_alone(state, worker)
                ):
                    yield from self._take(state, place, n)
            case Phase.CLAIMING:
                yield from self._claim(state, place, worker, n, slot)
            case Phase.DECLINING:
                yield from self._decline(state, place, worker, n, slot)
            case Phase.RUNNING:
                if slot.job != self._poison:
                    over = slot._replace(phase=Phase.SETTLING)
                    yield Step(f"{who} ends its run", with_slot(state, place, n, over))
                if slot.message is not None and self._hands_off:
                    handed = slot._replace(message=None)
                    yield Step(f"{who} hands off", with_slot(state, place, n, handed))
            case Phase.SETTLING:
                yield from self._settle(state, place, n, slot)
            case Phase.ACKING:
                yield Step(f"{who} acks {slot.job}", with_slot(state, place, n, IDLE))

    def _take(self, state: State, place: int, n: int) -> Steps:
        for number, job in enumerate(state.jobs):
            for message in set(job.broker):
                taken = with_job(state, number, job._replace(broker=less(job.broker, message)))
                hand = None if "ack before commit" in self._mutants else message
                slot = Slot(Phase.CLAIMING, number, hand)
                step = with_slot(taken, place, n, slot)
                yield Step(f"worker {place} takes {number}", step)

    def _claim(self, state: State, place: int, worker: Worker, n: int, slot: Slot) -> Steps:
        who, number, job = f"worker {place}", slot.job, state.jobs[slot.job]
        ours = job.state is JobState.RUNNING and job.owner == place and job.claimed
        if "a rerun counts on any row" in self._mutants:
            ours = job.owner == place
        refused = False
        if slot.own and ours:
            changed = with_slot(state, place, n, slot._replace(phase=Phase.RUNNING))
        elif _runs_alone(state, worker) and worker.lease is Lease.LIVE:
            return
        elif self.may_claim(state, place, number):
            own = slot._replace(phase=Phase.RUNNING, own=True)
            changed = with_slot(self.claimed(state, place, number), place, n, own)
        elif worker.lease is not Lease.LIVE:
            # Nothing is acked: the channel is closed and its messages go to others.
            refused = True
            changed = with_slot(returned(state, slot), place, n, IDLE)
            if "an ack with a lapsed lease" in self._mutants:
                changed = with_slot(state, place, n, slot._replace(phase=Phase.ACKING))
        elif job.state in WAITING and not worker.has_type and self._may_decline(state, number):
            changed = with_slot(state, place, n, slot._replace(phase=Phase.DECLINING))
        elif job.state in WAITING and job.due and worker.has_type:
            return  # it has to run alone, and waits for its turn
        else:
            changed = with_slot(state, place, n, slot._replace(phase=Phase.ACKING))
        yield Step(f"{who} claims {number}", changed)
        if refused:
            return
        if state.budget.lost_replies:
            # `changed` may have sorted the slots anew; only a claim of its own leaves a trace.
            took = changed.jobs[number].state is JobState.RUNNING and not slot.own
            mine = took and self.may_claim(state, place, number)
            unknown = self.claimed(state, place, number) if mine else state
            unknown = with_slot(unknown, place, n, slot._replace(own=slot.own or mine))
            yield Step(f"{who} claims {number}, reply lost", spend(unknown, "lost_replies"), True)
        if state.budget.late_claims:
            late = with_job(state, number, job._replace(late=tuple(sorted((*job.late, place)))))
            yield Step(f"{who}'s claim of {number} hangs", spend(late, "late_claims"), True)

    def _may_decline(self, state: State, number: int) -> bool:
        return state.jobs[number].due or "decline without the due check" in self._mutants

    def _decline(self, state: State, place: int, worker: Worker, n: int, slot: Slot) -> Steps:
        job = state.jobs[slot.job]
        changed = with_slot(state, place, n, slot._replace(phase=Phase.ACKING))
        if worker.lease is not Lease.LIVE:
            changed = with_slot(returned(state, slot), place, n, IDLE)
        elif job.state in WAITING and self._may_decline(state, slot.job):
            changed = redispatched(changed, slot.job, job, JobState.PENDING, due=False)
        yield Step(f"worker {place} declines {slot.job}", changed)

    def _settle(self, state: State, place: int, n: int, slot: Slot) -> Steps:
        who, number, job = f"worker {place}", slot.job, state.jobs[slot.job]
        acking = with_slot(state, place, n, slot._replace(phase=Phase.ACKING))
        holds = slot.own and job.owner == place and job.state is JobState.RUNNING
        if not holds and "no fence" not in self._mutants:
            yield Step(f"{who} is fenced", acking)
            return
        ends = [JobState.COMPLETED]
        if state.budget.failures:
            ends.append(JobState.FAILED)
        for end in ends:
            charge = end is JobState.FAILED
            paid = spend(acking, "failures") if charge else acking
            words = f"{who} settles {number} {end.name}"
            yield Step(words, ended(paid, number, end, strike=False, charge=charge))
            if state.budget.lost_replies:
                unknown = spend(state, "lost_replies")
                unknown = spend(unknown, "failures") if charge else unknown
                lost = ended(unknown, number, end, strike=False, charge=charge)
                yield Step(f"{words}, reply lost", lost, fault=True)

    # Its supervisor: beat, end, drain.

    def _beat(self, state: State, place: int, worker: Worker) -> Steps:
        who = f"worker {place}"
        if worker.lease is Lease.LAPSED:
            renewed = with_worker(state, place, worker._replace(lease=Lease.LIVE))
            yield Step(f"{who} renews its lease", renewed)
        if worker.lease is not Lease.LIVE or "no reconciliation at the beat" in self._mutants:
            return
        for number in state.runs_of(place):
            if not any(
                slot.job == number and slot.own and slot.phase in HOLDING for slot in worker.slots
            ):
                changed = ended(state, number, JobState.PENDING, strike=True)
                yield Step(f"{who} interrupts {number}, which it does not hold", changed)
        for n, slot in enumerate(worker.slots):
            if slot.phase is Phase.RUNNING:
                job = state.jobs[slot.job]
                if not (slot.own and job.owner == place and job.state is JobState.RUNNING):
                    acking = slot._replace(phase=Phase.ACKING)
                    dropped = with_slot(state, place, n, acking)
                    yield Step(f"{who} drops {slot.job}, which is not its own", dropped)

    def _leave(self, state: State, place: int, worker: Worker) -> Steps:
        who, budget = f"worker {place}", state.budget
        if worker.lease is Lease.LIVE and budget.lapses:
            lapsed = with_worker(state, place, worker._replace(lease=Lease.LAPSED))
            yield Step(f"{who}'s lease lapses", spend(lapsed, "lapses"), fault=True)
        if budget.channel_losses and any(slot.message is not None for slot in worker.slots):
            lost = state
            for slot in worker.slots:
                lost = returned(lost, slot)
            slots = tuple(slot._replace(message=None) for slot in worker.slots)
            lost = with_worker(lost, place, worker._replace(slots=slots))
            yield Step(f"{who} loses its channel", spend(lost, "channel_losses"), fault=True)
        for n, slot in enumerate(worker.slots):
            if slot.phase is Phase.CLAIMING and slot.own and budget.forgotten:
                # A defect in the executor, or a task that dies: it does not hold what it claimed.
                acking = with_slot(state, place, n, slot._replace(phase=Phase.ACKING))
                yield Step(f"{who} forgets its claim", spend(acking, "forgotten"), fault=True)
            if slot.phase is Phase.RUNNING and slot.job == self._poison:
                yield Step(f"{slot.job} kills worker {place}", self._dead(state, place))
        if budget.crashes:
            yield Step(f"{who} dies", spend(self._dead(state, place), "crashes"), fault=True)
        if worker.draining and all(
            slot.phase in (Phase.IDLE, Phase.RUNNING) for slot in worker.slots
        ):
            yield Step(f"{who} leaves", self._left(state, place))
        elif budget.drains and not worker.draining and worker.lease is Lease.LIVE:
            draining = with_worker(state, place, worker._replace(draining=True))
            yield Step(f"{who} drains", spend(draining, "drains"), fault=True)

    def _dead(self, state: State, place: int) -> State:
        """The broker sees the connection close; the lease runs out, or its supervisor ends it."""
        worker = state.workers[place]
        for slot in worker.slots:
            state = returned(state, slot)
        slots = (IDLE,) * len(worker.slots)
        return with_worker(state, place, worker._replace(alive=False, slots=slots))

    def _left(self, state: State, place: int) -> State:
        """What still runs under a lease that is drained will be judged as INTERRUPTED."""
        state = self._dead(state, place)
        worker = state.workers[place]
        lease = Lease.ENDED if worker.lease is Lease.ENDED else Lease.DRAINED
        return with_worker(state, place, worker._replace(lease=lease))


def _runs_alone(state: State, worker: Worker) -> bool:
    """Whether it runs a job beside which it may not claim another."""
    return any(
        slot.phase in (Phase.RUNNING, Phase.SETTLING)
        and slot.own
        and state.jobs[slot.job].isolation is Isolation.ALONE
        for slot in worker.slots
    )
