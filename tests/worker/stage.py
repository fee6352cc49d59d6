"""A database, a broker, a relay between them, and workers: where the worker's tests play."""

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import psutil
from pydantic import SecretStr
from uuid_utils.compat import uuid7

from headway_core import events, jobs, leases, outbox, submissions
from headway_core.content import Content, json_content
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.hints import Hint, HintListener
from headway_core.job import Job, Submission
from headway_core.metrics import Metrics
from headway_core.publishing import Publisher
from headway_core.settings import load
from headway_core.states import JobState
from headway_core.telemetry import Telemetry
from headway_core.topology import dead_queue, job_queue
from headway_worker.engine import Engine, Post, registrations
from headway_worker.registry import Jobs
from headway_worker.settings import WorkerSettings

ROOT = Path(__file__).parent.parent.parent
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LEASE = timedelta(seconds=15)
# For what comes sooner or later, also on a busy machine.
PATIENCE = 60.0

DONE = frozenset({JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED})


async def eventually(
    holds: Callable[[], Awaitable[Any]] | Callable[[], Any], *, within: float = PATIENCE
) -> Any:
    """Ask until the answer is truthy, and return it; fail after `within` seconds."""
    deadline = monotonic() + within
    while True:
        answer = holds()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert monotonic() < deadline, f"not within {within} s: {holds}"
        await asyncio.sleep(0.02)


@dataclass(slots=True)
class Stage:
    """What a test does and sees."""

    database_url: str
    amqp_url: str
    database: Database
    broker: aio_pika.abc.AbstractConnection
    environ: dict[str, str] = field(default_factory=dict)
    hints: list[Hint] = field(default_factory=list)

    def settings(self, **environ: str) -> WorkerSettings:
        """A worker's settings, by the names of the environment."""
        return load(WorkerSettings, self.environ | environ)

    async def submit(
        self, type_: str, payload: object = None, *, given: Content | None = None, **rest: Any
    ) -> UUID:
        """Submit a job, and leave its message to the relay."""
        content = given or (json_content(payload) if payload is not None else None)
        submission = Submission(
            id=uuid7(),
            type=type_,
            request_hash=hashlib.sha256(repr((type_, payload)).encode()).digest(),
            traceparent=TRACEPARENT,
            payload=content,
            **rest,
        )
        (submitted,) = await submissions.submit(self.database, [submission], queue_depth_max=None)
        assert isinstance(submitted, submissions.Submitted)
        return submission.id

    async def job(self, job_id: UUID) -> Job:
        """The job as it stands."""
        return await jobs.get(self.database, job_id, full=True)

    async def wait(self, job_id: UUID, *states: JobState, within: float = PATIENCE) -> Job:
        """Wait until the job is in one of the states (any final one, if none is given)."""
        wanted = frozenset(states) or DONE
        deadline = monotonic() + within
        while (job := await self.job(job_id)).state not in wanted:
            assert monotonic() < deadline, f"{job} after {await self.history(job_id)}"
            await asyncio.sleep(0.02)
        return job

    async def history(self, job_id: UUID) -> list[str]:
        """The names of the job's events, but for QUEUED, which may or may not be there."""
        found = await events.after(self.database, job_id, 0, limit=1_000)
        assert [event.sequence for event in found] == list(range(1, len(found) + 1))
        return [event.type.name for event in found if event.type.name != "QUEUED"]

    async def result(self, job_id: UUID) -> Any:
        """What the job returned, once it has completed."""
        job = await self.wait(job_id)
        assert job.state is JobState.COMPLETED, f"{job.state.name}: {job.error}"
        return json.loads(job.result.data) if job.result else None

    async def message_count(self, queue: str = "default", *, dead: bool = False) -> int:
        """The messages ready at the broker."""
        async with self.broker.channel() as channel:
            name = dead_queue(queue) if dead else job_queue(queue)
            found = await channel.declare_queue(name, passive=True)
            return found.declaration_result.message_count or 0

    async def take_message(self, *, dead: bool, queue: str = "default") -> Any:
        """Take one message away from the broker."""
        async with self.broker.channel() as channel:
            name = dead_queue(queue) if dead else job_queue(queue)
            found = await channel.get_queue(name)
            message = await found.get(no_ack=True, timeout=PATIENCE)
            assert message is not None
            return message

    async def publish(self, body: bytes, *, queue: str = "default") -> None:
        """Publish whatever to a queue of jobs."""
        async with self.broker.channel() as channel:
            await channel.default_exchange.publish(
                aio_pika.Message(body), routing_key=job_queue(queue)
            )

    @asynccontextmanager
    async def engine(
        self,
        registry: Jobs,
        *,
        slots: int = 4,
        queues: Sequence[str] = (),
        telemetry: Telemetry | None = None,
        target: str = "tests.worker.handlers:jobs",
        lease: timedelta = LEASE,
        beats: float = 1.0,
        **environ: str,
    ) -> AsyncIterator["RunningEngine"]:
        """Run an engine in this process, with its lease kept by a task of the test's."""
        worker_id = uuid4()
        settings = self.settings(**environ)
        handlers = registry.handlers.values()
        queues = tuple(queues) or tuple(sorted({handler.queue for handler in handlers}))
        database = await Database.connect(self.database_url, name="test-engine", size=6)
        engine = Engine(
            settings,
            registry,
            Post(target=target, worker_id=worker_id, slots=slots, queues=queues),
            database=database,
            telemetry=telemetry or Telemetry.off(),
            metrics=Metrics.off(),
            trouble=lambda reason: None,
            broken=lambda: None,
        )
        await leases.register(
            self.database,
            worker_id,
            name="test",
            queues=queues,
            types=registrations(registry),
            lease=lease,
        )
        running = RunningEngine(engine, worker_id, self.database, lease)
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(engine.run())
                beating = group.create_task(running.beat(beats))
                await running.beat_once()
                await asyncio.wait_for(engine.consumer.consuming.wait(), PATIENCE)
                try:
                    yield running
                finally:
                    beating.cancel()
                    engine.drain(monotonic() + running.drain_seconds)
                    await asyncio.wait([task], timeout=PATIENCE)
                    task.cancel()
        finally:
            await database.close()

    @asynccontextmanager
    async def worker(
        self, target: str = "tests.worker.handlers:jobs", *arguments: str, **environ: str
    ) -> AsyncIterator["WorkerProcess"]:
        """Run `headway worker` as a process; it is killed at the end, if it is still there."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.worker.run_worker", target, *arguments),
            cwd=ROOT,
            env={**os.environ, **self.environ, **environ},
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        worker = WorkerProcess(process)
        try:
            yield worker
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
                process.kill()
            await process.communicate()
            await eventually(lambda: not any(map(alive, worker.family)))


@dataclass(slots=True)
class RunningEngine:
    """An engine, and the lease that the test keeps for it."""

    engine: Engine
    worker_id: UUID
    database: Database
    lease: timedelta
    keep: bool = True
    """Whether heartbeats are sent."""
    drain_seconds: float = 5.0

    async def beat(self, seconds: float) -> None:
        """Keep the lease."""
        while True:
            await asyncio.sleep(seconds)
            if self.keep:
                with suppress(StoreUnavailable):
                    await self.beat_once()

    async def beat_once(self) -> None:
        """Renew it now."""
        begun = monotonic()
        renewed = await leases.beat(self.database, [self.worker_id], lease=self.lease)
        if renewed[self.worker_id]:
            self.engine.confirm_lease(begun + self.lease.total_seconds())


class WorkerProcess:
    """A `headway worker` and what it started."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.family: set[psutil.Process] = set()

    async def ready(self) -> str:
        """Wait for its `ready …` line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while line := (await self.process.stdout.readline()).decode():
                if line.startswith("ready "):
                    self.children()
                    return line
        raise AssertionError(f"the worker ended with {await self.process.wait()}")

    def children(self) -> list[psutil.Process]:
        """Its executors, by age."""
        found = psutil.Process(self.process.pid).children()
        self.family.update(psutil.Process(self.process.pid).children(recursive=True))
        return sorted(found, key=lambda child: child.create_time())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor alone."""
        self.process.send_signal(number)

    async def exit_code(self, *, within: float = PATIENCE) -> int:
        """Wait for its end."""
        async with asyncio.timeout(within):
            return await self.process.wait()


