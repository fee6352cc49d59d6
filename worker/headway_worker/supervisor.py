"""The supervisor: keeps executors running and their leases alive. It runs no user code.

So no handler can keep it from its heartbeats, and a handler that takes its process down leaves
somebody behind who knows, and says so to the database at once.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Final, Never
from uuid import UUID

import structlog

from headway_core import leases
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.failpoints import failpoint
from headway_core.hints import CancelHint, EventHint, Hint, HintListener, HintPublisher, OutboxHint
from headway_core.leases import HandlerType
from headway_core.migrate import check_schema
from headway_core.redaction import redact
from headway_worker.executor_process import ExecutorProcess
from headway_worker.keeper import Keeper, Verdict
from headway_worker.patience import until_answered
from headway_worker.settings import WorkerSettings

UNREADY_DEATHS_MAX: Final = 3
"""So many executors in a row may end before they consume, then the worker gives up."""
RELEASE_SECONDS_MAX: Final = 3.0
"""The end of the drain's time that is kept for letting go of what is not finished."""
KILL_SECONDS: Final = 1.0
"""An executor that is late in its drain by this is killed."""
WAITING_SAID_SECONDS: Final = 10.0
"""A worker that waits for Postgres at its start says so this often."""
LAST_LEASES_SECONDS_MAX: Final = 3.0
"""How long the ends of leases are tried when the worker leaves; then the reaper sees to them."""

log = structlog.get_logger(__name__)


class WorkerBroken(Exception):
    """No executor can be started. The text is the last one's traceback."""


