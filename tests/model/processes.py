"""Workers as processes in the model: they beat, lose what they had, drain, die, are replaced."""

from headway_core.states import JobState
from tests.model.state import (
    IDLE,
    NOBODY,
    Lease,
    Phase,
    State,
    Step,
    Steps,
    Worker,
    ended,
    returned,
    spend,
    with_slot,
    with_worker,
)

HOLDING = (Phase.CLAIMING, Phase.RUNNING, Phase.SETTLING)


class Processes:
    """What happens to workers, without the guards named by `mutants`."""

    def __init__(self, mutants: frozenset[str], poison: int | None) -> None:
        self._mutants = mutants
        self._poison = poison

    def steps(self, state: State, place: int, worker: Worker) -> Steps:
        """Every step of a live worker's process."""
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
                late_settles=tuple(one for one in job.late_settles if one.place != place),
                owner=NOBODY if job.owner == place else job.owner,
            )
            for job in state.jobs
        )
        fresh = Worker(worker.has_type, (IDLE,) * len(worker.slots))
        return with_worker(state._replace(jobs=jobs), place, fresh)

    def _beat(self, state: State, place: int, worker: Worker) -> Steps:
        """The reverse, a run held that is not its own, only a failover that loses commits makes."""
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
