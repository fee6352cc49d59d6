"""The executor process: user code, a share of the queues' deliveries, one lease.

`python -m headway_worker.executor …`, started by the supervisor and by nobody else. It obeys the
supervisor's pipe instead of signals, and never outlives it.
"""

import asyncio
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

import structlog

from headway_core import logs
from headway_core.database import Database
from headway_core.garbage import look_seldom
from headway_core.metrics import Metrics
from headway_core.settings import Address, load
from headway_core.telemetry import Telemetry
from headway_worker.control import (
    Broken,
    CancelRun,
    Drain,
    Hello,
    LeaseConfirmed,
    Ready,
    ToExecutor,
    Trouble,
)
from headway_worker.control_link import ControlLink
from headway_worker.engine import CONNECTIONS_MAX, SERVICE, Engine, Post, registrations
from headway_worker.executor_options import Options
from headway_worker.loading import load_jobs
from headway_worker.parentage import bind_to_parent, own_pipe
from headway_worker.registry import Jobs
from headway_worker.settings import WorkerSettings
from headway_worker.watchdog import Watchdog

LEAVING_SECONDS_MAX: Final = 3.0
"""For closing connections and sending the last spans."""

log = structlog.get_logger(__name__)


def main() -> None:
    """Run until drained, and leave by `os._exit`: threads of user code may never end."""
    options = Options.parse(sys.argv[1:])
    bind_to_parent(options.parent)
    link = ControlLink(own_pipe(options.pipe))
    try:
        settings = load(WorkerSettings)
        logs.configure(settings, service=SERVICE)
        jobs = load_jobs(options.target)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(execute(options, settings, jobs, link))
    except BaseException:  # noqa: BLE001 - user code is imported
        link.send(Broken(traceback.format_exc()))
        leave(1)


async def execute(
    options: Options, settings: WorkerSettings, jobs: Jobs, link: ControlLink
) -> NoReturn:
    """Put an executor together, in the order in which things are needed."""
    loop = asyncio.get_running_loop()
    telemetry = Telemetry.start(SERVICE, settings)
    metrics = Metrics.start(metrics_settings(settings, options.number), service=SERVICE)
    database = await Database.connect(
        settings.database_url.get_secret_value(),
        name=SERVICE,
        size=CONNECTIONS_MAX,
        plan_once=True,
    )
    handled = {handler.queue for handler in jobs.handlers.values()}
    engine = Engine(
        settings,
        jobs,
        Post(
            target=options.target,
            worker_id=options.worker_id,
            slots=options.slots,
            queues=options.queues or tuple(sorted(handled)),
        ),
        database=database,
        telemetry=telemetry,
        metrics=metrics,
        trouble=lambda reason: link.send(Trouble(reason)),
        broken=lambda: leave(1),
    )
    watchdog = Watchdog(link, engine, loop=loop, grace=settings.grace)

    def receive(message: ToExecutor) -> None:
        match message:
            case LeaseConfirmed(deadline):
                engine.confirm_lease(deadline)
            case CancelRun(job_id):
                engine.cancel(job_id)
            case Drain(deadline):
                engine.drain(deadline)

    async def report_ready() -> None:
        await engine.consumer.consuming.wait()
        link.send(Ready())

    async with asyncio.TaskGroup() as group:
        group.create_task(watchdog.turn())
        group.create_task(report_ready())
        link.listen(loop, receive)
        watchdog.start()
        look_seldom()
        link.send(Hello(registrations(jobs)))
        running = group.create_task(engine.run())
        await engine.drained.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVING_SECONDS_MAX):
                await asyncio.wait([running])
                await asyncio.to_thread(telemetry.shutdown)
        leave(0)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def leave(code: int) -> NoReturn:
    """End this process now, whatever its threads are doing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def metrics_settings(settings: WorkerSettings, number: int) -> WorkerSettings:
    """Give each executor's metrics a port of their own: the one that is set, and those after it."""
    listen = settings.metrics_listen
    if listen is None or listen.port == 0:
        return settings
    return settings.model_copy(
        update={"metrics_listen": Address(listen.host, listen.port + number)}
    )


if __name__ == "__main__":
    main()
