"""The servers and workers of a soak: struck, and started again, as by a process manager."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

import psutil

from headway_dev import ports
from headway_dev.children import Child
from headway_dev.errors import ServiceFailed
from headway_dev.processes import log_tail
from headway_dev.services import Services
from tests.end_to_end.stack import Stack
from tests.faults.waiting import until
from tests.faults.workers import Worker
from tests.soak.handlers import ROUGH

HANDLERS: Final = "tests.soak.handlers:jobs"
SETTINGS: Final = {
    "HEADWAY_LEASE_SECONDS": "6",
    "HEADWAY_HEARTBEAT_SECONDS": "2",
    "HEADWAY_HANDOFF_SECONDS": "4",
    "HEADWAY_DRAIN_SECONDS": "4",
    "HEADWAY_GRACE_SECONDS": "1",
    "HEADWAY_LOG_LEVEL": "info",
}
HANDOFF_SECONDS: Final = 4.0
LEAVING_SECONDS_MAX: Final = 60.0
"""For a drain in the midst of other faults."""
LOOK_SECONDS: Final = 0.5
PORT_TRIES_MAX: Final = 100


@dataclass(slots=True)
class Member:
    """A server or worker, whichever process it is by now."""

    name: str
    launch: Callable[[], Child]
    metrics_port: int
    child: Child | None = None
    in_hands: bool = False
    """Whether the nemesis has it, and sees to its start."""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_worker(self) -> bool:
        return self.name.startswith("worker")

    @property
    def process(self) -> Child:
        """Its main process: the latest."""
        assert self.child is not None
        return self.child

    @property
    def worker(self) -> Worker:
        """Its handle, if it is one."""
        assert self.is_worker
        return Worker(self.process)

    @property
    def alive(self) -> bool:
        return self.process.exit_code is None

    async def start(self) -> None:
        """Start it anew and wait until it is ready."""
        self.child = self.launch()
        await asyncio.to_thread(self.child.await_ready)

    async def restart(self) -> None:
        """See to it that nothing is left of the last one, and start it.

        Raises ServiceFailed if it does not get ready.
        """
        await asyncio.to_thread(self.process.kill)
        await self.start()

    async def leave(self) -> int:
        """Wait for an end that was asked for; returns the exit code."""
        await until(lambda: not self.alive, f"{self.name} leaves", seconds=LEAVING_SECONDS_MAX)
        assert self.process.exit_code is not None
        return self.process.exit_code


class Fleet:
    """Two servers and three workers; the first of each is left alone."""

    def __init__(
        self,
        services: Services,
        *,
        database_url: str,
        amqp_url: str,
        directory: Path,
        complain: Callable[[str], None],
        settings: Mapping[str, str] = SETTINGS,
    ) -> None:
        self._complain = complain
        self.stack = Stack(
            services,
            database_url=database_url,
            amqp_url=amqp_url,
            directory=directory,
            settings=settings,
        )
        self.members: dict[str, Member] = {}
        self.targets: list[str] = []

    def add_server(self) -> None:
        """One more server, not started yet."""
        target = f"{ports.LOOPBACK}:{ports.free_port()}"
        port = ports.free_port()
        self.targets.append(target)
        self._add(
            f"server-{len(self.targets)}",
            lambda: self.stack.start_server(HEADWAY_LISTEN=target, **_metrics(port)),
            port,
        )

    def add_worker(
        self, *, processes: int = 1, concurrency: int = 10, rough: bool = True, **settings: str
    ) -> None:
        """One more worker, not started yet."""
        port = _port_row(processes)
        queues = ("default", ROUGH) if rough else ("default",)
        options = ("--processes", str(processes), "--concurrency", str(concurrency))
        self._add(
            f"worker-{sum(member.is_worker for member in self.members.values()) + 1}",
            lambda: self.stack.start_worker(
                *options,
                *("--queues", ",".join(queues)),
                app=HANDLERS,
                **_metrics(port),
                **settings,
            ),
            port,
        )

    def _add(self, name: str, launch: Callable[[], Child], port: int) -> None:
        self.members[name] = Member(name, launch, port)

    async def start(self) -> None:
        """Start all and wait until all are ready."""
        await asyncio.gather(*(member.start() for member in self.members.values()))

    async def mind(self) -> None:
        """Start again what ends unasked, and complain: a loop, ended by cancellation."""
        while True:
            for member in self.members.values():
                if member.child is not None and not member.in_hands and not member.alive:
                    code = member.process.exit_code
                    tail = log_tail(member.process.log, lines=25)
                    self._complain(f"{member.name} ended by itself with {code}:\n{tail}")
                    with suppress(ServiceFailed):  # it ended again, and is found next time
                        await member.restart()
            await asyncio.sleep(LOOK_SECONDS)

    async def leave(self) -> None:
        """End all in good order: workers, then servers. Complains of any that does not."""
        for role in ("worker", "server"):
            leaving = [member for name, member in self.members.items() if name.startswith(role)]
            for member in leaving:
                member.in_hands = True
                found = member.process.record.find()
                if found is not None:
                    found.terminate()
            for member, code in zip(
                leaving,
                await asyncio.gather(
                    *(member.leave() for member in leaving), return_exceptions=True
                ),
                strict=True,
            ):
                if code != 0:
                    tail = log_tail(member.process.log, lines=25)
                    self._complain(f"{member.name} left with {code} when asked to:\n{tail}")

    def worker_ids(self, processes: Iterable[psutil.Process]) -> list[UUID]:
        """In whose names the executors among these processes run jobs."""
        found = (_option(process, "--worker-id") for process in processes)
        return [UUID(text) for text in found if text]

    def processes(self) -> Iterator[tuple[str, psutil.Process, int | None]]:
        """Role, process and the port of its metrics, of all that live now."""
        for member in self.members.values():
            main = member.child.record.find() if member.child is not None else None
            if main is None:
                continue
            if not member.is_worker:
                yield "server", main, member.metrics_port
                continue
            yield "supervisor", main, None
            for executor in member.worker.executors():
                yield "worker", executor, member.metrics_port + _number(executor)


def _metrics(port: int) -> dict[str, str]:
    return {"HEADWAY_METRICS_LISTEN": f"{ports.LOOPBACK}:{port}"}


def _port_row(count: int) -> int:
    """A port that is free, with those after it: one for each executor."""
    for _ in range(PORT_TRIES_MAX):
        port = ports.free_port()
        if not any(ports.is_taken(port + more) for more in range(1, count)):
            return port
    raise OSError(f"no {count} free ports in a row")


def _number(executor: psutil.Process) -> int:
    """Which one of its worker's executors it is."""
    return int(_option(executor, "--number") or 0)


def _option(process: psutil.Process, name: str) -> str | None:
    """What its command line says after this word; None if it has ended, too."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return None
    return words[words.index(name) + 1] if name in words else None
