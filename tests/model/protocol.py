"""The protocol of DESIGN §5 as explicit states, small enough to be explored to the end.

One job, two workers with one slot each, one relay, one broker, one Postgres. A step is one
commit, one message, one reply or one crash; faults are spent from budgets. What the statements
guard is written here once more, by hand, so that each guard can be taken away (`without`) and the
loss be seen.

Numbers are folded to what matters of them, so that the states are finite: a message is CURRENT or
STALE, a run holds the job's epoch or an older one, a claim is the row's own or another.

Left out: real time, priority, steps, batches, several jobs (company is tested on the real store).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from headway_core.states import DONE, JobState

WAITING: Final = (JobState.PENDING, JobState.QUEUED, JobState.FAILED)
CRASHES_MAX: Final = 2
COPIES_MAX: Final = 2

Messages = tuple[bool, ...]
"""Of dispatches, sorted; True: of the current one, False: a stale copy."""


class Lease(Enum):
    """A worker's right to its runs."""

    LIVE = "live"
    LAPSED = "lapsed"
    ENDED = "ended"
    DRAINED = "drained"


class Phase(Enum):
    """Where a worker's slot is."""

    IDLE = "idle"
    CLAIMING = "claiming"
    DECLINING = "declining"
    RUNNING = "running"
    SETTLING = "settling"
    ACKING = "acking"


class Job(NamedTuple):
    """The row."""

    state: JobState = JobState.PENDING
    due: bool = True
    owner: int | None = None
    """The place of its worker; None: nobody's, or a process that is gone."""
    gone_lease: Lease | None = None
    """The lease of an owner whose process is gone."""
    claimed: bool = False
    """Whether its claim still stands on the row."""
    confirmed: bool = False
    """Whether the broker has confirmed the current dispatch."""
    crashes: int = 0
    charged: bool = False
    cancel: bool = False
    completions: int = 0


class Worker(NamedTuple):
    """An executor process with one slot."""

    has_type: bool
    lease: Lease = Lease.LIVE
    phase: Phase = Phase.IDLE
    message: bool | None = None
    """In hand; None: nothing, or handed off."""
    own: bool = False
    """Whether the claim it sent, or the run it has, is the one on the row."""
    draining: bool = False


class Budget(NamedTuple):
    """How many faults may still happen."""

    crashes: int = 0
    forgotten: int = 0
    lapses: int = 0
    broker_losses: int = 0
    channel_losses: int = 0
    lost_replies: int = 0
    relay_crashes: int = 0
    drains: int = 0
    cancels: int = 0
    replays: int = 0
    failures: int = 0


class State(NamedTuple):
    """Everything."""

    job: Job
    outbox: Messages
    broker: Messages
    published: bool | None
    """The relay's message that is confirmed while its row is still there."""
    marks: Messages
    workers: tuple[Worker, ...]
    seen_stranded: bool
    budget: Budget


@dataclass(frozen=True, slots=True)
class Step:
    """A step that can be taken. `fault`: liveness may not count on it."""

    name: str
    after: State
    fault: bool = False


