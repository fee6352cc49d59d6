"""A whole Headway of real processes, made to be ill-treated, and judged afterwards.

A rig keeps its database, virtual host and server for the tests of one file; workers are each
test's own. `arm` sets failpoints in all its processes at once; `judge` waits until nothing is on
its way and then checks the whole history. The fixtures judge if a test has not, and `recover`.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from headway import Job, Submission
from headway.client import Client
from headway_core.database import Database
from headway_core.failpoints import VARIABLE
from headway_core.states import EventType, JobState
from headway_dev import ports
from headway_dev.children import Child
from headway_dev.services import Services
from tests.end_to_end.stack import Stack
from tests.faults import evidence, handlers
from tests.faults.broker import Broker
from tests.faults.followers import Followers
from tests.faults.history import check
from tests.faults.journal import Journal
from tests.faults.waiting import PATIENCE_SECONDS, insist, until
from tests.faults.workers import Worker

HANDLERS: Final = "tests.faults.handlers:jobs"
LEASE_SECONDS: Final = 3.0
INTERRUPTED_ONCE: Final = ["SUBMITTED", "STARTED", "INTERRUPTED", "STARTED", "COMPLETED"]
"""The history, as `Rig.history` tells it, of a job whose first run was cut off."""
SETTINGS: Final = {
    "HEADWAY_LEASE_SECONDS": str(LEASE_SECONDS),
    # The reaper takes a tick that is later than a heartbeat for its own sleep, and waits.
    "HEADWAY_HEARTBEAT_SECONDS": "1",
    "HEADWAY_HANDOFF_SECONDS": "1.5",
    "HEADWAY_DRAIN_SECONDS": "4",
    "HEADWAY_GRACE_SECONDS": "1",
    "HEADWAY_LOG_LEVEL": "info",
}
FOLLOWED: Final = 2
"""So many jobs of each submission have a watcher that stays with them to the end,"""
FOLLOWED_MAX: Final = 40
"""and so many of a test."""


class Rig:
    """See the module."""

    def __init__(
        self,
        services: Services,
        *,
        database_url: str,
        amqp_url: str,
        directory: Path,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.services = services
        self._plan = directory / "failpoints" / "plan"
        self._plan.parent.mkdir()
        self.stack = Stack(
            services,
            database_url=database_url,
            amqp_url=amqp_url,
            directory=directory,
            settings={**SETTINGS, VARIABLE: str(self._plan), **(settings or {})},
        )
        self.broker = Broker(amqp_url)
        self.lease_seconds = float(self.stack.settings["HEADWAY_LEASE_SECONDS"])
        self.accepted: set[UUID] = set()
        self._runs = self.journal()
        self._notices: Counter[UUID] = Counter()
        self.judged = False
        """Whether all that was accepted so far has been checked."""
        self._workers: list[Worker] = []
        self._others: list[Child] = []
        self._followers: Followers | None = None
        self.server: Child
        self.elsewhere = ""

    def start_server(self) -> None:
        """Start the server, at the same address each time, and wait until it is ready."""
        self.server = self.stack.start_server()
        self.server.await_ready()

    async def restart_server(self) -> None:
        """Wait for the end of the server, which some fault brings about, and start it again."""
        await until(lambda: self.server.exit_code is not None, "the server ends")
        await asyncio.to_thread(self.start_server)

    async def start_elsewhere(self, **settings: str) -> Child:
        """Start a second server, at `elsewhere`; it is stopped after the test."""
        self.elsewhere = f"{ports.LOOPBACK}:{ports.free_port()}"
        other = self.stack.start_server(HEADWAY_LISTEN=self.elsewhere, **settings)
        self._others.append(other)
        await asyncio.to_thread(other.await_ready)
        return other

    async def worker(self, *options: str, wait: bool = True, **settings: str) -> Worker:
        """Start a worker, with 10 slots in one process unless told otherwise."""
        settings.setdefault(handlers.JOURNAL, str(self._runs))
        worker = Worker(self.stack.start_worker(*options, app=HANDLERS, **settings))
        self._workers.append(worker)
        if wait:
            await worker.ready()
        return worker

    async def workers(self, count: int, *options: str, **settings: str) -> list[Worker]:
        """Start several together and wait until all are ready."""
        started = [await self.worker(*options, wait=False, **settings) for _ in range(count)]
        for worker in started:
            await worker.ready()
        return started

    def client(self) -> Client:
        """A client of the server, patient enough for a busy machine."""
        return Client(self.stack.target, call_timeout=30, reconnect_timeout=PATIENCE_SECONDS)

    def journal(self) -> Journal:
        """A new journal for handlers to write."""
        return Journal(self.stack.path("journal"))

    def gate(self) -> Path:
        """A file for handlers to wait for: it lets them go once it is touched."""
        return self.stack.path("gate")

    def arm(self, plan: str) -> None:
        """Set failpoints in every process of the rig, their hits counted from 1."""
        for file in self._plan.parent.glob("*.*"):
            file.unlink()
        # In one step: a process may be reading.
        draft = self._plan.with_name("draft")
        draft.write_text(plan)
        draft.replace(self._plan)

    def hits(self, name: str) -> list[int]:
        """The processes that reached a failpoint since it was armed, in order of their hits."""
        found = sorted(self._plan.parent.glob(f"{name}.*"), key=lambda file: int(file.suffix[1:]))
        return [int(file.read_text() or 0) for file in found]

    async def hit(self, name: str, *, times: int = 1) -> None:
        """Wait until a failpoint was reached so often: that its fault has really happened."""
        await until(lambda: len(self.hits(name)) >= times, f"failpoint {name}")

    async def submit(
        self,
        client: Client,
        count: int,
        type_: str = "fault.work",
        /,
        *,
        followed: int = FOLLOWED,
        **payload: Any,
    ) -> list[Job]:
        """Submit jobs in one commit, as often as it takes; `followed` of them get a watcher."""
        given = [
            replace(Submission(type_, payload), idempotency_key=str(uuid4())) for _ in range(count)
        ]
        jobs = await insist(lambda: client.submit_many(given))
        self.accept(jobs, followed=followed)
        return list(jobs)

    def accept(self, jobs: Sequence[Job], *, followed: int = FOLLOWED) -> None:
        """Remember what was answered: the checker asks for it. Some are followed from now on."""
        self.accepted.update(UUID(job.id) for job in jobs)
        self.judged = False
        room = FOLLOWED_MAX - (len(self._followers) if self._followers else 0)
        self.follow([job.id for job in jobs[: min(followed, room)]])

    def follow(self, job_ids: Iterable[str]) -> None:
        """Give these jobs a watcher each; `judge` compares what it saw with what is stored."""
        if self._followers is None:
            self._followers = Followers(self.client())
        self._followers.follow(job_ids)

    async def done(self, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until every accepted job is done."""
        left = "SELECT count(*) FROM jobs WHERE id = ANY ($1) AND state = ANY ($2)"
        going = [state for state in JobState if not state.done]

        async def none_left() -> bool:
            rows = await self.query(left, list(self.accepted), going)
            return bool(rows) and rows[0][0] == 0

        await until(none_left, "every job is done", seconds=seconds, tell=self.describe)

    async def describe(self) -> str:
        """How the jobs stand, for a test that fails."""
        return await evidence.described(self.query)

    async def judge(self, *, without_fault: bool = False) -> None:
        """Wait for rest, let the workers drain, and check everything there is."""
        self.arm("")
        await self.done()
        await until(self._outbox_empty, "the outbox is empty", tell=self.describe)
        await until(self.broker.nothing_ready, "the work queue is empty")
        await asyncio.gather(*(worker.drain() for worker in self._workers if worker.alive))
        self._workers.clear()
        # What was in a hand unacked is ready again by now.
        assert await self.broker.nothing_ready(), "a message was never acked"
        violations = await self.violations(at_rest=True, without_fault=without_fault)
        assert not violations, "\n".join(violations)
        violations = await self._compare(without_fault=without_fault)
        assert not violations, "\n".join(violations)
        self.judged = True

    async def _compare(self, *, without_fault: bool) -> list[str]:
        """Compare the tables with what watchers, handlers and the broker know."""
        words = []
        if self._followers is not None:
            connection = await asyncpg.connect(self.stack.database_url, timeout=10)
            try:
                words += await self._followers.violations(connection, seconds=PATIENCE_SECONDS)
            finally:
                await connection.close(timeout=10)
        words += await evidence.executions_found(
            self.query, self._runs.runs(), without_fault=without_fault
        )
        words += await evidence.keys_found(self.query)
        self._notices += await self.broker.take_notices()
        return words + evidence.unnoticed(await evidence.deaths(self.query), self._notices)

    async def wipe(self) -> None:
        """Kill the broker, delete its data, start it again. Notices of earlier deaths are lost."""
        self._notices = Counter(await evidence.deaths(self.query))
        await asyncio.to_thread(self.services.rabbitmq.wipe)
        await asyncio.to_thread(self.services.rabbitmq.start)

    async def violations(self, *, at_rest: bool, without_fault: bool = False) -> list[str]:
        """What the history checker says now."""
        database = await Database.connect(self.stack.database_url, name="judge", size=2)
        try:
            return await check(
                database, at_rest=at_rest, accepted=self.accepted, without_fault=without_fault
            )
        finally:
            await database.close()

    async def recover(self) -> None:
        """After a test, whatever became of it: services answer; no fault, worker or job is left."""
        self.arm("")
        if self._followers is not None:
            await self._followers.close()
            self._followers = None
        self.services.postgres.resume()
        self.services.rabbitmq.resume()
        await asyncio.to_thread(self.services.start)
        for other in self._others:
            other.resume()
            await asyncio.to_thread(other.stop)
        self._others.clear()
        self.server.resume()
        if self.server.exit_code is not None:
            await asyncio.to_thread(self.start_server)
        await asyncio.gather(*(asyncio.to_thread(worker.kill) for worker in self._workers))
        self._workers.clear()
        await until(self._forget_jobs, "the tables are empty")
        await until(self.broker.forget, "the queues are empty, and nobody consumes")
        self.accepted.clear()
        self._notices.clear()
        self._runs = self.journal()
        self.judged = True

    async def query(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the database; nothing while it is away."""
        try:
            connection = await asyncpg.connect(self.stack.database_url, timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return []
        try:
            return await connection.fetch(statement, *arguments, timeout=20)
        except (OSError, TimeoutError, asyncpg.PostgresConnectionError):
            return []
        finally:
            connection.terminate()

    async def history(self, job_id: UUID | str) -> list[str]:
        """The events of a job, QUEUED left out: it may be there or not."""
        return [type_ for type_, _, _ in await self.causes(job_id)]

    async def causes(self, job_id: UUID | str) -> list[tuple[str, int, str]]:
        """The same as (type, attempt, message)."""
        rows = await self.query(
            "SELECT type, attempt, message FROM job_events "
            "WHERE job_id = $1 AND type <> $2 ORDER BY sequence",
            UUID(str(job_id)),
            EventType.QUEUED,
        )
        return [(EventType(row["type"]).name, row["attempt"], row["message"]) for row in rows]

    async def _outbox_empty(self) -> bool:
        rows = await self.query("SELECT count(*) FROM outbox")
        return bool(rows) and rows[0][0] == 0

    async def _forget_jobs(self) -> bool:
        await self.query(
            "TRUNCATE jobs, job_events, runs, outbox, idempotency_keys, job_steps, dead_letters"
        )
        rows = await self.query("SELECT count(*) FROM jobs")
        return bool(rows) and rows[0][0] == 0
