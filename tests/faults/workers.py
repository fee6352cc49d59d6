"""A worker of processes, and what is done to them."""

import asyncio
import signal

import psutil

from headway_dev.children import Child
from tests.faults.waiting import PATIENCE_SECONDS, until


class Worker:
    """A `headway worker` with its executors."""

    def __init__(self, child: Child) -> None:
        self.child = child

    async def ready(self) -> None:
        """Wait until it consumes."""
        await asyncio.to_thread(self.child.await_ready)

    @property
    def alive(self) -> bool:
        """Whether its supervisor lives."""
        return self.child.exit_code is None

    @property
    def supervisor(self) -> psutil.Process:
        """Its main process."""
        found = self.child.record.find()
        assert found is not None
        return found

    @property
    def log(self) -> str:
        """What it has written so far, its executors included."""
        return self.child.log.read_text()

    def executors(self) -> list[psutil.Process]:
        """Its executors now."""
        return [
            process
            for process in self.supervisor.children()
            if any("headway_worker.executor" in word for word in _command(process))
        ]

    def kill(self) -> None:
        """SIGKILL to all of it at once, as a machine that loses its power."""
        self.child.resume()
        self.child.kill()

    def pause(self) -> None:
        """SIGSTOP to all of it."""
        self.child.pause()

    def resume(self) -> None:
        """SIGCONT to all of it."""
        self.child.resume()

    async def drain(self) -> None:
        """SIGTERM; it has to leave with 0."""
        self.supervisor.send_signal(signal.SIGTERM)
        await self.ended()
        assert self.child.exit_code == 0, self.log[-3000:]

    async def ended(self, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for its end."""
        await until(lambda: self.child.exit_code is not None, "the worker ends", seconds=seconds)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