class Protocol:
    """All steps from a state. `without` names the guards that are taken away."""

    def __init__(
        self, budget: Budget, *, without: frozenset[str] = frozenset(), with_type: int = 2
    ) -> None:
        """`with_type`: how many of the two workers have a handler for the job."""
        self.without = without
        workers = tuple(Worker(place < with_type) for place in range(2))
        self.start = State(Job(), (True,), (), None, (), workers, False, budget)

    def steps(self, state: State) -> Iterator[Step]:
        """Every step that can be taken now."""
        yield from self._relay(state)
        yield from self._reap(state)
        yield from self._sweep(state)
        yield from self._callers(state)
        if not state.job.due:
            yield Step("time passes", state._replace(job=state.job._replace(due=True)))
        if state.budget.broker_losses and state.broker:
            lost = _spend(state, "broker_losses")._replace(broker=())
            yield Step("the broker loses all", lost, fault=True)
        for place, worker in enumerate(state.workers):
            yield from self._work(state, place, worker)
            yield from self._beat(state, place, worker)
            yield from self._leave(state, place, worker)

    # Relay: publish, delete, mark.

    def _relay(self, state: State) -> Iterator[Step]:
        job = state.job
        if state.published is not None:
            deleted = state._replace(
                outbox=_less(state.outbox, state.published),
                published=None,
                marks=tuple(sorted({*state.marks, state.published})),
            )
            yield Step("relay deletes", deleted)
            if state.budget.relay_crashes:
                crashed = _spend(state, "relay_crashes")._replace(published=None)
                yield Step("relay crashes", crashed, fault=True)
        else:
            for message in sorted(set(state.outbox)):
                if (job.due or not message) and len(state.broker) < COPIES_MAX:
                    sent = state._replace(
                        job=job._replace(confirmed=job.confirmed or message),
                        published=message,
                        broker=_more(state.broker, message),
                    )
                    yield Step("relay publishes", sent)
        for message in sorted(set(state.marks)):
            marked = state._replace(marks=_less(state.marks, message))
            guarded = message and job.state in (JobState.PENDING, JobState.FAILED)
            if guarded or ("mark guard" in self.without and job.state in WAITING):
                marked = marked._replace(job=job._replace(state=JobState.QUEUED))
            yield Step("relay marks", marked)
        if state.marks and state.budget.relay_crashes:
            forgot = _spend(state, "relay_crashes")._replace(marks=())
            yield Step("relay forgets its marks", forgot, fault=True)

    # Worker: deliver, claim, decline, run, settle, ack.

    def _work(self, state: State, place: int, worker: Worker) -> Iterator[Step]:
        who = f"worker {place}"
        match worker.phase:
            case Phase.IDLE if worker.lease is Lease.LIVE and not worker.draining:
                for message in sorted(set(state.broker)):
                    taken = state._replace(broker=_less(state.broker, message))
                    hand = None if "ack after commit" in self.without else message
                    got = worker._replace(phase=Phase.CLAIMING, message=hand, own=False)
                    yield Step(f"{who} takes", _put(taken, place, got))
            case Phase.CLAIMING:
                yield from self._claim(state, place, worker)
            case Phase.DECLINING:
                yield from self._decline(state, place, worker)
            case Phase.RUNNING:
                yield Step(
                    f"{who} ends its run",
                    _put(state, place, worker._replace(phase=Phase.SETTLING)),
                )
                if worker.message is not None:
                    handed = worker._replace(message=None)
                    yield Step(f"{who} hands off", _put(state, place, handed))
            case Phase.SETTLING:
                yield from self._settle(state, place, worker)
            case Phase.ACKING:
                done = worker._replace(phase=Phase.IDLE, message=None, own=False)
                yield Step(f"{who} acks", _put(state, place, done))
            case _:
                pass

    def _claim(self, state: State, place: int, worker: Worker) -> Iterator[Step]:
        who, job = f"worker {place}", state.job
        refused = False
        if worker.own and job.owner == place and job.claimed and job.state is JobState.RUNNING:
            changed = _put(state, place, worker._replace(phase=Phase.RUNNING))
        elif worker.lease is not Lease.LIVE:
            # Nothing is acked: the channel is closed and its messages go to others.
            idle = worker._replace(phase=Phase.IDLE, message=None, own=False)
            changed, refused = _put(_returned(state, worker), place, idle), True
        elif job.state in WAITING and job.due and not worker.has_type:
            changed = _put(state, place, worker._replace(phase=Phase.DECLINING))
        elif job.state in WAITING and job.due:
            changed = _disown(state)._replace(
                job=job._replace(state=JobState.RUNNING, owner=place, gone_lease=None, claimed=True)
            )
            changed = _put(changed, place, worker._replace(phase=Phase.RUNNING, own=True))
        else:
            changed = _put(state, place, worker._replace(phase=Phase.ACKING))
        yield Step(f"{who} claims", changed)
        if state.budget.lost_replies and not refused:
            own = changed.workers[place].own
            unknown = _put(changed, place, worker._replace(own=own))
            yield Step(f"{who} claims, reply lost", _spend(unknown, "lost_replies"), fault=True)

    def _decline(self, state: State, place: int, worker: Worker) -> Iterator[Step]:
        job = state.job
        changed = state
        if worker.lease is Lease.LIVE and job.state in WAITING and job.due:
            changed = _redispatched(state, JobState.PENDING, due=False)
        acking = worker._replace(phase=Phase.ACKING)
        yield Step(f"worker {place} declines", _put(changed, place, acking))

    def _settle(self, state: State, place: int, worker: Worker) -> Iterator[Step]:
        who, job = f"worker {place}", state.job
        acking = worker._replace(phase=Phase.ACKING)
        holds = worker.own and job.owner == place and job.state is JobState.RUNNING
        if not holds and "fence" not in self.without:
            yield Step(f"{who} is fenced", _put(state, place, acking))
            return
        ends = [JobState.COMPLETED]
        if state.budget.failures:
            ends.append(JobState.FAILED)
        for end in ends:
            failed = end is JobState.FAILED
            paid = _spend(state, "failures") if failed else state
            changed = _ended(paid, end, due=False, charge=failed, strike=False)
            yield Step(f"{who} settles {end.name}", _put(changed, place, acking))
            if state.budget.lost_replies:
                lost = _spend(changed, "lost_replies")
                yield Step(f"{who} settles {end.name}, reply lost", lost, fault=True)

    # Supervisor: beat, death, drain.

    def _beat(self, state: State, place: int, worker: Worker) -> Iterator[Step]:
        who, job = f"worker {place}", state.job
        if worker.lease is Lease.LAPSED:
            live = worker._replace(lease=Lease.LIVE)
            yield Step(f"{who} renews", _put(state, place, live))
        if worker.lease is Lease.ENDED:
            yield Step(f"{who} is replaced", _replaced(state, place, Lease.ENDED))
        if worker.lease is not Lease.LIVE or "reconciliation" in self.without:
            return
        held = (Phase.CLAIMING, Phase.RUNNING, Phase.SETTLING)
        ours = job.state is JobState.RUNNING and job.owner == place
        if ours and not (worker.own and worker.phase in held):
            changed = _ended(state, JobState.PENDING, due=True, charge=False, strike=True)
            yield Step(f"{who} interrupts what it does not hold", changed)
        if worker.phase is Phase.RUNNING and not (ours and worker.own):
            acking = worker._replace(phase=Phase.ACKING)
            yield Step(f"{who} drops what is not its own", _put(state, place, acking))

    def _leave(self, state: State, place: int, worker: Worker) -> Iterator[Step]:
        who, budget = f"worker {place}", state.budget
        if worker.lease is Lease.LIVE and budget.lapses:
            lapsed = _put(_spend(state, "lapses"), place, worker._replace(lease=Lease.LAPSED))
            yield Step(f"{who}'s lease lapses", lapsed, fault=True)
        if worker.message is not None and budget.channel_losses:
            lost = _returned(_spend(state, "channel_losses"), worker)
            empty = worker._replace(message=None)
            yield Step(f"{who} loses its channel", _put(lost, place, empty), fault=True)
        if worker.phase is Phase.CLAIMING and budget.forgotten:
            # A bug in the executor, or a task that dies: it no longer holds what it has claimed.
            forgot = _put(_spend(state, "forgotten"), place, worker._replace(phase=Phase.ACKING))
            yield Step(f"{who} forgets its claim", forgot, fault=True)
        if budget.crashes:
            # The broker sees the connection close; the lease runs out.
            gone = _replaced(_spend(state, "crashes"), place, Lease.LAPSED)
            yield Step(f"{who} dies", gone, fault=True)
        if worker.draining and worker.phase in (Phase.IDLE, Phase.RUNNING):
            yield Step(
                f"{who} leaves", _replaced(self._released(state, place), place, Lease.DRAINED)
            )
        elif budget.drains and not worker.draining:
            draining = worker._replace(draining=True)
            yield Step(f"{who} drains", _put(_spend(state, "drains"), place, draining), fault=True)

    def _released(self, state: State, place: int) -> State:
        """What still runs under a lease that is drained ends as INTERRUPTED."""
        job = state.job
        if job.state is not JobState.RUNNING or job.owner != place:
            return state
        charge = "drain interrupts" in self.without
        return _ended(state, JobState.PENDING, due=True, charge=charge, strike=True)

    # Reaper, sweeper, callers.

    def _reap(self, state: State) -> Iterator[Step]:
        job = state.job
        if job.state is not JobState.RUNNING:
            return
        lease = job.gone_lease if job.owner is None else state.workers[job.owner].lease
        if lease not in (Lease.LAPSED, Lease.ENDED):
            return
        crashes = job.crashes + 1
        state = state._replace(job=job._replace(crashes=crashes))
        if job.owner is not None:
            ended = state.workers[job.owner]._replace(lease=Lease.ENDED)
            state = _put(state, job.owner, ended)
        end = JobState.DEAD if crashes >= CRASHES_MAX else JobState.FAILED
        yield Step("reaper ends the run", _ended(state, end, due=True, charge=True, strike=True))

    def _sweep(self, state: State) -> Iterator[Step]:
        if "sweeper" in self.without:
            return
        job = state.job
        again = state._replace(outbox=_more(state.outbox, True), seen_stranded=False)
        lost = not (state.broker or state.outbox or state.marks) and state.published is None
        if job.state is JobState.QUEUED and lost:
            yield Step("sweep finds the broker short", again)
        stranded = job.state in (JobState.PENDING, JobState.FAILED) and job.due and not state.outbox
        if not stranded:
            if state.seen_stranded:
                yield Step("sweep forgets", state._replace(seen_stranded=False))
        elif not state.seen_stranded:
            yield Step("sweep sees it stranded", state._replace(seen_stranded=True))
        elif not state.marks:
            # Between two sweeps lie ten seconds: a mark that was under way has arrived.
            yield Step("sweep publishes again", again)

    def _callers(self, state: State) -> Iterator[Step]:
        job = state.job
        if state.budget.cancels and job.state not in DONE:
            paid = _spend(state, "cancels")
            if job.state is JobState.RUNNING:
                asked = paid._replace(job=job._replace(cancel=True))
                yield Step("cancel is asked", asked, fault=True)
            else:
                cancelled = job._replace(state=JobState.CANCELLED, cancel=True)
                yield Step("cancelled", paid._replace(job=cancelled, outbox=()), fault=True)
        if state.budget.replays and job.state is JobState.DEAD:
            alive = state._replace(job=job._replace(crashes=0, cancel=False))
            replayed = _redispatched(_spend(alive, "replays"), JobState.PENDING, due=True)
            yield Step("replay", replayed, fault=True)