def alive(process: psutil.Process) -> bool:
    """Whether it is there and no zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def relay(database: Database, publisher: Publisher) -> None:
    """A plain relay: what is due goes to the broker, and is marked."""
    while True:
        await publisher.wait_ready()
        with suppress(StoreUnavailable):
            async with database.transaction() as connection:
                due = await outbox.take_due(connection, limit=500)
                confirmed = [
                    dispatch
                    for dispatch, sent in zip(due, await publisher.publish(due), strict=True)
                    if sent
                ]
                await outbox.delete(connection, [dispatch.outbox_id for dispatch in confirmed])
            await outbox.mark_queued(
                database,
                [(item.job_id, item.dispatch_no) for item in confirmed if not item.dead],
            )
        await asyncio.sleep(0.02)


async def reap(database: Database) -> None:
    """A plain reaper."""
    while True:
        with suppress(StoreUnavailable):
            for worker_id in await leases.lapsed(database, limit=100):
                await leases.reap(database, worker_id)
        await asyncio.sleep(0.1)


@asynccontextmanager
async def stage(database_url: str, amqp_url: str) -> AsyncIterator[Stage]:
    """Set up a stage."""
    database = await Database.connect(database_url, name="test", size=10)
    publisher = Publisher(
        SecretStr(amqp_url), name="test relay", telemetry=Telemetry.off(), metrics=Metrics.off()
    )
    broker = await aio_pika.connect(amqp_url)
    found = Stage(
        database_url,
        amqp_url,
        database,
        broker,
        environ={
            "HEADWAY_DATABASE_URL": database_url,
            "HEADWAY_AMQP_URL": amqp_url,
            "HEADWAY_LOG_LEVEL": "info",
        },
    )
    listener = HintListener(
        SecretStr(amqp_url),
        name="test hints",
        callback=found.hints.append,
        on_reconnect=lambda: None,
    )
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(publisher.run()),
                group.create_task(listener.run()),
                group.create_task(relay(database, publisher)),
                group.create_task(reap(database)),
            ]
            await eventually(lambda: listener.connected)
            yield found
            for task in tasks:
                task.cancel()
    finally:
        await broker.close()
        await database.close()
