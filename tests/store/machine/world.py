"""The store's transitions as values: run them on the store, apply them to the reference.

All that is chosen or generated is fixed in the operation, so it can be run twice, later, inside
a transaction that is held, or beside another.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from headway_core import claims
from headway_core.states import JobState
from tests.store.machine.reference import Reference
from tests.store.machine.tables import JobRow

Item = TypeVar("Item")

JOBS: Final = 6
NUMBERS_MAX: Final = 9
FITTING_MAX: Final = 6
HOUR: Final = timedelta(hours=1)
TYPES: Final = (frozenset({"noop"}), frozenset({"noop", "rare"}), frozenset({"rare"}))


@dataclass(frozen=True, slots=True)
class Held:
    """A run that a worker was told of."""

    worker: UUID
    claim: claims.Claim


@dataclass(frozen=True, slots=True)
class Operation:
    """One transition with all its arguments."""

    name: str
    """Its first word is its kind."""
    run: Callable[[Any], Awaitable[object]]
    """On a Database, or what looks like one. Returns what the caller is told."""
    expect: Callable[[Reference, Collection[UUID], Collection[int]], object]
    """On the reference, while others hold these jobs and outbox rows."""
    locks: Callable[[Reference], set[UUID]] = lambda _: set()
    """The jobs that it locks."""
    rows: Callable[[Reference], set[int]] = lambda _: set()
    """The outbox rows that it locks."""
    skips: bool = False
    """Whether it leaves alone what others have locked; else it waits."""
    worker: UUID | None = None
    alone: bool = False
    """Whether it claims a job that has to run alone: one worker does so one at a time."""

    @property
    def kind(self) -> str:
        """Which transition it is."""
        return self.name.split()[0]


@dataclass(slots=True)
class World:
    """The reference, and what callers and workers know."""

    reference: Reference = field(default_factory=Reference)
    workers: list[UUID] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    focus: UUID | None = None
    """The job that two operations are to meet at."""
    turns: int = 0
    """How many choices were made."""

    def job(self, n: int, wanted: Callable[[JobRow], bool]) -> UUID:
        """One of the last few jobs, by preference one of which something can become."""
        if self.focus in self.reference.jobs:
            return self.focus
        recent = list(self.reference.jobs)[-JOBS:]
        fit = [id_ for id_ in recent if wanted(self.reference.jobs[id_])]
        return _choose(n, fit, recent)

    def jobs(self, ns: Sequence[int], wanted: Callable[[JobRow], bool]) -> dict[UUID, JobRow]:
        """Several, each once; the one in focus with others beside it."""
        first, *more = ns
        ids = [self.job(first, wanted)]
        recent = list(self.reference.jobs)[-JOBS:]
        fit = [id_ for id_ in recent if wanted(self.reference.jobs[id_])]
        ids += [_choose(n, fit, recent) for n in more]
        return {id_: self.reference.jobs[id_] for id_ in ids}

    def worker(self, n: int, wanted: Callable[[UUID], bool]) -> UUID:
        """One of the last few workers, by preference one that fits."""
        fit = [id_ for id_ in self.workers if wanted(id_)]
        focus = self.reference.jobs.get(self.focus) if self.focus else None
        if focus and n % 2 and focus.worker in self.workers:
            fit = [focus.worker]
        return _choose(n, fit, self.workers)

    def live(self, worker: UUID) -> bool:
        """Whether it may claim."""
        return self.reference.lease(worker).live

    def has(self, worker: UUID, type_: str) -> bool:
        """Whether it is live and has a handler for the type."""
        return self.live(worker) and type_ in self.reference.lease(worker).types

    def run_of(self, n: int) -> Held | None:
        """One of the last few runs that a worker holds, or thinks it does."""
        ours = [one for one in self.held if one.claim.job_id == self.focus]
        recent = (ours or self.held)[-JOBS:]
        return _choose(n, [one for one in recent if self.goes_on(one)], recent) if recent else None

    def runs_of(self, ns: Sequence[int]) -> list[Held]:
        """Several of one worker, of different jobs."""
        first = self.run_of(ns[0])
        if first is None:
            return []
        found = {first.claim.job_id: first}
        beside = [one for one in self.held if one.worker == first.worker][-JOBS:]
        going = [one for one in beside if self.goes_on(one)]
        for n in ns[1:]:
            another = _choose(n, going, beside)
            found.setdefault(another.claim.job_id, another)
        return list(found.values())

    def goes_on(self, one: Held) -> bool:
        """Whether a run is still its job's own."""
        job = self.reference.jobs.get(one.claim.job_id)
        return bool(job and job.state is JobState.RUNNING and job.claim == one.claim.claim_id)


def _choose(n: int, fit: Sequence[Item], all_: Sequence[Item]) -> Item:
    """By a number up to NUMBERS_MAX: the higher ones do not care what fits."""
    chosen = fit if fit and n <= FITTING_MAX else all_
    return chosen[n % len(chosen)]
