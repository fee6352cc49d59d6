"""Where it all happens: private services with production durability, a fresh place for each run.

A place is an empty database and an empty virtual host, so that no run pays for the history of
another. Headway runs in it as real processes, started as a user would start them.
"""

import asyncio
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import asyncpg
import psutil

from bench.cpu import Watched
from bench.program import ROOT
from headway_core.states import JobState
from headway_dev import ports
from headway_dev.children import Child, stop_all
from headway_dev.schema import migrate
from headway_dev.services import AMQP_VARIABLE, DATABASE_VARIABLE, Services, private_services

DIRECTORY = ROOT / ".cache" / "bench"
HANDLERS = "bench.handlers:jobs"
# Durability is PostgreSQL's default: fsync and synchronous_commit on.
POSTGRES_SETTINGS = {
    "shared_buffers": "512MB",
    "max_connections": "200",
    "max_wal_size": "4GB",
}
TEMPLATE = "bench_template"
VHOSTS_AT_ONCE = 16
STOP_SECONDS = 20.0
# Times are read from the database afterwards: a rare look disturbs less, and costs no accuracy.
POLL_SECONDS = 0.25
PATIENCE_SECONDS = 170.0
TRACES = {"default": {}, "all": {"HEADWAY_TRACES_PER_SECOND": "1000000"}}
TRACES["off"] = {"HEADWAY_TRACES_PER_SECOND": "0"}


@dataclass(frozen=True, slots=True)
class Ran:
    """How many jobs have completed; Unix times of the first start and the last completion."""

    completed: int
    first_start: float
    last_end: float


@dataclass(frozen=True, slots=True)
class Place:
    """A database and a virtual host that nobody else uses."""

    name: str
    database_url: str
    amqp_url: str
    connection: "asyncpg.Connection[asyncpg.Record]"

    async def until(self, condition: str, *arguments: object) -> None:
        """Wait until a condition in SQL holds. Raises TimeoutError after three minutes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            statement = f"SELECT {condition}"
            while not await self.connection.fetchval(statement, *arguments):  # noqa: ASYNC110 - over there
                await asyncio.sleep(POLL_SECONDS)

    async def ran(self, *, at_least: int) -> Ran:
        """Sum up the completed jobs; the composite names states and times as Headway does.

        Raises RuntimeError if they are too few.
        """
        row = await self.connection.fetchrow(
            "SELECT count(*) AS completed, extract(epoch FROM min(start_time))::float8 AS start,"
            " extract(epoch FROM max(end_time))::float8 AS end FROM jobs WHERE state = $1",
            int(JobState.COMPLETED),
        )
        assert row is not None
        if row["completed"] < at_least:
            raise RuntimeError(f"{row['completed']} of {at_least} jobs completed")
        return Ran(row["completed"], row["start"], row["end"])


class Stage:
    """Private services, and places in them."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._numbers = itertools.count(1)
        self._vhosts: list[str] = []
        self._used_vhosts: list[str] = []

    @classmethod
    @contextmanager
    def open(cls, directory: Path = DIRECTORY) -> Iterator[Self]:
        """Start the services; nothing of them is left at the end.

        Always private ones: databases are made and dropped, and settings are known.
        """
        for variable in (DATABASE_VARIABLE, AMQP_VARIABLE):
            os.environ.pop(variable, None)
        with private_services(
            directory, start=False, postgres_settings=POSTGRES_SETTINGS
        ) as services:
            services.erase()
            services.start()
            try:
                yield cls(services)
            finally:
                services.erase()

    @property
    def directory(self) -> Path:
        """Where logs and other files of a run may go."""
        return self.services.directory

    @asynccontextmanager
    async def place(self, *, migrated: bool) -> AsyncIterator[Place]:
        """Make a place, with Headway's tables or empty, and remove it afterwards."""
        name = f"bench_{next(self._numbers)}"
        administrator = await asyncpg.connect(self.services.database_url)
        try:
            template = await self._template(administrator) if migrated else "template1"
            await administrator.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
            await administrator.execute("CHECKPOINT")
            url = self.services.postgres.url_of(name)
            connection = await asyncpg.connect(url)
            try:
                # The poll must not walk tables that grow.
                await connection.execute("SET enable_seqscan = off")
                yield Place(name, url, self._vhost(), connection)
            finally:
                await connection.close()
                await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            await administrator.close()

    def watched(self) -> dict[str, Watched]:
        """The services, for a CpuMeter."""
        processes = self.services.state.processes
        return {name: Watched(processes[name].pid) for name in ("postgres", "rabbitmq")}

    async def _template(self, administrator: "asyncpg.Connection[asyncpg.Record]") -> str:
        known = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
        if not await administrator.fetchval(known, TEMPLATE):
            await administrator.execute(f"CREATE DATABASE {TEMPLATE}")
            await asyncio.to_thread(migrate, self.services.postgres.url_of(TEMPLATE))
        return TEMPLATE

    def _vhost(self) -> str:
        if not self._vhosts:
            numbers = (next(self._numbers) for _ in range(VHOSTS_AT_ONCE))
            self._vhosts = [f"bench-{number}" for number in numbers]
            self.services.rabbitmq.replace_vhosts(old=self._used_vhosts, new=self._vhosts)
            self._used_vhosts = []
        name = self._vhosts.pop()
        self._used_vhosts.append(name)
        return self.services.rabbitmq.url_of(name)


