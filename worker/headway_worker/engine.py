"""What runs jobs inside an executor: consumer, pipeline, and the loops beside them."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Final
from uuid import UUID

import structlog

from headway_core import claims
from headway_core import runs as store
from headway_core.batching import GroupCommit
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.failpoints import failpoint
from headway_core.hints import HintPublisher
from headway_core.leases import HandlerType
from headway_core.metrics import Metrics, measure_loop_lag
from headway_core.telemetry import Telemetry
from headway_worker.consumer import Consumer
from headway_worker.deliveries import Delivery
from headway_worker.endings import Stop
from headway_worker.execution import Execution
from headway_worker.lease import Lease
from headway_worker.pipeline import Pipeline
from headway_worker.progress_feed import ProgressFeed
from headway_worker.reconciliation import reconcile
from headway_worker.registry import Jobs
from headway_worker.running import RunTable
from headway_worker.settings import WorkerSettings

SERVICE: Final = "headway-worker"
CONNECTIONS_MAX: Final = 6
"""To Postgres: a flusher each for claims and settles; steps, progress and reconciliation."""
LINGER_SLOTS: Final = 50
LINGER_PER_SLOT: Final = timedelta(microseconds=50)
LINGER_MAX: Final = timedelta(milliseconds=10)
"""With more slots than LINGER_SLOTS, shared commits fill better if they wait under load, so long at
most: a write to a socket costs as much as the handling of a job.
"""
SHARES: Final = 3
SHARE_MIN: Final = 32
"""At most one of SHARES of all slots shares a commit, so that jobs are at the broker, in Postgres
and in Python at the same time: all in step, each of the three would wait for the others.
"""
STEP_THREADS_MORE: Final = 8
"""Threads for steps and for user code's own `asyncio.to_thread`, beyond one a slot."""
STOPPING_SECONDS_MAX: Final = 2.0
"""What drained runs get to clean up, after they were told to stop."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Where an engine is put to work."""

    target: str
    """The MODULE:JOBS that the handlers came from, for child processes to import."""
    worker_id: UUID
    slots: int
    queues: tuple[str, ...]


def registrations(jobs: Jobs) -> tuple[HandlerType, ...]:
    """What is stored of the handlers when a worker starts."""
    return tuple(
        HandlerType(handler.type, handler.queue, handler.policy, handler.timeout)
        for handler in jobs.handlers.values()
    )


