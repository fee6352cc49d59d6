"""The store's transitions as values: run them on the store, apply them to the reference.

All that is chosen or generated is fixed in the operation, so it can be run twice, later, inside
a transaction that is held, or beside another.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from headway_core import (
    claims,
)
from headway_core.states import JobState
from tests.store.machine.reference import Reference
from tests.store.machine.tables import JobRow

Item = TypeVar("Item")

JOBS: Final = 5
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
    run: Callable[[Any], Awaitable[object]]
    """On a Database, or what looks like one. Returns what the caller is told."""
    expect: Callable[[Reference, Collection[UUID], Collection[int]], object]
    """On the reference, while others hold these jobs and outbox rows; for those that skip them."""
    locks: Callable[[Reference], set[UUID]] = lambda _: set()
    """The jobs that it locks."""
    worker: UUID | None = None
    alone: bool = False
    """Whether it claims a job that has to run alone: one worker does so one at a time."""


@dataclass(slots=True)
class World:
    """The reference, and what callers and workers know."""

    reference: Reference = field(default_factory=Reference)
    workers: list[UUID] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    focus: UUID | None = None
    """The job that two operations are to meet at."""

    def job(self, n: int, wanted: Callable[[JobRow], bool]) -> UUID:
        """One of the last few jobs, by preference one of which something can become."""
        if self.focus is not None:
            return self.focus
        recent = list(self.reference.jobs)[-JOBS:]
        fit = [id_ for id_ in recent if wanted(self.reference.jobs[id_])]
        return _choose(n, fit, recent)

    def worker(self, n: int, type_: str | None = None, *, lacks: bool = False) -> UUID:
        """One of the present workers, by preference a live one that has the type, or lacks it."""
        rows = self.reference.workers
        live = [id_ for id_ in self.workers if rows[id_].live]
        fit = [id_ for id_ in live if type_ is None or (type_ in rows[id_].types) is not lacks]
        if self.focus is not None and n % 2:
            fit = [id_ for id_ in live if id_ == self.reference.jobs[self.focus].worker]
        return _choose(n, fit or live, self.workers)

    def run_of(self, n: int) -> Held | None:
        """One of the last few runs that a worker holds, or thinks it does."""
        ours = [one for one in self.held if one.claim.job_id == self.focus]
        recent = (ours or self.held)[-JOBS:]
        going = [
            one
            for one in recent
            if self.reference.jobs[one.claim.job_id].state is JobState.RUNNING
            and self.reference.jobs[one.claim.job_id].claim == one.claim.claim_id
        ]
        return _choose(n, going, recent) if recent else None


def _choose(n: int, fit: Sequence[Item], all_: Sequence[Item]) -> Item:
    """By a number up to NUMBERS_MAX: the higher ones do not care what fits."""
    chosen = fit if fit and n <= FITTING_MAX else all_
    return chosen[n % len(chosen)]
