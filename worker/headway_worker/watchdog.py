"""A thread that looks after the loop and the handlers, while they may be blocked.

It tells the supervisor that the process is alive, which code ignores its end, and which holds up
the loop. What only a C call that holds the interpreter lock can stop is this thread itself: then
the supervisor hears nothing, and draws its own conclusion.
"""

import asyncio
import sys
import threading
import traceback
from datetime import timedelta
from time import monotonic
from typing import Final, Never
from uuid import UUID

import structlog

from headway_worker.control import Pulse, Stuck
from headway_worker.control_link import ControlLink
from headway_worker.endings import Stop
from headway_worker.engine import Engine
from headway_worker.running import Run

PULSE_SECONDS: Final = 0.5
BLOCKED_SECONDS: Final = 1.0
"""A loop that has not turned for so long is held up by somebody."""
LOGGED_SECONDS: Final = 5.0
"""And after so long that is worth a line in the log, with the stack that holds it."""
STACK_LINES: Final = 12

log = structlog.get_logger(__name__)


class Watchdog:
    """Watches one executor."""

    def __init__(
        self,
        link: ControlLink,
        engine: Engine,
        *,
        loop: asyncio.AbstractEventLoop,
        grace: timedelta,
    ) -> None:
        """To be made on the loop's thread."""
        self._link = link
        self._engine = engine
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._grace_seconds = grace.total_seconds()
        self._loop_seen = monotonic()
        self._block_logged = False

    def start(self) -> None:
        """Begin to watch, until the process ends."""
        threading.Thread(target=self._watch, name="headway-watchdog", daemon=True).start()

    async def turn(self) -> Never:
        """Show that the loop turns: a task for the loop."""
        while True:
            self._loop_seen = monotonic()
            await asyncio.sleep(PULSE_SECONDS / 2)

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(PULSE_SECONDS):
            blocker = self._blocker()
            self._link.send(Pulse(self._loop_seen, self._engine.store_seen, blocker))
            if stuck := self._stuck_runs():
                self._link.send(verdict(stuck))
                return  # this process is about to be killed

    def _blocker(self) -> tuple[UUID, int] | None:
        """Whose code holds up the loop, if it is held up and that can be told."""
        blocked = monotonic() - self._loop_seen
        if blocked < BLOCKED_SECONDS:
            self._block_logged = False
            return None
        task = asyncio.current_task(self._loop)
        run = next(
            (run for run in self._engine.runs if task is not None and run.task is task), None
        )
        if blocked >= LOGGED_SECONDS and not self._block_logged:
            self._block_logged = True
            log.warning(
                "loop_blocked",
                seconds=round(blocked, 1),
                job_id=str(run.job_id) if run else None,
                stack=self._loop_stack(),
            )
        return (run.job_id, run.claim.run_epoch) if run and run.claim else None

    def _loop_stack(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the one way to see it
        return "".join(traceback.format_stack(frame, STACK_LINES)) if frame else ""

    def _stuck_runs(self) -> list[Run]:
        now = monotonic()
        return [run for run in self._engine.runs if is_stuck(run, now - self._grace_seconds)]


def is_stuck(run: Run, since: float) -> bool:
    """Whether code of a run goes on in this process although it was to end before `since`."""
    if not run.code_running or run.stop is Stop.DRAINED:
        return False
    told = run.stop_time if run.stop_time is not None else run.deadline
    return told is not None and told < since


def verdict(stuck: list[Run]) -> Stuck:
    """Name those whose time is up; one without a stop is so because the loop is blocked."""
    return Stuck(
        reason="code of "
        + ", ".join(f"job {run.job_id}" for run in stuck)
        + " went on after it was told to stop",
        timed_out={
            run.job_id: run.claim.run_epoch
            for run in stuck
            if run.claim is not None and run.stop in (None, Stop.TIMED_OUT)
        },
    )
