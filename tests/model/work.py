"""What an executor does in the model: deliver, claim, decline, run, hand off, settle, ack."""

from headway_core.states import Isolation, JobState
from tests.model.state import (
    ATTEMPTS_MAX,
    IDLE,
    WAITING,
    LateSettle,
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
)

FENCES = frozenset({"no fence", "a fence of the state alone", "a fence without the epoch"})


class Work:
    """What workers can do, without the guards named by `mutants`."""

    def __init__(self, mutants: frozenset[str], poison: int | None, *, hands_off: bool) -> None:
        self._mutants = mutants
        self._poison = poison
        self._hands_off = hands_off

    def steps(self, state: State, place: int, worker: Worker) -> Steps:
        """Every step of its slots."""
        before = None
        for number, slot in enumerate(worker.slots):
            if slot != before:  # slots are alike
                yield from self._slot(state, place, worker, number, slot)
            before = slot

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
        running = job._replace(
            state=JobState.RUNNING,
            owner=place,
            claimed=True,
            late_settles=tuple(sorted(one._replace(own=False) for one in job.late_settles)),
            late_replays=(False,) * len(job.late_replays),
        )
        return with_job(state, number, running)

    def settled(self, state: State, number: int, sent: LateSettle) -> State | None:
        """A run ends by its own worker; None: it is fenced."""
        job = state.jobs[number]
        running, mine = job.state is JobState.RUNNING, job.owner == sent.place
        match self._mutants & FENCES:
            case found if "no fence" in found:
                holds = True
            case found if "a fence of the state alone" in found:
                holds = running
            case found if "a fence without the epoch" in found:
                holds = running and mine
            case _:
                holds = running and mine and sent.own
        if not holds:
            return None
        end, failed = sent.end, sent.end is JobState.FAILED
        if failed and job.failures + 1 >= ATTEMPTS_MAX:
            end = JobState.DEAD
        job = job._replace(
            failures=job.failures + failed, stale_write=job.stale_write or not sent.own
        )
        return ended(with_job(state, number, job), number, end, strike=False, charge=failed)

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
        who, number, job = f"worker {place}", slot.job, state.jobs[slot.job]
        if worker.lease is not Lease.LIVE:
            back = with_slot(returned(state, slot), place, n, IDLE)
            yield Step(f"{who} may not decline {number}", back)
            return
        acking = with_slot(state, place, n, slot._replace(phase=Phase.ACKING))
        if job.state not in WAITING or not self._may_decline(state, number):
            yield Step(f"{who} finds nothing to decline of {number}", acking)
            return
        declined = redispatched(acking, number, job, JobState.PENDING, due=False)
        yield Step(f"{who} declines {number}", declined)
        if state.budget.lost_replies:
            unknown = redispatched(state, number, job, JobState.PENDING, due=False)
            unknown = spend(unknown, "lost_replies")
            yield Step(f"{who} declines {number}, reply lost", unknown, fault=True)

    def _settle(self, state: State, place: int, n: int, slot: Slot) -> Steps:
        """Its values are fixed before the first try."""
        who, number, budget = f"worker {place}", slot.job, state.budget
        ends = [JobState(slot.end)] if slot.end else [JobState.COMPLETED]
        if not slot.end and budget.failures:
            ends.append(JobState.FAILED)
        for end in ends:
            paid = state
            if end is JobState.FAILED and not slot.end:
                paid = spend(paid, "failures")
            sent = LateSettle(place, end, slot.own)
            acking = with_slot(paid, place, n, slot._replace(phase=Phase.ACKING, end=0))
            trying = with_slot(paid, place, n, slot._replace(end=end))
            if settled := self.settled(acking, number, sent):
                words = f"{who} settles {number} {end.name}"
                yield Step(words, settled)
                unknown = self.settled(trying, number, sent)
                if unknown and budget.lost_replies:
                    unknown = spend(unknown, "lost_replies")
                    yield Step(f"{words}, reply lost", unknown, fault=True)
            else:
                yield Step(f"{who} is fenced", acking)
            if budget.late_settles:
                job = trying.jobs[number]
                late = job._replace(late_settles=tuple(sorted((*job.late_settles, sent))))
                hanging = with_job(spend(trying, "late_settles"), number, late)
                yield Step(f"{who}'s settle of {number} hangs", hanging, fault=True)


def _runs_alone(state: State, worker: Worker) -> bool:
    """Whether it runs a job beside which it may not claim another."""
    return any(
        slot.phase in (Phase.RUNNING, Phase.SETTLING)
        and slot.own
        and state.jobs[slot.job].isolation is Isolation.ALONE
        for slot in worker.slots
    )
