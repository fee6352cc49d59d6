"""Server and workers as child processes of `headway dev` and `headway demo`."""

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TextIO

from headway_dev import processes
from headway_dev.errors import ServiceFailed
from headway_dev.processes import ProcessRecord
from headway_dev.state import State

READY = "ready"
START_SECONDS = 60.0
FOLLOW_SECONDS = 0.1
FOLLOW_BYTES_MAX = 65_536


class Child:
    """One `headway …` process: its log is a file, and it is ready when it prints a `ready` line."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        state: State,
        directory: Path,
        environment: Mapping[str, str],
        stop_seconds: float,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.log.unlink(missing_ok=True)
        self._state = state
        self._process = processes.start(
            [headway_script(), *arguments],
            environment={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
            log=self.log,
            owner=state.path.parent,
        )
        self.record = processes.describe(
            self._process,
            marker="headway",
            stop_signal=signal.SIGTERM,
            stop_seconds=stop_seconds,
        )
        state.record(name, self.record)

    @property
    def exit_code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll()

    def await_ready(self, *, timeout_seconds: float = START_SECONDS) -> str:
        """Return its `ready …` line. Raises ServiceFailed with its last lines if it ends first."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            with contextlib.suppress(FileNotFoundError):
                for line in self.log.read_text(errors="replace").splitlines():
                    if line == READY or line.startswith(f"{READY} "):
                        return line
            if self.exit_code is not None:
                raise self.failure()
            if time.monotonic() > deadline:
                raise ServiceFailed(
                    f"{self.name} was not ready within {timeout_seconds:.0f} s; its last lines:\n"
                    + processes.log_tail(self.log)
                )
            time.sleep(0.02)

    def failure(self) -> ServiceFailed:
        """Describe an end that nobody asked for."""
        code = self.exit_code
        how = f"was ended by signal {-code}" if code and code < 0 else f"ended with code {code}"
        return ServiceFailed(f"{self.name} {how}; its last lines:\n{processes.log_tail(self.log)}")

    def stop(self) -> None:
        """Ask it to end and wait, SIGKILL when its time is over."""
        self._end(processes.stop)

    def kill(self) -> None:
        """SIGKILL it and all below it."""
        self._end(processes.kill)

    def pause(self) -> None:
        """Freeze it and all below it."""
        processes.freeze(self.record)

    def resume(self) -> None:
        """Let it go on after pause()."""
        processes.thaw(self.record)

    def _end(self, way: Callable[[ProcessRecord], None]) -> None:
        way(self.record)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._state.forget(self.name)


class LogFollower:
    """Repeats what children write to their logs, line by line under their names.

    A thread: started by `with`, woken every 0.1 s, ended with the block after a last look.
    """

    def __init__(self, output: TextIO = sys.stderr) -> None:
        self._output = output
        self._children: dict[Child, int] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-follower", daemon=True)

    def add(self, child: Child) -> None:
        """Follow this child's log from its beginning."""
        self._children[child] = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(FOLLOW_SECONDS):
            self._look()
        self._look()

    def _look(self) -> None:
        for child, offset in list(self._children.items()):
            with contextlib.suppress(OSError), child.log.open("rb") as file:
                file.seek(offset)
                found = file.read(FOLLOW_BYTES_MAX)
                complete = found[: found.rfind(b"\n") + 1] or (
                    found if len(found) == FOLLOW_BYTES_MAX else b""
                )
                self._children[child] = offset + len(complete)
                for line in complete.decode(errors="replace").splitlines():
                    print(f"{child.name} | {line}", file=self._output, flush=True)


def stop_all(children: Sequence[Child]) -> None:
    """Stop several at the same time: workers that drain do not wait for each other."""
    if children:
        with ThreadPoolExecutor(len(children)) as threads:
            list(threads.map(Child.stop, children))


def headway_script() -> Path:
    """Return the `headway` command that belongs to this Python."""
    return Path(sysconfig.get_path("scripts")) / "headway"
