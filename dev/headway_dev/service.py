"""What a private PostgreSQL and a private RabbitMQ have in common: a life."""

import abc
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headway_dev import processes
from headway_dev.errors import ServiceFailed
from headway_dev.processes import ProcessRecord
from headway_dev.state import State

PORT_TRIES_MAX = 5
# How long a restart waits for the port of the process it has just ended.
KEEP_PORT_SECONDS = 10.0


class PortLost(Exception):
    """Somebody else was faster at taking a port."""


class PrivateService(abc.ABC):
    """A service that runs as our child, keeps its data in its directory, and can be ill-treated.

    Blocking; asyncio callers use `asyncio.to_thread`. Not for use by two threads at once. A restart
    keeps the port, the password and (unless wiped) the data.
    """

    name: str

    def __init__(self, *, directory: Path, state: State, durable: bool) -> None:
        self.directory = directory
        self.durable = durable
        self._state = state
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def log(self) -> Path:
        """The service's log."""
        return self.directory / f"{self.name}.log"

    @property
    def is_running(self) -> bool:
        """Whether its process lives, frozen or not."""
        record = self.record
        return record is not None and record.find() is not None

    @property
    def record(self) -> ProcessRecord | None:
        """Its main process, while started."""
        return self._state.processes.get(self.name)

    def start(self) -> None:
        """Start it, made anew if there is no data, and return when it is ready. No-op if it runs.

        The first start in a directory chooses its ports; later ones take the same again, or others
        if a foreign process has them by now. Raises ServiceFailed, ToolMissing.
        """
        if self.is_running:
            return
        self._forget_dead()
        keep_ports = bool(self._children)  # clients hold the address: never move under them
        for _ in range(PORT_TRIES_MAX):
            self._choose_ports(keep_seconds=KEEP_PORT_SECONDS if keep_ports else None)
            self._prepare()
            self._settings["url"] = self.url  # for `headway doctor`
            self._state.save()
            try:
                self._launch()
            except PortLost:
                self.kill()
                continue
            return
        raise ServiceFailed(f"{self.name} found no port to listen on; see {self.log}")

    def stop(self) -> None:
        """End it in good order, data kept."""
        for name in self._process_names():
            self._end(name, processes.stop)

    def kill(self) -> None:
        """SIGKILL all its processes at once: a crash. The data stays as that leaves it."""
        for name in self._process_names():
            self._end(name, processes.kill)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing answers."""
        if self.record is not None:
            processes.freeze(self.record)

    def resume(self) -> None:
        """Let it go on after pause()."""
        if self.record is not None:
            processes.thaw(self.record)

    @abc.abstractmethod
    def wipe(self) -> None:
        """Kill it and delete its data. The next start() makes it anew: same port, same password."""

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """The address with the password. Valid while it is down, too."""

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """The address without user and password, fit to be shown."""

    @abc.abstractmethod
    def _choose_ports(self, *, keep_seconds: float | None) -> None:
        """Take the known ports, or others; with keep_seconds wait for the known ones, or fail."""

    @abc.abstractmethod
    def _prepare(self) -> None: ...

    @abc.abstractmethod
    def _launch(self) -> None: ...

    @abc.abstractmethod
    def _process_names(self) -> list[str]:
        """Name its processes in the order in which they are ended."""

    @property
    def _settings(self) -> dict[str, Any]:
        return self._state.services.setdefault(self.name, {})

    def _spawn(
        self,
        name: str,
        command: list[str | Path],
        *,
        environment: Mapping[str, str],
        marker: str,
        stop_signal: int,
        stop_seconds: float,
        account: processes.Account | None = None,
    ) -> subprocess.Popen[bytes]:
        child = processes.start(
            command,
            environment=environment,
            log=self.log,
            account=account,
            owner=self.directory,
        )
        record = processes.describe(
            child, marker=marker, stop_signal=stop_signal, stop_seconds=stop_seconds
        )
        self._state.record(name, record)
        self._children[name] = child  # last: whom we wait for must be known to be told to end
        return child

    def _await_ready(
        self, child: subprocess.Popen[bytes], *, timeout_seconds: float, poll_seconds: float
    ) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not self._is_ready():
            if child.poll() is not None:
                raise ServiceFailed(
                    f"{self.name} ended with code {child.returncode} instead of starting:\n"
                    + processes.log_tail(self.log)
                )
            if time.monotonic() > deadline:
                self.kill()
                raise ServiceFailed(
                    f"{self.name} was not ready within {timeout_seconds:.0f} s:\n"
                    + processes.log_tail(self.log)
                )
            time.sleep(poll_seconds)

    @abc.abstractmethod
    def _is_ready(self) -> bool: ...

    def _end(self, name: str, way: Callable[[ProcessRecord], None]) -> None:
        record = self._state.processes.get(name)
        if record is not None:
            way(record)
        child = self._children.get(name)
        if child is not None:
            child.wait(timeout=10)
        self._state.forget(name)

    def _forget_dead(self) -> None:
        """End the companions of a main process that died by itself."""
        if self.record is not None:
            self.kill()
