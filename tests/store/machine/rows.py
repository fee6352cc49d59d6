"""The tables in memory: what is read of them, and what two transactions make of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final, Self, TypeVar
from uuid import UUID

from headway_core.states import JobState
from tests.store.machine.tables import GONE, JobRow, OutboxRow, WorkerRow

QUEUE: Final = "default"

Key = TypeVar("Key")
Row = TypeVar("Row")

_numbers = count(1)


@dataclass(slots=True)
class Rows:
    """All rows; none ever changes itself."""

    jobs: dict[UUID, JobRow] = field(default_factory=dict)
    outbox: dict[int, OutboxRow] = field(default_factory=dict)
    workers: dict[UUID, WorkerRow] = field(default_factory=dict)
    keys: dict[str, tuple[UUID, str]] = field(default_factory=dict)
    steps: dict[tuple[UUID, str], int] = field(default_factory=dict)
    queues: frozenset[str] = frozenset({QUEUE})

    def copy(self) -> Self:
        """Another with the same rows."""
        return type(self)(
            dict(self.jobs),
            dict(self.outbox),
            dict(self.workers),
            dict(self.keys),
            dict(self.steps),
            self.queues,
        )

    def merged(self, first: Self, second: Self) -> Self:
        """What both changes make of these rows; no row is changed by both."""
        return type(self)(
            _merged(self.jobs, first.jobs, second.jobs),
            _merged(self.outbox, first.outbox, second.outbox),
            _merged(self.workers, first.workers, second.workers),
            _merged(self.keys, first.keys, second.keys),
            _merged(self.steps, first.steps, second.steps),
            first.queues | second.queues,
        )

    def lease(self, worker: UUID) -> WorkerRow:
        """A worker's row, or what stands for it once it is dropped."""
        return self.workers.get(worker, GONE)

    def running(self, worker: UUID) -> list[UUID]:
        """What runs in a worker's name."""
        running = JobState.RUNNING
        return [
            id_ for id_, job in self.jobs.items() if job.state is running and job.worker == worker
        ]

    def spoken_for(self, job: UUID) -> bool:
        """Whether it has an outbox row."""
        return any(row.job == job for row in self.outbox.values())

    def due_rows(self) -> set[int]:
        """What a relay may publish."""
        return {n for n, row in self.outbox.items() if row.due and not row.reserved}

    def reserved_rows(self) -> set[int]:
        """What is left to the server that wrote it."""
        return {n for n, row in self.outbox.items() if row.reserved}

    def send(self, job: UUID, *, priority: int | None = None, **given: bool) -> None:
        """Write an outbox row of the current dispatch."""
        row = self.jobs[job]
        self.outbox[next(_numbers)] = OutboxRow(
            job,
            row.dispatch_no,
            row.queue,
            row.priority if priority is None else priority,
            **given,
        )

    def forget(self, numbers: Iterable[int]) -> None:
        """Rows whose messages are confirmed."""
        for n in list(numbers):
            self.outbox.pop(n, None)

    def pass_time(self, id_: UUID) -> None:
        """A job is due, and its row with it."""
        job = self.jobs[id_]
        if job.due is False:
            self.jobs[id_] = replace(job, due=True)
            for n, row in self.outbox.items():
                if row.job == id_ and row.dispatch_no == job.dispatch_no:
                    self.outbox[n] = replace(row, due=True)


def _merged(
    before: dict[Key, Row], first: dict[Key, Row], second: dict[Key, Row]
) -> dict[Key, Row]:
    result = dict(second)
    for key in before.keys() | first.keys():
        if before.get(key) != first.get(key):
            assert before.get(key) == second.get(key), f"both change {key}"
            if key in first:
                result[key] = first[key]
            else:
                result.pop(key, None)
    return result
