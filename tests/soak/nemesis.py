"""Does what the schedule says."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import aio_pika
import psutil

from headway_core.topology import job_queue
from headway_dev.errors import ServiceFailed
from headway_dev.services import Services
from tests.faults.proxy import Proxy
from tests.faults.waiting import until
from tests.soak.fleet import Fleet, Member
from tests.soak.ledger import Ledger
from tests.soak.recovery import NO_RUNS, Recoveries, Runs
from tests.soak.schedule import Kind, Strike

ALARM_LIMIT: Final = "900000GB"
NO_ALARM_LIMIT: Final = "50MB"
QUEUE: Final = "default"
APPEAR_SECONDS_MAX: Final = 40.0
HURTS_A_BACKLOG: Final = frozenset(
    {Kind.RABBITMQ_KILL, Kind.RABBITMQ_WIPE, Kind.RABBITMQ_PURGE, Kind.RABBITMQ_DELETE}
)
CUTS_OFF: Final = frozenset(
    {
        *(Kind.EXECUTOR_KILL, Kind.SUPERVISOR_KILL, Kind.WORKER_KILL),
        *(Kind.SUPERVISOR_TERM, Kind.WORKER_TERM),
    }
)
"""Runs end with it. Executors let a SIGTERM of their own be."""


class Nemesis:
    """Strikes, undoes what it did, and has the recovery measured."""

    def __init__(
        self,
        services: Services,
        fleet: Fleet,
        *,
        postgres: Proxy,
        rabbitmq: Proxy,
        recoveries: Recoveries,
        ledger: Ledger,
        fill: Callable[[], Awaitable[None]],
    ) -> None:
        """`fill` makes jobs wait at the broker, for what is done to it to matter."""
        self._fill = fill
        self._services = services
        self._fleet = fleet
        self._proxies = {"postgres": postgres, "rabbitmq": rabbitmq}
        self._recoveries = recoveries
        self._ledger = ledger
        self._service_busy = {name: asyncio.Lock() for name in self._proxies}
        self._begun = 0.0
        self.survived: Counter[str] = Counter()

    async def run(self, strikes: Sequence[Strike]) -> None:
        """Do all of it, and return when the last one is undone and recovered from."""
        self._begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for strike in strikes:
                await asyncio.sleep(self._begun + strike.at - time.monotonic())
                self._say(strike, f"strikes, for {strike.hold:g} s" if strike.hold else "strikes")
                if strike.target in self._proxies:
                    group.create_task(self._strike_service(strike))
                else:
                    member = self._fleet.members[strike.target]
                    group.create_task(self._strike_member(strike, member, group))

    async def _recover(self, strike: Strike, cut_off: Runs = NO_RUNS) -> None:
        seconds = await self._recoveries.follow(strike.kind, cut_off)
        if seconds is None:
            return
        self.survived[strike.kind] += 1
        self._say(strike, f"is recovered from after {seconds:.1f} s")

    async def _strike_member(
        self, strike: Strike, member: Member, group: asyncio.TaskGroup
    ) -> None:
        async with member.busy:
            member.in_hands = True
            try:
                if not member.alive:
                    await member.restart()
                await self._strike_processes(strike, member, group)
                if not member.alive:
                    await asyncio.sleep(strike.hold if strike.kind.deed == "kill" else 0)
                    await member.restart()
            except (AssertionError, ServiceFailed) as error:
                self._ledger.complain(f"{strike.kind} of {member.name}: {error}")
            finally:
                member.in_hands = False

    async def _strike_processes(
        self, strike: Strike, member: Member, group: asyncio.TaskGroup
    ) -> None:
        """Strike; the main process has left in the end if that is in the nature of the strike."""
        part, deed = strike.kind.part, strike.kind.deed
        victims = await self._victims(part, strike.choice, member)
        runs = await self._runs_of(victims) if member.is_worker else NO_RUNS
        if deed == "freeze":
            _send(victims, signal.SIGSTOP)
            await asyncio.sleep(strike.hold)
            _send(victims[::-1], signal.SIGCONT)
            group.create_task(self._recover(strike))
            return
        cut_off = runs if strike.kind in CUTS_OFF else NO_RUNS
        if deed == "kill":
            _send(victims, signal.SIGSTOP)  # so that none sees another one's end
        _send(victims, signal.SIGKILL if deed == "kill" else signal.SIGTERM)
        group.create_task(self._recover(strike, cut_off))
        if part == "executor":
            return
        code = await member.leave()
        if deed == "term" and code != 0:
            self._ledger.complain(f"{member.name} left with {code} at a SIGTERM")

    async def _runs_of(self, victims: Sequence[psutil.Process]) -> Runs:
        families = list(victims)
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                families += victim.children()
        return await self._recoveries.runs(self._fleet.worker_ids(families))

    async def _victims(self, part: str, choice: int, member: Member) -> list[psutil.Process]:
        if part == "server":
            found = member.process.record.find()
            return [found] if found is not None else []
        worker = member.worker
        if part == "supervisor":
            return [worker.supervisor]
        if part == "worker":
            return [worker.supervisor, *worker.supervisor.children(recursive=True)]
        await until(worker.executors, f"{member.name} has executors", seconds=APPEAR_SECONDS_MAX)
        executors = sorted(worker.executors(), key=lambda process: process.pid)
        return [executors[choice % len(executors)]] if executors else []

    async def _strike_service(self, strike: Strike) -> None:
        async with self._service_busy[strike.target]:
            if strike.kind in HURTS_A_BACKLOG:
                await self._fill()
            await self._disturb(strike)
        await self._recover(strike)

    async def _disturb(self, strike: Strike) -> None:
        postgres, rabbitmq = self._services.postgres, self._services.rabbitmq
        match strike.kind:
            case Kind.POSTGRES_STOP:
                main = postgres.record.find() if postgres.record is not None else None
                assert main is not None
                main.send_signal(signal.SIGQUIT)
                await until(lambda: not postgres.is_running, "Postgres stops")
                await asyncio.sleep(strike.hold)
                await asyncio.to_thread(postgres.start)
            case Kind.POSTGRES_FREEZE | Kind.RABBITMQ_FREEZE:
                service = postgres if strike.kind is Kind.POSTGRES_FREEZE else rabbitmq
                await asyncio.to_thread(service.pause)
                await asyncio.sleep(strike.hold)
                await asyncio.to_thread(service.resume)
            case Kind.POSTGRES_RESET | Kind.RABBITMQ_RESET:
                proxy = self._proxies[strike.target]
                self._ledger.counts["connections reset"] += proxy.cut("")
                proxy.heal()
            case Kind.RABBITMQ_KILL | Kind.RABBITMQ_WIPE:
                wipe = strike.kind is Kind.RABBITMQ_WIPE
                await asyncio.to_thread(rabbitmq.wipe if wipe else rabbitmq.kill)
                await asyncio.sleep(strike.hold)
                await asyncio.to_thread(rabbitmq.start)
            case Kind.RABBITMQ_PURGE | Kind.RABBITMQ_DELETE:
                await self._rob(delete=strike.kind is Kind.RABBITMQ_DELETE)
            case Kind.RABBITMQ_ALARM:
                await self._set_disk_limit(ALARM_LIMIT)
                await asyncio.sleep(strike.hold)
                await self._set_disk_limit(NO_ALARM_LIMIT)
            case _:
                raise AssertionError(strike.kind)

    async def _rob(self, *, delete: bool) -> None:
        async with await aio_pika.connect(self._services.amqp_url) as connection:
            channel = await connection.channel()
            with contextlib.suppress(aio_pika.exceptions.ChannelNotFoundEntity):
                queue = await channel.get_queue(job_queue(QUEUE))
                self._ledger.counts["messages robbed"] += (
                    queue.declaration_result.message_count or 0
                )
                if delete:
                    await queue.delete(if_unused=False, if_empty=False)
                else:
                    await queue.purge()

    async def _set_disk_limit(self, limit: str) -> None:
        await asyncio.to_thread(self._services.rabbitmqctl, "set_disk_free_limit", limit)

    def _say(self, strike: Strike, what: str) -> None:
        now = time.monotonic() - self._begun
        print(f"{now:7.1f} s  {strike.kind} of {strike.target} {what}", flush=True)


def _send(victims: Sequence[psutil.Process], number: signal.Signals) -> None:
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(number)