def _ended(state: State, end: JobState, *, due: bool, charge: bool, strike: bool) -> State:
    """A run ends. While a cancel request stands, any end but COMPLETED is CANCELLED."""
    job = state.job
    if job.cancel and end is not JobState.COMPLETED:
        end = JobState.CANCELLED
    job = job._replace(
        state=end,
        charged=job.charged or charge,
        claimed=job.claimed and not strike,
        completions=job.completions + (end is JobState.COMPLETED),
    )
    state = state._replace(job=job)
    if end in (JobState.PENDING, JobState.FAILED):
        return _redispatched(state, end, due=due)
    return state


def _redispatched(state: State, to: JobState, *, due: bool) -> State:
    """dispatch_no + 1 with a new outbox row: every message there was is stale now."""
    return state._replace(
        job=state.job._replace(state=to, due=due, confirmed=False),
        outbox=(*(False for _ in state.outbox), True),
        broker=tuple(False for _ in state.broker),
        marks=(False,) if state.marks else (),
        published=None if state.published is None else False,
        workers=tuple(
            worker if worker.message is None else worker._replace(message=False)
            for worker in state.workers
        ),
        seen_stranded=False,
    )


def _disown(state: State) -> State:
    """A new epoch: no other run and no other claim is the row's own."""
    return state._replace(workers=tuple(worker._replace(own=False) for worker in state.workers))


def _replaced(state: State, place: int, lease: Lease) -> State:
    """A process ends: its delivery returns, its lease becomes `lease`, a new one comes."""
    worker = state.workers[place]
    state = _returned(state, worker)
    if state.job.owner == place:
        state = state._replace(job=state.job._replace(owner=None, gone_lease=lease))
    return _put(state, place, Worker(worker.has_type))


def _returned(state: State, worker: Worker) -> State:
    if worker.message is None:
        return state
    return state._replace(broker=_more(state.broker, worker.message))


def _spend(state: State, name: str) -> State:
    left = state.budget._asdict()
    left[name] -= 1
    return state._replace(budget=Budget(**left))


def _put(state: State, place: int, worker: Worker) -> State:
    workers = (*state.workers[:place], worker, *state.workers[place + 1 :])
    return state._replace(workers=workers)


def _more(messages: Messages, message: bool) -> Messages:
    return tuple(sorted((*messages, message)))


def _less(messages: Messages, message: bool) -> Messages:
    if message not in messages:
        return messages  # a cancel was faster
    place = messages.index(message)
    return messages[:place] + messages[place + 1 :]
