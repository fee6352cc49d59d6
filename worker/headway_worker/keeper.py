"""Keeping one executor running: start, register, watch, end its lease, start another."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from typing import Final, Protocol
from uuid import UUID, uuid4

import structlog

from headway_core.leases import HandlerType, LeaseEnd
from headway_worker.control import (
    Broken,
    CancelRun,
    Drain,
    Hello,
    LeaseConfirmed,
    Pulse,
    Ready,
    Stuck,
    ToSupervisor,
    Trouble,
)
from headway_worker.executor_process import ExecutorProcess
from headway_worker.exit_codes import how_it_ended

SHORT_LIFE_SECONDS: Final = 10.0
"""Executors that live no longer are started anew after a pause, which grows."""
LAST_WORDS_SECONDS_MAX: Final = 1.0
RESTART_SECONDS_FIRST: Final = 0.2
RESTART_SECONDS_MAX: Final = 5.0

log = structlog.get_logger(__name__)

Start = Callable[[UUID], Awaitable[ExecutorProcess]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an executor ends or has ended, and so what becomes of its runs."""

    how: LeaseEnd | None
    """None: somebody else has ended the lease, and judged its runs."""
    message: str
    timed_out: Mapping[UUID, int] = field(default_factory=dict)
    """The runs (job to epoch) that ignored their timeout."""


class Office(Protocol):
    """What a keeper asks of its supervisor."""

    async def register(self, worker_id: UUID, types: tuple[HandlerType, ...]) -> float:
        """Store worker, handlers and first lease, however long Postgres is away.

        Returns until when the lease lasts (monotonic).
        """

    def end_lease(self, worker_id: UUID, verdict: Verdict) -> None:
        """End a lease and judge its runs, in the background."""

    def ready(self) -> None:
        """An executor consumes."""

    def died_unready(self, traceback: str) -> None:
        """An executor ended before it consumed anything."""