class Engine:
    """Runs jobs while somebody else keeps its lease: a supervisor, through executor.py."""

    def __init__(
        self,
        settings: WorkerSettings,
        jobs: Jobs,
        post: Post,
        *,
        database: Database,
        telemetry: Telemetry,
        metrics: Metrics,
        trouble: Callable[[str], None],
        broken: Callable[[], None],
    ) -> None:
        """`trouble` is told why nothing can be consumed; `broken` is called when a part has failed
        for good, before its exception goes on.
        """
        self._post = post
        self._database = database
        self._metrics = metrics
        self._broken = broken
        self._lease = Lease()
        self._looks = asyncio.Event()
        self._drain_wanted = asyncio.Event()
        self._drain_deadline = 0.0
        self._drain_limit: asyncio.Timeout | None = None
        self._hints = HintPublisher(
            settings.amqp_url, name=f"{SERVICE} hints", lost=metrics.hint_lost
        )
        self._group: asyncio.TaskGroup
        self.runs = RunTable()
        self.consumer = Consumer(
            settings.amqp_url,
            name=f"{SERVICE} {post.worker_id}",
            queues=post.queues,
            slots=post.slots,
            handoff=settings.handoff,
            intake=self._take,
            trouble=trouble,
        )
        self._feed = ProgressFeed(database, self._hints)
        self._threads = ThreadPoolExecutor(post.slots, thread_name_prefix="headway-handler")
        self._pipeline = self._build_pipeline(settings, jobs, telemetry)
        self.drained = asyncio.Event()
        """Set when what is still at work will be left behind; then `run` returns, if it can."""
        self.store_seen = monotonic()
        """When Postgres last answered."""

    async def run(self) -> None:
        """Run jobs until drained; consuming begins with the first confirmed lease.

        Returns with threads of user code perhaps still at work, if they did not stop in time.
        """
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(self._post.slots + STEP_THREADS_MORE))
        async with asyncio.TaskGroup() as group:
            self._group = group
            services = [
                self._start(measure_loop_lag(self._metrics)),
                self._start(self._hints.run()),
                self._start(self._pipeline.claims.run()),
                self._start(self._pipeline.settles.run()),
                self._start(self._reconcile()),
                self._start(self._feed.run()),
            ]
            await self._lease.wait_live()
            services.append(self._start(self.consumer.run()))
            await self._drain_wanted.wait()
            await self._drain()
            self.drained.set()
            for service in reversed(services):  # closes the connections in order
                service.cancel()

    def confirm_lease(self, deadline: float) -> None:
        """The lease lasts until `deadline` (monotonic)."""
        self._lease.confirm(deadline)
        self.consumer.resume("lease")
        self._looks.set()

    def cancel(self, job_id: UUID) -> None:
        """Someone asks for the end of a job, perhaps one of ours: see whether the request stands.

        A hint may be late, and the job another run by now; what counts is on its row.
        """
        if self.runs.holds_job(job_id):
            self._looks.set()

    def drain(self, deadline: float) -> None:
        """Take no more, finish until `deadline` (monotonic); a second call brings that forward."""
        self._drain_deadline = deadline
        self._drain_wanted.set()
        if self._drain_limit is not None:
            self._drain_limit.reschedule(_loop_time(deadline))

    def _build_pipeline(
        self, settings: WorkerSettings, jobs: Jobs, telemetry: Telemetry
    ) -> Pipeline:
        worker_id, database = self._post.worker_id, self._database
        types = frozenset(jobs.handlers)
        slots = self._post.slots
        batch_max = max(slots // SHARES, SHARE_MIN)
        linger = min(LINGER_PER_SLOT * slots, LINGER_MAX) if slots > LINGER_SLOTS else timedelta(0)
        execution = Execution(
            jobs=jobs,
            target=self._post.target,
            worker_id=worker_id,
            database=database,
            lease=self._lease,
            threads=self._threads,
            hints=self._hints,
            feed=self._feed,
            telemetry=telemetry,
            grace=settings.grace,
        )
        return Pipeline(
            worker_id=worker_id,
            types=types,
            database=database,
            claims=GroupCommit(
                lambda items: claims.claim(database, items, worker_id=worker_id, types=types),
                batch_max=batch_max,
                linger=linger,
                key=lambda item: item.job_id,
            ),
            settles=GroupCommit(
                lambda items: store.settle(database, items, worker_id=worker_id),
                batch_max=batch_max,
                linger=linger,
                key=lambda item: item.job_id,
            ),
            consumer=self.consumer,
            execution=execution,
            lease=self._lease,
            runs=self.runs,
            alone=asyncio.Lock(),
            hints=self._hints,
            telemetry=telemetry,
            metrics=self._metrics,
            random=random.Random(),
        )

    def _start(self, service: Awaitable[None]) -> asyncio.Task[None]:
        async def vital() -> None:
            try:
                await service
            except Exception:
                # A defect of ours: without this part the process would only pretend to work.
                log.exception("engine_broken")
                self._broken()
                raise

        return self._group.create_task(vital())

    def _take(self, delivery: Delivery) -> None:
        self._start(self._pipeline.process(delivery))

    async def _reconcile(self) -> None:
        while True:
            await self._looks.wait()
            self._looks.clear()
            self._metrics.show_slots(total=self._post.slots, used=len(self.runs))
            try:
                await reconcile(self._database, self._post.worker_id, self.runs, self._hints)
            except StoreUnavailable as error:
                log.warning("store_unavailable", reason=str(error))
            else:
                self.store_seen = monotonic()

    async def _drain(self) -> None:
        """Finish what is in hand until the deadline, and let go of the rest.

        Code that goes on even then is left RUNNING: it ends with this process, and then the lease's
        end interrupts its run, so that the next one does not begin beside it.
        """
        self.consumer.quiet("drain")
        try:
            async with asyncio.timeout_at(_loop_time(self._drain_deadline)) as limit:
                self._drain_limit = limit
                await self.consumer.wait_quiet()
                await self.runs.wait_empty()
        except TimeoutError:
            self.runs.stop_all(Stop.DRAINED)
            await failpoint("release_mid")
        with suppress(TimeoutError):
            async with asyncio.timeout(STOPPING_SECONDS_MAX):
                await self.runs.wait_empty()
                await self.consumer.wait_acks_written()


def _loop_time(deadline: float) -> float:
    """The loop's own time of a deadline by the monotonic clock."""
    return asyncio.get_running_loop().time() + deadline - monotonic()