class Headway:
    """A server and workers in a place of their own."""

    subject = "headway"

    def __init__(self, stage: Stage, place: Place, directory: Path, traces: str) -> None:
        self.stage = stage
        self.place = place
        self.address = f"{ports.LOOPBACK}:{ports.free_port()}"
        self._directory = directory
        self._environment = {
            "HEADWAY_DATABASE_URL": place.database_url,
            "HEADWAY_AMQP_URL": place.amqp_url,
            "HEADWAY_TRACE_DIR": str(directory / "traces"),
            "HEADWAY_LOG_FORMAT": "json",
            "HEADWAY_DRAIN_SECONDS": "1",
            "PYTHONPATH": str(ROOT),
            **TRACES[traces],
        }
        self._children: dict[str, Child] = {}

    @classmethod
    @asynccontextmanager
    async def running(
        cls, stage: Stage, *, slots: int | None = None, traces: str = "default"
    ) -> AsyncIterator[Self]:
        """Start a server, and a worker if `slots` says how many jobs it may run at a time."""
        async with stage.place(migrated=True) as place:
            with tempfile.TemporaryDirectory(dir=stage.directory, prefix="run-") as directory:
                headway = cls(stage, place, Path(directory), traces)
                try:
                    await headway._start("server", ["server", "--listen", headway.address])
                    if slots:
                        await headway.start_worker(slots)
                    yield headway
                finally:
                    await asyncio.to_thread(stop_all, list(headway._children.values()))

    async def start_worker(self, slots: int) -> None:
        """Start a worker with one executor and wait until it takes jobs."""
        await self._start("worker", ["worker", HANDLERS, "--concurrency", str(slots)])

    def pid(self, role: str) -> int:
        """The process ID of the server, the worker's supervisor or its executor."""
        match role:
            case "server":
                return self._children["server"].record.pid
            case "supervisor":
                return self._children["worker"].record.pid
            case "executor":
                return int(psutil.Process(self.pid("supervisor")).children()[0].pid)
            case _:
                raise ValueError(role)

    def watched(self) -> dict[str, Watched]:
        """All processes there are, for a CpuMeter."""
        found = {"server": Watched(self.pid("server"))}
        if "worker" in self._children:
            found["supervisor"] = Watched(self.pid("supervisor"), alone=True)
            found["executor"] = Watched(self.pid("executor"))
        return found | self.stage.watched()

    async def until_relayed(self) -> None:
        """Wait until the broker has every job, and the table says so."""
        await self.place.until(
            "NOT EXISTS (SELECT FROM outbox) AND NOT EXISTS"
            " (SELECT FROM jobs WHERE wait_time IS NOT NULL AND state = $1)",
            int(JobState.PENDING),
        )

    async def until_done(self) -> None:
        """Wait until no job waits or runs."""
        await self.place.until(
            "NOT EXISTS (SELECT FROM jobs WHERE wait_time IS NOT NULL)"
            " AND NOT EXISTS (SELECT FROM runs)"
        )

    async def _start(self, role: str, arguments: list[str]) -> None:
        child = Child(
            f"{self.place.name}-{role}",
            arguments,
            state=self.stage.services.state,
            directory=self._directory,
            environment=self._environment,
            stop_seconds=STOP_SECONDS,
        )
        self._children[role] = child
        await asyncio.to_thread(child.await_ready)
