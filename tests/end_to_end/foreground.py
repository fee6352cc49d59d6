"""A command that owns private services, run as a terminal would, and all that it leaves."""

import asyncio
import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

from headway_dev.services import AMQP_VARIABLE, DATABASE_VARIABLE
from tests.end_to_end.stack import ROOT, Result, eventually, headway

MARK = "HEADWAY_TEST_MARK"


class Foreground:
    """`headway COMMAND --data DIR …` in a session of its own, its output in a file.

    What it starts is known by a variable that it inherits, and services, which inherit none, by the
    directory that they name.
    """

    def __init__(self, command: str, *arguments: str, directory: Path) -> None:
        directory.mkdir()
        self.output = directory / "output"
        self.data = directory / "data"
        self._command = (str(headway()), command, "--data", str(self.data), *arguments)
        self._log = directory / "log"
        self._mark = uuid.uuid4().hex
        self._process: asyncio.subprocess.Process | None = None

    @property
    def text(self) -> str:
        """What it has written so far, errors too."""
        return self._log.read_text() if self._log.exists() else ""

    async def start(self) -> None:
        """Start it."""
        ours = {DATABASE_VARIABLE, AMQP_VARIABLE}
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        environment |= {MARK: self._mark, "HEADWAY_EXAMPLES_OUTPUT": str(self.output)}
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )

    async def until(self, begun: Callable[[], Result], *, seconds: float) -> Result:
        """Wait until this is true; it fails with the output if it ends first, or is late."""

        def look() -> Result:
            assert self._process is not None
            found = begun()
            assert found or self._process.returncode is None, "it has ended"
            return found

        try:
            return await eventually(look, what="it is so far", seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.text}") from error

    def interrupt(self) -> None:
        """Press Ctrl-C: the whole foreground group is told."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGINT)

    async def ended(self, *, seconds: float) -> int:
        """Wait for its end and return its exit code."""
        assert self._process is not None
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    def processes(self) -> list[str]:
        """What runs of it and for it, itself too."""
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                marked = process.environ().get(MARK) == self._mark
            except psutil.Error:
                continue
            if marked or str(self.data) in line:
                found.append(f"{process.pid} {line}")
        return found