class Keeper:
    """One executor and its successors, each a worker of its own to the database."""

    def __init__(self, office: Office, start: Start) -> None:
        self._office = office
        self._start = start
        self._process: ExecutorProcess | None = None
        self._verdict: Verdict | None = None
        self._traceback = ""
        self._draining = asyncio.Event()
        self._drain_deadline = 0.0
        self._last_word = 0.0
        self._pulse: Pulse | None = None
        self.worker_id: UUID | None = None
        """The executor with a lease to be kept. None: there is none just now."""
        self.is_ready = False

    async def run(self) -> None:
        """Keep an executor running until it has drained."""
        pause = RESTART_SECONDS_FIRST
        while not self._draining.is_set():
            begun = monotonic()
            await self._run_one(uuid4())
            if monotonic() - begun >= SHORT_LIFE_SECONDS:
                pause = RESTART_SECONDS_FIRST
                continue
            try:
                async with asyncio.timeout(pause):
                    await self._draining.wait()
            except TimeoutError:
                pause = min(pause * 2, RESTART_SECONDS_MAX)

    def confirm(self, deadline: float) -> None:
        """Its lease was renewed until `deadline`."""
        if self._process is not None:
            self._process.send(LeaseConfirmed(deadline))

    def cancel_run(self, job_id: UUID) -> None:
        """Pass a cancel request on; it may concern another executor."""
        if self._process is not None and self.worker_id is not None:
            self._process.send(CancelRun(job_id))

    def lease_was_ended(self) -> None:
        """Its lease is gone for good: whatever it still does changes nothing."""
        self._end(Verdict(None, "its lease was ended"))

    def judge(self, silence_max: timedelta, *, beating_since: float) -> None:
        """End an executor that lives but is of no use any more.

        Called while heartbeats succeed, as they have done since `beating_since` (monotonic).
        """
        if self.worker_id is None or self._draining.is_set():
            return
        verdict = suspicion(
            self._pulse,
            self._last_word,
            now=monotonic(),
            silence_max=silence_max,
            beating_since=beating_since,
        )
        if verdict is not None:
            self._end(verdict)

    def drain(self, deadline: float) -> None:
        """Take no more, finish until `deadline`; a second call brings that forward."""
        self._drain_deadline = deadline
        self._draining.set()
        if self.worker_id is None:
            self.kill()
        elif self._process is not None:
            self._process.send(Drain(deadline))

    def kill(self) -> None:
        """End it now; while draining, its runs are interrupted."""
        if self._process is not None:
            self._process.kill()

    def _end(self, verdict: Verdict) -> None:
        if self._verdict is None and self._process is not None:
            log.error("executor_ended", worker_id=str(self.worker_id), reason=verdict.message)
            self._verdict = verdict
            self._process.kill()

    async def _run_one(self, worker_id: UUID) -> None:
        self._verdict, self._traceback, self._pulse = None, "", None
        self.is_ready = False
        try:
            self._process = process = await self._start(worker_id)
        except OSError as error:  # no room for another process; perhaps there is soon
            log.error("executor_not_started", reason=str(error))  # noqa: TRY400 - says it all
            return
        log.info("executor_started", worker_id=str(worker_id), pid=process.pid)
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen(process))
                code = await process.wait()
                # What it said last is still in the pipe, whose end a child of it may hold open.
                await asyncio.wait([listening], timeout=LAST_WORDS_SECONDS_MAX)
                listening.cancel()
        finally:
            registered = self.worker_id is not None
            self.worker_id, self._process = None, None
            process.kill()  # what its handlers have started, and itself if we are torn down
            await process.wait()
        verdict = self._of_exit(code)
        log.info("executor_gone", worker_id=str(worker_id), reason=verdict.message)
        if registered and verdict.how is not None:
            self._office.end_lease(worker_id, verdict)
        by_itself = verdict.how is LeaseEnd.DIED
        if by_itself and not (self.is_ready or self._draining.is_set()):
            self._office.died_unready(self._traceback or verdict.message)

    def _of_exit(self, code: int) -> Verdict:
        if self._verdict is not None:
            return self._verdict
        message = f"its worker process {how_it_ended(code)}"
        if self._draining.is_set() and (code == 0 or monotonic() >= self._drain_deadline):
            return Verdict(LeaseEnd.DRAINED, "its worker left")
        return Verdict(LeaseEnd.DIED, message)

    async def _listen(self, process: ExecutorProcess) -> None:
        async for message in process.messages():
            await self._hear(process, message)

    async def _hear(self, process: ExecutorProcess, message: ToSupervisor) -> None:
        self._last_word = monotonic()
        match message:
            case Hello(types):
                deadline = await self._office.register(process.worker_id, types)
                self.worker_id = process.worker_id
                self._last_word = monotonic()
                self.confirm(deadline)
                if self._draining.is_set():
                    self.drain(self._drain_deadline)
            case Ready():
                self.is_ready = True
                self._office.ready()
            case Broken(traceback):
                self._traceback = traceback
            case Trouble(reason):
                log.error("not_consuming", reason=reason)
            case Pulse():
                self._pulse = message
            case Stuck(reason, timed_out):
                self._end(Verdict(LeaseEnd.STOPPED, reason, timed_out))


def suspicion(
    pulse: Pulse | None,
    last_word: float,
    *,
    now: float,
    silence_max: timedelta,
    beating_since: float,
) -> Verdict | None:
    """Decide whether an executor that its supervisor can keep a lease for is of no use any more.

    One that is silent is held up by a C call that keeps the interpreter lock, by some job: that is
    judged like a death, so that the job in question ends up in a child process, and a job that does
    this every time does not go round for ever. If only its loop is held up, the job may be known.
    Cut off from Postgres it is nobody's fault; and only what it missed while the supervisor reached
    Postgres counts, or the first heartbeat after an outage would end every executor there is.
    """
    longest = silence_max.total_seconds()
    if now - last_word > longest:
        return Verdict(LeaseEnd.DIED, f"its worker process did not answer for {longest:g} s")
    if pulse is None:
        return None
    if now - pulse.loop_seen > longest:
        message = f"its worker's event loop was blocked for {longest:g} s"
        if pulse.blocker is None:
            return Verdict(LeaseEnd.DIED, message)
        job_id, run_epoch = pulse.blocker
        return Verdict(LeaseEnd.STOPPED, message, {job_id: run_epoch})
    if now - max(pulse.store_seen, beating_since) > longest:
        return Verdict(
            LeaseEnd.STOPPED, f"its worker process was cut off from Postgres for {longest:g} s"
        )
    return None
