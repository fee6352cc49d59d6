"""What the model knows of a moment, folded to what matters, so that the states are finite.

A message is current or stale; a run is the row's own or not; an error, a payload, a time there is
not. All of it is tuples of small integers: they hash fast.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from headway_core.states import DONE, Isolation, JobState

NOBODY: Final = -1
WAITING: Final = (JobState.PENDING, JobState.QUEUED, JobState.FAILED)
CRASHES_MAX: Final = 2
ATTEMPTS_MAX: Final = 2
COPIES_MAX: Final = 2

Messages = tuple[bool, ...]
"""Of dispatches, sorted; True: of the current one, False: a stale copy."""


class Lease(IntEnum):
    """A worker's right to its runs."""

    LIVE = 0
    LAPSED = 1
    ENDED = 2
    DRAINED = 3


class LateSettle(NamedTuple):
    """A settle that reaches Postgres after its worker has given up waiting for its answer."""

    place: int
    end: JobState
    own: bool


class Phase(IntEnum):
    """Where a slot is."""

    IDLE = 0
    CLAIMING = 1
    DECLINING = 2
    RUNNING = 3
    SETTLING = 4
    ACKING = 5


class Job(NamedTuple):
    """The row, and the messages that speak for it."""

    state: JobState = JobState.PENDING
    submitted: bool = False
    due: bool = True
    owner: int = NOBODY
    """The place of its worker."""
    claimed: bool = False
    """Whether the claim still stands on the row."""
    confirmed: bool = False
    """Whether the broker has confirmed the current dispatch."""
    crashes: int = 0
    failures: int = 0
    charged: bool = False
    isolation: Isolation = Isolation.NONE
    cancel: bool = False
    completions: int = 0
    outbox: Messages = ()
    published: bool | None = None
    """The relay's message that is confirmed while its row is still there."""
    marks: Messages = ()
    broker: Messages = ()
    late: tuple[int, ...] = ()
    """The places of workers from which a claim is still under way that nobody waits for."""
    late_settles: tuple[LateSettle, ...] = ()
    late_replays: tuple[bool, ...] = ()
    """Under way, with the epoch of the death that was seen; True: the row's epoch is still that."""
    cancel_unanswered: bool = False
    """Its caller will ask once more."""
    seen_stranded: bool = False
    stale_write: bool = False
    """Whether a run that was not the row's own has ended it."""
    unseen_death: bool = False
    """Whether a death was replayed that its caller did not see."""


class Slot(NamedTuple):
    """One thing at a time of an executor."""

    phase: Phase = Phase.IDLE
    job: int = NOBODY
    message: bool | None = None
    """In hand; None: nothing, or handed off."""
    own: bool = False
    """Whether the claim it sent, or the run it has, is the one on the row: its epoch is the row's.

    Any later claim of the job ends that, for good; so the epochs themselves need not be kept.
    """
    end: int = 0
    """The state its settle asks for, fixed before the first try; 0: not yet."""


IDLE: Final = Slot()


class Worker(NamedTuple):
    """An executor process."""

    has_type: bool
    slots: tuple[Slot, ...]
    alive: bool = True
    lease: Lease = Lease.LIVE
    draining: bool = False
    company: int = 0
    """How many runs its lease covered when it ended."""


class Budget(NamedTuple):
    """How many faults may still happen."""

    crashes: int = 0
    forgotten: int = 0
    lapses: int = 0
    broker_losses: int = 0
    channel_losses: int = 0
    lost_replies: int = 0
    late_claims: int = 0
    late_settles: int = 0
    late_replays: int = 0
    slow: int = 0
    """A mark or a claim that takes longer than two sweeps."""
    locks: int = 0
    relay_crashes: int = 0
    drains: int = 0
    cancels: int = 0
    replays: int = 0
    failures: int = 0


class State(NamedTuple):
    """Everything."""

    jobs: tuple[Job, ...]
    workers: tuple[Worker, ...]
    budget: Budget

    def runs_of(self, place: int) -> list[int]:
        """The jobs that run in a worker's name."""
        running = JobState.RUNNING
        return [n for n, job in enumerate(self.jobs) if job.state is running and job.owner == place]

    @property
    def done(self) -> bool:
        """Whether every job is."""
        return all(job.state in DONE for job in self.jobs)


@dataclass(frozen=True, slots=True)
class Step:
    """A step that can be taken. `fault`: liveness may not count on it."""

    name: str
    after: State
    fault: bool = False


Steps = Iterator[Step]


def with_job(state: State, number: int, job: Job) -> State:
    """Another row for a job."""
    return state._replace(jobs=(*state.jobs[:number], job, *state.jobs[number + 1 :]))


def with_worker(state: State, place: int, worker: Worker) -> State:
    """Another worker at a place."""
    return state._replace(workers=(*state.workers[:place], worker, *state.workers[place + 1 :]))


def with_slot(state: State, place: int, number: int, slot: Slot) -> State:
    """Another thing in a slot. Slots are alike, so their order is none: half the states."""
    worker = state.workers[place]
    slots = (*worker.slots[:number], slot, *worker.slots[number + 1 :])
    if len(slots) > 1:
        slots = tuple(sorted(slots, key=_slot_order))
    return with_worker(state, place, worker._replace(slots=slots))


def spend(state: State, name: str) -> State:
    """One fault of a kind less to come."""
    budget = state.budget
    return state._replace(budget=budget._replace(**{name: getattr(budget, name) - 1}))


def more(messages: Messages, message: bool) -> Messages:
    """With one more."""
    return tuple(sorted((*messages, message)))


def less(messages: Messages, message: bool) -> Messages:
    """With one less, unless a cancel was faster."""
    if message not in messages:
        return messages
    place = messages.index(message)
    return messages[:place] + messages[place + 1 :]


def redispatched(state: State, number: int, job: Job, to: JobState, *, due: bool) -> State:
    """dispatch_no + 1 with a new outbox row: every message there was is stale now."""
    changed = job._replace(
        state=to,
        due=due,
        confirmed=False,
        outbox=(*(False for _ in job.outbox), True),
        broker=tuple(False for _ in job.broker),
        marks=(False,) if job.marks else (),
        published=None if job.published is None else False,
        seen_stranded=False,
    )
    state = with_job(state, number, changed)
    for place, worker in enumerate(state.workers):
        for n, slot in enumerate(worker.slots):
            if slot.job == number and slot.message:
                state = with_slot(state, place, n, slot._replace(message=False))
    return state


def returned(state: State, slot: Slot) -> State:
    """What a slot had in hand is at the broker again."""
    if slot.message is None:
        return state
    job = state.jobs[slot.job]
    return with_job(state, slot.job, job._replace(broker=more(job.broker, slot.message)))


def ended(state: State, number: int, end: JobState, *, strike: bool, charge: bool = False) -> State:
    """A run ends. While a cancel request stands, any end but COMPLETED is CANCELLED.

    `strike`: somebody else than the worker ends it. FAILED by a crash and PENDING are due at once.
    """
    job = state.jobs[number]
    if job.cancel and end is not JobState.COMPLETED:
        end = JobState.CANCELLED
    job = job._replace(
        state=end,
        charged=job.charged or charge,
        claimed=job.claimed and not strike,
        completions=job.completions + (end is JobState.COMPLETED),
    )
    if end in (JobState.PENDING, JobState.FAILED):
        return redispatched(state, number, job, end, due=strike)
    return with_job(state, number, job)


def _slot_order(slot: Slot) -> tuple[int, int, int, bool, int]:
    return (slot.phase, slot.job, -1 if slot.message is None else slot.message, slot.own, slot.end)
