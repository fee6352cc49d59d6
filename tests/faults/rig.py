"""A whole Headway of real processes, made to be ill-treated, and judged afterwards.

A rig keeps its database, virtual host and server from test to test; workers are each test's own.
`arm` sets failpoints in all its processes at once; `judge` waits until nothing is on its way and
then checks the whole history.
"""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import aio_pika
import asyncpg
import psutil

from headway import Job, Submission
from headway.client import Client
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.failpoints import VARIABLE
from headway_core.states import JobState
from headway_core.topology import dead_queue, job_queue
from headway_dev import ports
from headway_dev.children import Child
from headway_dev.services import Services
from tests.end_to_end.stack import Stack
from tests.faults.history import check

HANDLERS: Final = "tests.faults.handlers:jobs"
SETTINGS: Final = {
    "HEADWAY_LEASE_SECONDS": "3",
    # The reaper takes a tick that is later than a heartbeat for its own sleep, and waits.
    "HEADWAY_HEARTBEAT_SECONDS": "1",
    "HEADWAY_HANDOFF_SECONDS": "1.5",
    "HEADWAY_DRAIN_SECONDS": "4",
    "HEADWAY_GRACE_SECONDS": "1",
    "HEADWAY_LOG_LEVEL": "info",
}
PATIENCE_SECONDS: Final = 40.0
LOOK_SECONDS: Final = 0.02
QUEUE: Final = "default"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a journal."""

    what: str
    job_id: str
    attempt: int
    pid: int
    child: bool
    time: float


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
        self.directory = directory
        self._plan = directory / "failpoints" / "plan"
        self._plan.parent.mkdir()
        self._retired = 0
        self.stack = Stack(
            services,
            database_url=database_url,
            amqp_url=amqp_url,
            directory=directory,
            settings={**SETTINGS, VARIABLE: str(self._plan), **(settings or {})},
        )
        self.accepted: set[UUID] = set()
        self.wiped = False
        """Whether the broker lost its data, notices of dead letters included."""
        self._workers: list[Worker] = []
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

    def start_elsewhere(self) -> Child:
        """Start a second server, at `elsewhere`; the test stops it."""
        self.elsewhere = f"{ports.LOOPBACK}:{ports.free_port()}"
        return self.stack.start_server(HEADWAY_LISTEN=self.elsewhere)

    async def worker(self, *options: str, wait: bool = True, **settings: str) -> "Worker":
        """Start a worker, with 10 slots in one process unless told otherwise."""
        worker = Worker(self.stack.start_worker(*options, app=HANDLERS, **settings))
        self._workers.append(worker)
        if wait:
            await worker.ready()
        return worker

    async def workers(self, count: int, *options: str, **settings: str) -> "list[Worker]":
        """Start several together and wait until all are ready."""
        started = [await self.worker(*options, wait=False, **settings) for _ in range(count)]
        for worker in started:
            await worker.ready()
        return started

    def client(self) -> Client:
        """A client of the server."""
        return self.stack.client()

    def journal(self) -> "Journal":
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

    async def hit(self, name: str, *, times: int = 1, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a failpoint was reached so often: that its fault has really happened."""
        await until(lambda: len(self.hits(name)) >= times, f"failpoint {name}", seconds=seconds)

    async def submit(
        self, client: Client, count: int, type_: str = "fault.work", **payload: Any
    ) -> list[Job]:
        """Submit jobs in one commit."""
        jobs = await client.submit_many([Submission(type_, payload) for _ in range(count)])
        self.accept(jobs)
        return list(jobs)

    def accept(self, jobs: Iterable[Job]) -> None:
        """Remember what was answered: the checker asks for it."""
        self.accepted.update(UUID(job.id) for job in jobs)

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
        rows = await self.query(
            "SELECT state, count(*), min(id::text) AS one FROM jobs GROUP BY state ORDER BY state"
        )
        lines = [f"{JobState(row['state']).name} {row['count']} {row['one']}" for row in rows]
        outbox = await self.query("SELECT * FROM outbox LIMIT 5")
        lines += [f"outbox {dict(row)}" for row in outbox]
        going = await self.query(
            "SELECT e.job_id, sequence, type, message, time FROM job_events AS e "
            "WHERE job_id IN (SELECT id FROM jobs WHERE state NOT IN (4, 6, 7) LIMIT 2) "
            "ORDER BY job_id, sequence"
        )
        return "\n".join([*lines, *(str(dict(row)) for row in going)])

    async def judge(self, *, without_fault: bool = False) -> None:
        """Wait for rest, let the workers drain, and check everything there is."""
        self.arm("")
        await self.done()
        await until(self._outbox_empty, "the outbox is empty", tell=self.describe)
        await until(self._no_messages, "the work queue is empty")
        await asyncio.gather(*(worker.drain() for worker in self._workers if worker.alive))
        self._workers.clear()
        # What was in a hand unacked is ready again by now.
        assert await self._no_messages(), "a message was never acked"
        database = await Database.connect(self.stack.database_url, name="judge", size=2)
        try:
            violations = await check(
                database, at_rest=True, accepted=self.accepted, without_fault=without_fault
            )
            dead = {
                row["job_id"] for row in await database.fetch("SELECT job_id FROM dead_letters")
            }
        finally:
            await database.close()
        assert not violations, "\n".join(violations)
        if not self.wiped:
            letters = await self._dead_letters()
            assert dead <= letters, f"dead, and not in the dead queue: {dead - letters}"

    async def recover(self) -> None:
        """After a test, whatever became of it: no fault, no worker, no job left."""
        self.arm("")
        self.services.postgres.resume()
        self.services.rabbitmq.resume()
        await asyncio.to_thread(self.services.start)
        if self.server.exit_code is not None:
            await asyncio.to_thread(self.start_server)
        self.server.resume()
        await asyncio.gather(*(asyncio.to_thread(worker.kill) for worker in self._workers))
        self._workers.clear()
        await self.query(
            "TRUNCATE jobs, job_events, runs, outbox, idempotency_keys, job_steps, dead_letters"
        )
        self.accepted.clear()
        async with await aio_pika.connect(self.stack.amqp_url) as connection:
            for name in (job_queue(QUEUE), dead_queue(QUEUE)):
                with suppress(aio_pika.exceptions.AMQPError):
                    channel = await connection.channel()
                    await (await channel.get_queue(name)).purge()
        self.wiped = False

    def logs(self) -> str:
        """What all processes have written."""
        return self.stack.logs()

    async def query(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the database; nothing while it is away."""
        try:
            connection = await asyncpg.connect(self.stack.database_url, timeout=5)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return []
        try:
            return await connection.fetch(statement, *arguments, timeout=20)
        except (OSError, TimeoutError, asyncpg.PostgresConnectionError, StoreUnavailable):
            return []
        finally:
            connection.terminate()

    async def history(self, job_id: UUID | str) -> list[str]:
        """The events of a job with their messages, QUEUED left out: it may be there or not."""
        rows = await self.query(
            "SELECT type, message FROM job_events WHERE job_id = $1 AND type <> 2 "
            "ORDER BY sequence",
            UUID(str(job_id)),
        )
        names = {1: "SUBMITTED", 3: "STARTED", 4: "STEP", 5: "RETRY", 6: "INTERRUPTED"}
        names |= {7: "SNOOZED", 8: "DECLINED", 9: "CANCEL_REQUESTED", 10: "COMPLETED"}
        names |= {11: "DEAD", 12: "CANCELLED", 13: "REPLAYED"}
        return [names[row["type"]] for row in rows]

    async def ready_messages(self) -> int:
        """Messages ready in the work queue, as the broker says."""
        async with await aio_pika.connect(self.stack.amqp_url) as connection:
            channel = await connection.channel()
            found = await channel.declare_queue(job_queue(QUEUE), passive=True)
            return found.declaration_result.message_count or 0

    async def _outbox_empty(self) -> bool:
        rows = await self.query("SELECT count(*) FROM outbox")
        return bool(rows) and rows[0][0] == 0

    async def _no_messages(self) -> bool:
        return await self.ready_messages() == 0

    async def _dead_letters(self) -> set[UUID]:
        """Take the notices of deaths."""
        found = set()
        async with await aio_pika.connect(self.stack.amqp_url) as connection:
            queue = await (await connection.channel()).get_queue(dead_queue(QUEUE))
            while (message := await queue.get(no_ack=True, fail=False)) is not None:
                found.add(UUID(json.loads(message.body)["job_id"]))
        return found


class Worker:
    """A `headway worker` with its executors."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.family: set[psutil.Process] = set()

    async def ready(self) -> None:
        """Wait until it consumes."""
        await asyncio.to_thread(self.child.await_ready)
        self.executors()

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

    def executors(self) -> list[psutil.Process]:
        """Its executors now."""
        found = [
            process
            for process in self.supervisor.children()
            if any("headway_worker.executor" in word for word in _command(process))
        ]
        self.family.update(found)
        return found

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

    async def drain(self, *, seconds: float = 15.0) -> None:
        """SIGTERM; it has to leave with 0."""
        self.supervisor.send_signal(signal.SIGTERM)
        await self.ended(seconds=seconds)
        assert self.child.exit_code == 0, self.child.log.read_text()[-3000:]

    async def ended(self, *, seconds: float = 15.0) -> None:
        """Wait for its end."""
        await until(lambda: self.child.exit_code is not None, "the worker ends", seconds=seconds)


class Journal:
    """What handlers have noted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def lines(self, what: str = "begin") -> list[Line]:
        """The lines of a kind, oldest first."""
        if not self.path.exists():
            return []
        lines = [Line(**json.loads(line)) for line in self.path.read_text().splitlines()]
        return [line for line in lines if line.what == what]

    def runs(self) -> Counter[str]:
        """How often each job began."""
        return Counter(line.job_id for line in self.lines())

    async def begun(self, count: int, *, seconds: float = PATIENCE_SECONDS) -> list[Line]:
        """Wait until so many runs have begun."""
        await until(
            lambda: len(self.lines()) >= count,
            f"{count} runs, of which {len(self.lines())} began",
            seconds=seconds,
        )
        return self.lines()


async def until(
    holds: Callable[[], Any],
    what: str,
    *,
    seconds: float = PATIENCE_SECONDS,
    tell: Callable[[], Any] | None = None,
) -> float:
    """Ask until the answer, or what it awaits, is true; return how long that took."""
    begun = time.monotonic()
    while True:
        answer = holds()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return time.monotonic() - begun
        if time.monotonic() - begun > seconds:
            told = await tell() if tell is not None else ""
            raise AssertionError(f"not within {seconds:g} s: {what}\n{told}")
        await asyncio.sleep(LOOK_SECONDS)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
