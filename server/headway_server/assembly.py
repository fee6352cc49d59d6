"""All parts of a server put together, started and stopped in order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

import grpc
import structlog

from headway_core import submissions
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.hints import Hint, HintListener, HintPublisher, OutboxHint
from headway_core.metrics import Metrics, measure_loop_lag
from headway_core.migrate import check_schema
from headway_core.publishing import Publisher
from headway_core.settings import Address
from headway_core.telemetry import Telemetry
from headway_server import gauges
from headway_server.bookkeeper import Bookkeeper
from headway_server.health import Health
from headway_server.listening import add_health, add_reflection, bind, make_server
from headway_server.reaper import Reaper
from headway_server.relay import Relay
from headway_server.retention import Retention
from headway_server.rpc import Calls
from headway_server.service import NAME, JobService, Submits
from headway_server.settings import (
    BACKGROUND_CONNECTIONS,
    BACKGROUND_DATABASE_TIME_MAX,
    BOOKKEEPING_CONNECTIONS,
    CALL_DATABASE_TIME_MAX,
    DATABASE_CONNECTIONS,
    LONG_READ_CONNECTIONS,
    LONG_READ_TIME_MAX,
    ServerSettings,
)
from headway_server.sweeper import Sweeper
from headway_server.watch_hub import WatchHub

PROCESS_NAME: Final = "headway-server"
LINGER: Final = timedelta(milliseconds=12)
ENOUGH: Final = 24
"""Under load a commit waits for so many submits, so long at most: each of them pays half as much
as one that ten share. More would wait for each other, and server and Postgres for them."""
FINISH: Final = timedelta(seconds=2)
"""For publishes that are under way at the end, and as long again for deletes and marks."""
LAST_CALLS: Final = timedelta(milliseconds=50)
"""A call that was accepted just before the drain may not have reached its handler yet."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    address: Address
    hub: WatchHub
    publisher: Publisher
    hear: Callable[[Hint], None]
    """Takes hints as if they came from the broker."""


