"""A run in a child process of its own: its death is its own, and it can be killed.

The child gets the job over a socket pair and knows neither Postgres nor the broker: its steps and
progress come back the same way, and the executor does all that is stored.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog

from headway_core.content import Content
from headway_core.errors import Defect
from headway_core.outcomes import Snoozed, WorkerLost
from headway_worker.child_messages import (
    LENGTHS,
    Ended,
    FromChild,
    Progressed,
    Start,
    StepAnswer,
    StepAsked,
    StepDone,
    StepRefused,
    StopRun,
    ToChild,
    decode,
    encode,
    lengths,
)
from headway_worker.conclusion import UserOutcome
from headway_worker.endings import Stop
from headway_worker.exit_codes import how_it_ended
from headway_worker.handler_errors import JobCancelled
from headway_worker.running import Run
from headway_worker.steps import StoredSteps

NO_CHILD_WAIT: Final = timedelta(seconds=5)
"""How long a job is put off that no process can be started for."""
EXIT_SECONDS_MAX: Final = 2.0
"""How long a child may take to end after it told its outcome, or its pipe after the child."""

log = structlog.get_logger(__name__)


async def run_in_child(
    run: Run, start: Start, *, steps: StoredSteps, grace: timedelta
) -> UserOutcome | WorkerLost:
    """Run a handler in a fresh interpreter, and leave none of its processes behind.

    Told to stop it is asked first and killed after the grace; at its timeout, and when the run is
    lost, it is killed at once. WorkerLost: the process ended without a word about the handler.
    """
    try:
        child = await _spawn()
    except OSError as error:
        # Memory or processes have run out, which is not the job's fault.
        log.warning("child_not_started", reason=str(error))
        return Snoozed(NO_CHILD_WAIT)
    try:
        async with _stopped_on_request(run, child, grace), asyncio.TaskGroup() as group:
            child.send(start)
            exit_code = group.create_task(child.process.wait())
            talk = group.create_task(_converse(run, child, steps))
            await asyncio.wait([exit_code, talk], return_when=asyncio.FIRST_COMPLETED)
            # Whichever came first, the other follows soon; but what the child has forked may
            # hold its pipe open, or its threads may go on.
            await asyncio.wait([exit_code, talk], timeout=EXIT_SECONDS_MAX)
            talk.cancel()
            child.kill()
    finally:
        child.kill()
        await child.process.wait()
        child.writer.close()
    if child.outcome is not None:
        return child.outcome
    return WorkerLost(f"its process {how_it_ended(exit_code.result())} before the handler was done")


@dataclass(slots=True, eq=False)
class _Child:
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    outcome: UserOutcome | None = None
    """What it told of the handler's end."""

    def send(self, message: ToChild) -> None:
        # No drain: the most it is sent are a payload and the results of its own steps.
        if not self.writer.is_closing():
            self.writer.write(encode(message))

    def kill(self) -> None:
        """Kill it and the programs it started, which share its session."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def messages(self) -> AsyncIterator[FromChild]:
        """What it says, until its end."""
        while True:
            try:
                header, body = lengths(await self.reader.readexactly(LENGTHS.size))
                message = decode(
                    await self.reader.readexactly(header), await self.reader.readexactly(body)
                )
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            except Defect as error:  # user code has got hold of the pipe
                log.error("child_incomprehensible", reason=str(error))  # noqa: TRY400 - says it all
                return
            if isinstance(message, StepAsked | StepDone | Progressed | Ended):
                yield message


async def _spawn() -> _Child:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "headway_worker.child"),
                *(str(theirs.fileno()), str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # to be killed with all it starts
            )
        except BaseException:
            ours.close()
            raise
    reader, writer = await asyncio.open_connection(sock=ours)
    return _Child(process, reader, writer)


@asynccontextmanager
async def _stopped_on_request(run: Run, child: _Child, grace: timedelta) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def on_stop() -> None:
        if run.stop in (Stop.TIMED_OUT, Stop.LOST):
            child.kill()
        else:
            child.send(StopRun())
            timers.append(loop.call_later(grace.total_seconds(), child.kill))

    run.on_stop = on_stop
    if run.stop is not None:
        on_stop()
    try:
        yield
    finally:
        run.on_stop = None
        for timer in timers:
            timer.cancel()


async def _converse(run: Run, child: _Child, steps: StoredSteps) -> None:
    """Answer the child until it tells its outcome, or ends without."""
    asked: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as answers:
        try:
            async for message in child.messages():
                match message:
                    case StepAsked(number, name):
                        answer = _answer(child, number, steps.find(name))
                        asked.append(answers.create_task(answer))
                    case StepDone(number, name, result):
                        # Stored even if the child dies meanwhile.
                        answers.create_task(_answer(child, number, steps.keep(name, result)))
                    case Progressed(progress):
                        run.meter.replace(progress)
                    case Ended(outcome):
                        child.outcome = outcome
                        return
        finally:
            for task in asked:
                task.cancel()


async def _answer(child: _Child, number: int, answer: Coroutine[Any, Any, Content | None]) -> None:
    try:
        child.send(StepAnswer(number, await answer))
    except JobCancelled:
        child.send(StepRefused(number))
