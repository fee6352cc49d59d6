"""A server and workers as real processes, on a database and a virtual host of their own."""

import asyncio
import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from headway import Event, Job, JobState
from headway.client import Client
from headway_dev import ports
from headway_dev.children import Child, headway_script, stop_all
from headway_dev.services import Services

Result = TypeVar("Result")

ROOT = Path(__file__).parent.parent.parent
HANDLERS = "tests.end_to_end.handlers:jobs"
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 60.0
STOP_SECONDS = 60.0
# Seconds instead of a quarter of a minute: for tests that wait for a lease to lapse.
# The reaper takes a tick that is a heartbeat late for its own sleep, and waits: not shorter.
SHORT_LEASES = {"HEADWAY_LEASE_SECONDS": "3", "HEADWAY_HEARTBEAT_SECONDS": "1.2"}


class Stack:
    """Starts and stops the processes that share one database and one virtual host.

    They run in the root of the repository, with logs in `directory`; what is left of them at the
    end of the session, however that comes, is ended by the guardian of `services`.
    """

    numbers = itertools.count(1)

    def __init__(
        self,
        services: Services,
        *,
        database_url: str,
        amqp_url: str,
        directory: Path,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.services = services
        self.database_url = database_url
        self.amqp_url = amqp_url
        self.directory = directory
        self.target = f"{ports.LOOPBACK}:{ports.free_port()}"
        self.settings = dict(settings or {})
        self._name = f"stack-{next(self.numbers)}"
        self._children: list[Child] = []

    @property
    def environment(self) -> dict[str, str]:
        """What all processes here are told, commands of the client too."""
        return {
            "HEADWAY_DATABASE_URL": self.database_url,
            "HEADWAY_AMQP_URL": self.amqp_url,
            "HEADWAY_LISTEN": self.target,
            "HEADWAY_TARGET": self.target,
            "HEADWAY_REFLECTION": "true",
            "HEADWAY_LOG_FORMAT": "json",
            "PYTHONPATH": str(ROOT),
            **self.settings,
        }

    def start_server(self, *options: str, **settings: str) -> Child:
        """Start `headway server OPTIONS`; not ready yet."""
        return self._start("server", ["server", *options], settings)

    def start_worker(self, *options: str, app: str = HANDLERS, **settings: str) -> Child:
        """Start `headway worker APP OPTIONS`; not ready yet."""
        return self._start("worker", ["worker", app, *options], settings)

    def start(self, *, workers: int = 1, options: tuple[str, ...] = ()) -> list[Child]:
        """Start a server and workers together and wait until all are ready."""
        children = [self.start_server(), *(self.start_worker(*options) for _ in range(workers))]
        for child in children:
            child.await_ready()
        return children

    def stop(self, *, keep: int = 0) -> None:
        """Stop what still runs, all at once, but for the `keep` that were started first."""
        stop_all([child for child in self._children[keep:] if child.exit_code is None])
        del self._children[keep:]

    def client(self) -> Client:
        """A client of this server."""
        return Client(self.target, call_timeout=60, reconnect_timeout=60)

    def path(self, name: str) -> Path:
        """A new path for a journal or a signal."""
        return self.directory / f"{next(self.numbers)}-{name}"

    def _start(self, role: str, arguments: list[str], settings: Mapping[str, str]) -> Child:
        child = Child(
            f"{self._name}-{role}-{next(self.numbers)}",
            arguments,
            state=self.services.state,
            directory=self.directory,
            environment={**self.environment, **settings},
            stop_seconds=STOP_SECONDS,
        )
        self._children.append(child)
        return child


class Gate:
    """What jobs wait for: a file, since that is seen in every process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def open(self) -> None:
        """Let them go on."""
        self._path.touch()


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command has left."""

    code: int
    output: str
    errors: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its output, one JSON object a line."""
        return [json.loads(line) for line in self.output.splitlines()]


async def run(
    *command: str | Path,
    environment: Mapping[str, str] | None = None,
    directory: Path = ROOT,
    timeout: float = PATIENCE_SECONDS,
) -> Ran:
    """Run a command to its end; `environment` is added to ours."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        cwd=directory,
    )
    try:
        async with asyncio.timeout(timeout):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ran(process.returncode, output.decode(), errors.decode())


def headway() -> Path:
    """The command under test."""
    return headway_script()


def journal(path: Path, what: str = "begin") -> list[dict[str, Any]]:
    """The runs that handlers have noted, oldest first."""
    if not path.exists():
        return []
    lines = map(json.loads, path.read_text().splitlines())
    return [line for line in lines if line["what"] == what]


async def eventually(
    answer: Callable[[], Result], *, what: str, seconds: float = PATIENCE_SECONDS
) -> Result:
    """Ask again and again until the answer is true; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := answer()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(POLL_SECONDS)
    return found


async def reaches(
    client: Client, job_id: str, *states: JobState, seconds: float = PATIENCE_SECONDS
) -> Job:
    """Wait until a job is in one of these states; return it as it is then."""
    deadline = time.monotonic() + seconds
    while (job := await client.get(job_id, full=True)).state not in states:
        assert time.monotonic() < deadline, f"{job.state} after {seconds:g} s, not {states}: {job}"
        await asyncio.sleep(POLL_SECONDS)
    return job


async def history(client: Client, job_id: str) -> list[Event]:
    """All events of a job that is done, their numbers checked."""
    async with contextlib.aclosing(client.watch(job_id, after_sequence=0)) as updates:
        events = [update async for update in updates if isinstance(update, Event)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return events


def kinds(events: list[Event]) -> list[str]:
    """The types of events, for comparing."""
    return [str(event.type) for event in events]


def query(url: str, statement: str, *arguments: object) -> list[asyncpg.Record]:
    """Ask a database, from a thread with a loop of its own: the test's loop is left alone."""

    async def ask() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url, timeout=30)
        try:
            return await connection.fetch(statement, *arguments, timeout=30)
        finally:
            await connection.close(timeout=30)

    return _apart(ask)


def _apart(function: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(function())).result()