@asynccontextmanager
async def running(
    settings: ServerSettings, *, telemetry: Telemetry, metrics: Metrics, reuse_port: bool = False
) -> AsyncIterator[Running]:
    """Serve inside the block; drain at its end, or stop at once if it is left by an exception.

    Raises StoreUnavailable, SchemaOutdated, AddressRefused before the block. RabbitMQ may be away:
    the log says so, and submits are accepted. If one of the tasks dies, the block is cancelled and
    the task's error comes out, in a group.
    """
    async with AsyncExitStack() as stack:
        calls_database = await _connect(
            stack, settings, "calls", DATABASE_CONNECTIONS, CALL_DATABASE_TIME_MAX, plan_once=True
        )
        database = await _connect(
            stack, settings, "background", BACKGROUND_CONNECTIONS, BACKGROUND_DATABASE_TIME_MAX
        )
        bookkeeping = await _connect(
            stack,
            settings,
            "bookkeeping",
            BOOKKEEPING_CONNECTIONS,
            BACKGROUND_DATABASE_TIME_MAX,
            plan_once=True,
        )
        long_reads = await _connect(
            stack, settings, "long reads", LONG_READ_CONNECTIONS, LONG_READ_TIME_MAX
        )
        await check_schema(database)

        hub = WatchHub(calls_database)
        hints = HintPublisher(
            settings.amqp_url, name=f"{PROCESS_NAME} hints", lost=metrics.hint_lost
        )
        publisher = Publisher(
            settings.amqp_url, name=f"{PROCESS_NAME} relay", telemetry=telemetry, metrics=metrics
        )
        bookkeeper = Bookkeeper(bookkeeping, hints.send)
        relay = Relay(database, publisher, bookkeeper)

        def hear(hint: Hint) -> None:
            hub.hear(hint)
            if isinstance(hint, OutboxHint):
                relay.poke()

        listener = HintListener(
            settings.amqp_url,
            name=f"{PROCESS_NAME} listener",
            callback=hear,
            on_reconnect=hub.poll_now,
            lost=metrics.hint_lost,
            wanted=lambda body: hub.watched > 0 or OutboxHint.mark in body,
        )
        reaper = Reaper(
            database,
            lease=settings.lease,
            heartbeat=settings.heartbeat,
            send_hint=hints.send,
            poke_relay=relay.poke,
        )
        sweeper = Sweeper(
            database, publisher, starvation=settings.starvation, dispatch=relay.dispatch
        )

        retention = Retention(database, finished_for=timedelta(days=settings.retention_days))

        submits: Submits = Submits(
            partial(submissions.submit, calls_database, queue_depth_max=settings.queue_depth_max),
            linger=LINGER,
            enough=ENOUGH,
            alone=None
            if settings.queue_depth_max is not None
            else partial(submissions.submit_alone, calls_database),
        )
        service = JobService(
            calls_database,
            long_reads=long_reads,
            submits=submits,
            relay=relay,
            hub=hub,
            hints=hints,
            metrics=metrics,
            queue_depth_max=settings.queue_depth_max,
        )
        health = Health(database, (NAME,))
        calls = Calls(telemetry, metrics)

        server = make_server(reuse_port=reuse_port)
        calls.serve(server, NAME, service.methods())
        add_health(server, health)
        if settings.reflection:
            add_reflection(server, (NAME,))
        address = bind(server, settings.listen, reuse_port=reuse_port)

        async with asyncio.TaskGroup() as group:
            loops = [
                submits.run(),
                hub.run(),
                publisher.run(),
                hints.run(),
                listener.run(),
                bookkeeper.run(),
                relay.run(),
                reaper.run(),
                sweeper.run(),
                retention.run(),
                health.run(),
                gauges.sample(database, metrics),
                measure_loop_lag(metrics),
            ]
            tasks = [group.create_task(loop) for loop in loops]
            try:
                await health.begin()
                await server.start()
                yield Running(address, hub, publisher, hear)
                await _drain(server, calls, health, hub, settings.drain)
                await _finish(relay, bookkeeper)
            except BaseException:
                # Even a half started server is stopped: it would hang the interpreter at its end.
                await server.stop(None)
                raise
            finally:
                for task in tasks:
                    task.cancel()


async def _connect(
    stack: AsyncExitStack,
    settings: ServerSettings,
    use: str,
    size: int,
    time_max: timedelta,
    *,
    plan_once: bool = False,
) -> Database:
    database = await Database.connect(
        settings.database_url.get_secret_value(),
        name=f"{PROCESS_NAME} {use}",
        size=size,
        timeout_seconds=time_max.total_seconds(),
        plan_once=plan_once,
    )
    stack.push_async_callback(database.close)
    return database


async def _finish(relay: Relay, bookkeeper: Bookkeeper) -> None:
    """Leave no message without its mark: a sweep would take it for lost and send it again."""
    for finish in (relay.finish, bookkeeper.finish):  # a broker that hangs costs no marks
        try:
            async with asyncio.timeout(FINISH.total_seconds()):
                await finish()
        except (TimeoutError, StoreUnavailable) as error:
            log.warning("messages_left_unmarked", reason=str(error) or "no answer in time")


async def _drain(
    server: grpc.aio.Server, calls: Calls, health: Health, hub: WatchHub, grace: timedelta
) -> None:
    """Send watchers elsewhere, let the other calls finish, take no new ones."""
    await health.drain()
    hub.drain()
    async with asyncio.TaskGroup() as group:
        group.create_task(server.stop(grace.total_seconds()))
        try:
            async with asyncio.timeout(grace.total_seconds()):
                await calls.wait_idle()
                await asyncio.sleep(LAST_CALLS.total_seconds())
        except TimeoutError:
            log.warning("calls_cut_off_at_the_end_of_the_drain")
        # What is left are streams of the health and reflection services, which end with nothing.
        await server.stop(None)