class Supervisor:
    """One worker: some executors of one MODULE:JOBS."""

    def __init__(
        self,
        settings: WorkerSettings,
        database: Database,
        *,
        target: str,
        processes: int,
        slots: int,
        queues: Sequence[str],
        announce: Callable[[str], None],
    ) -> None:
        """`announce` gets the `ready …` line, once all executors consume for the first time."""
        self._settings = settings
        self._database = database
        self._target = target
        self._slots = slots
        self._queues = tuple(queues)
        self._announce = announce
        self._announced = False
        self._types: dict[str, HandlerType] = {}
        self._unready_deaths = 0
        self._keepers = [Keeper(self, self._starter(number)) for number in range(processes)]
        self._drains = 0
        self._drain_wanted = asyncio.Event()
        self._drain_deadline = 0.0
        self._ends: asyncio.TaskGroup
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        # No metrics: the executors', on their own ports, are those that matter.
        self._hints = HintPublisher(settings.amqp_url, name="headway-worker supervisor")
        self._listener = HintListener(
            settings.amqp_url,
            name="headway-worker supervisor hints",
            callback=self._hear_hint,
            on_reconnect=lambda: None,  # the heartbeats find what was missed
            wanted=lambda body: CancelHint.mark in body,
        )

    async def run(self) -> None:
        """Run until drained. Raises a group of WorkerBroken, SchemaOutdated or TooManyQueues."""
        if not await self._schema_is_there():
            return
        async with asyncio.TaskGroup() as services:
            running = [
                services.create_task(self._hints.run()),
                services.create_task(self._listener.run()),
                services.create_task(self._beat()),
                services.create_task(self._drain_when_wanted()),
            ]
            try:
                async with asyncio.timeout(None) as limit:
                    async with asyncio.TaskGroup() as ends:
                        self._ends = ends
                        async with asyncio.TaskGroup() as keepers:
                            for keeper in self._keepers:
                                keepers.create_task(keeper.run())
                        limit.reschedule(
                            asyncio.get_running_loop().time() + LAST_LEASES_SECONDS_MAX
                        )
            except TimeoutError:
                log.error("leases_not_ended", reason="Postgres is away")  # noqa: TRY400 - says it all
            for service in running:
                service.cancel()

    def drain(self) -> None:
        """Leave: on the first signal in good order, on the second quickly, on the third at once."""
        self._drains += 1
        seconds = self._settings.drain.total_seconds()
        now = monotonic()
        match self._drains:
            case 1:
                log.info("draining", seconds=seconds)
                self._drain_deadline = now + seconds - min(RELEASE_SECONDS_MAX, seconds / 4)
                self._drain_wanted.set()
            case 2:
                log.info("draining_quickly")
                self._drain_deadline = now
                self._drain_wanted.set()
            case _:
                for keeper in self._keepers:
                    keeper.kill()

    async def register(self, worker_id: UUID, types: tuple[HandlerType, ...]) -> float:
        """See Office."""
        self._types = {handler.type: handler for handler in types}
        lease = self._settings.lease
        begun = monotonic()

        async def store() -> dict[str, int]:
            nonlocal begun
            begun = monotonic()
            return await leases.register(
                self._database,
                worker_id,
                name=self.name,
                queues=self._consumed_queues(),
                types=types,
                lease=lease,
            )

        waiting = await until_answered(store)
        log.info("worker_registered", worker_id=str(worker_id), waiting=waiting)
        return begun + lease.total_seconds()

    def end_lease(self, worker_id: UUID, verdict: Verdict) -> None:
        """See Office."""
        self._ends.create_task(self._end_lease(worker_id, verdict))

    def ready(self) -> None:
        """See Office."""
        self._unready_deaths = 0
        if not self._announced and all(keeper.is_ready for keeper in self._keepers):
            self._announced = True
            self._announce(
                f"ready worker={self.name} queues={','.join(self._consumed_queues())} "
                f"types={','.join(sorted(self._types))}"
            )

    def died_unready(self, traceback: str) -> None:
        """See Office."""
        self._unready_deaths += 1
        if self._unready_deaths >= UNREADY_DEATHS_MAX:
            raise WorkerBroken(traceback)

    async def _schema_is_there(self) -> bool:
        """Wait for Postgres, and say what for. False: told to leave before it answered."""
        silent_until = monotonic()

        async def check() -> None:
            nonlocal silent_until
            try:
                await check_schema(self._database)
            except StoreUnavailable as error:
                if monotonic() >= silent_until:
                    silent_until = monotonic() + WAITING_SAID_SECONDS
                    place = redact(self._settings.database_url.get_secret_value())
                    log.warning("waiting_for_the_database", at=place, reason=str(error))
                raise

        async with asyncio.TaskGroup() as group:
            checking = group.create_task(until_answered(check))
            leaving = group.create_task(self._drain_wanted.wait())
            await asyncio.wait([checking, leaving], return_when=asyncio.FIRST_COMPLETED)
            checked = checking.done()
            checking.cancel()
            leaving.cancel()
        return checked

    def _consumed_queues(self) -> tuple[str, ...]:
        handled = {handler.queue for handler in self._types.values()}
        return self._queues or tuple(sorted(handled))

    def _starter(self, number: int) -> Callable[[UUID], Awaitable[ExecutorProcess]]:
        def start(worker_id: UUID) -> Awaitable[ExecutorProcess]:
            return ExecutorProcess.start(
                target=self._target,
                worker_id=worker_id,
                number=number,
                slots=self._slots,
                queues=self._queues,
            )

        return start

    async def _end_lease(self, worker_id: UUID, verdict: Verdict) -> None:
        how = verdict.how
        assert how is not None
        judged = await until_answered(
            lambda: leases.end(
                self._database,
                worker_id,
                how=how,
                message=verdict.message,
                timed_out=verdict.timed_out,
            )
        )
        for run in judged:
            log.warning(
                "run_judged",
                job_id=str(run.job_id),
                state=run.state.name,
                reason=verdict.message,
            )
            self._hints.send(EventHint(run.job_id, run.sequence, done=run.state.done))
        if judged:
            self._hints.send(OutboxHint())

    def _hear_hint(self, hint: Hint) -> None:
        if isinstance(hint, CancelHint):
            for keeper in self._keepers:
                keeper.cancel_run(hint.job_id)

    async def _beat(self) -> Never:
        """Renew the leases of all executors in one statement, and look after those that are of no
        use.
        """
        loop = asyncio.get_running_loop()
        period = self._settings.heartbeat.total_seconds()
        due = loop.time() + period
        beating_since: float | None = None
        while True:
            await asyncio.sleep(due - loop.time())
            late = loop.time() - due > period
            due = max(due + period, loop.time())
            beaten = await self._beat_once()
            if not beaten or late:  # late: we were asleep, and what they said is still unread
                beating_since = None
                continue
            beating_since = beating_since or monotonic()
            for keeper in self._keepers:
                keeper.judge(self._settings.silence_max, beating_since=beating_since)

    async def _beat_once(self) -> bool:
        lease = self._settings.lease
        keepers = {keeper.worker_id: keeper for keeper in self._keepers if keeper.worker_id}
        if not keepers:
            return False
        begun = monotonic()
        try:
            await failpoint("heartbeat_skip")
            renewed = await leases.beat(self._database, list(keepers), lease=lease)
        except StoreUnavailable as error:
            log.warning("heartbeat_failed", reason=str(error))
            return False
        for worker_id, keeper in keepers.items():
            if keeper.worker_id != worker_id:
                continue  # it has ended meanwhile
            if renewed[worker_id]:
                keeper.confirm(begun + lease.total_seconds())
            else:
                keeper.lease_was_ended()
        return True

    async def _drain_when_wanted(self) -> None:
        while True:
            await self._drain_wanted.wait()
            self._drain_wanted.clear()
            for keeper in self._keepers:
                keeper.drain(self._drain_deadline)
            seconds = max(self._drain_deadline - monotonic(), 0.0)
            seconds += RELEASE_SECONDS_MAX + KILL_SECONDS
            try:
                async with asyncio.timeout(seconds):
                    await self._drain_wanted.wait()
            except TimeoutError:
                for keeper in self._keepers:
                    keeper.kill()
