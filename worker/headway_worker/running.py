"""The runs that an executor holds."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from uuid import UUID

from headway_core.claims import Claim
from headway_core.ids import new_claim_id
from headway_worker.endings import Ending, Stop
from headway_worker.progress import ProgressMeter


@dataclass(slots=True, eq=False)
class Run:
    """One run, held from before its claim is sent until its settle's outcome is known."""

    job_id: UUID
    claim_id: UUID = field(default_factory=new_claim_id)
    claim: Claim | None = None
    meter: ProgressMeter = field(default_factory=ProgressMeter)
    progress_noted: bool = False
    """Whether progress_feed.py is to look at the meter."""
    progress_due: float = 0.0
    """When the next progress may be sent (loop time)."""
    deadline: float | None = None
    """When its attempt's time is up (monotonic)."""
    stop: Stop | None = None
    stop_time: float | None = None
    code_running: bool = False
    """Whether user code of it may be at work in this process: a child's is not."""
    task: asyncio.Task[Ending] | None = None
    """Where an `async def` handler runs."""
    settling: bool = False
    on_stop: Callable[[], object] | None = None
    """Passes a stop on to the code that runs; called on the loop."""

    def request_stop(self, why: Stop) -> None:
        """Tell the run to end. The first reason stands, but LOST makes any other moot."""
        if self.stop is None:
            self.stop, self.stop_time = why, monotonic()
            if self.on_stop is not None:
                self.on_stop()
        elif why is Stop.LOST:
            self.stop = why

    def may_stop(self) -> bool:
        """Whether the run was told to end: what `ctx.cancelled` says, from any thread."""
        return self.stop is not None


class RunTable:
    """All runs of this executor, by claim."""

    def __init__(self) -> None:
        self._runs: dict[UUID, Run] = {}
        self._watchers: list[set[UUID]] = []
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        """The runs as they are now; they may change while the caller goes on."""
        return iter(tuple(self._runs.values()))

    def hold(self, run: Run) -> None:
        """Hold a run from now on: to be called before its claim is sent."""
        self._runs[run.claim_id] = run
        self._empty.clear()
        for watcher in self._watchers:
            watcher.add(run.claim_id)

    def let_go(self, run: Run) -> None:
        """Hold it no more: its settle's outcome is known."""
        del self._runs[run.claim_id]
        if not self._runs:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until no run is held."""
        await self._empty.wait()

    @contextmanager
    def watched(self) -> Iterator[set[UUID]]:
        """Collect the claims of all runs that are held at any moment inside the block."""
        watcher = set(self._runs)
        self._watchers.append(watcher)
        try:
            yield watcher
        finally:
            self._watchers.remove(watcher)

    def of_claim(self, claim_id: UUID) -> Run | None:
        """Find a run by its claim."""
        return self._runs.get(claim_id)

    def holds_job(self, job_id: UUID) -> bool:
        """Whether a run of the job is held."""
        return any(run.job_id == job_id for run in self._runs.values())

    def stop_all(self, why: Stop) -> None:
        """Tell every run to end."""
        for run in self:
            if not run.settling:
                run.request_stop(why)
