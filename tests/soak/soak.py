"""One soak from its start to its verdict."""

import asyncio
import logging
import resource
import shutil
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headway.client import Client
from headway_dev.schema import migrate
from headway_dev.services import Services, private_services
from tests.faults.proxy import proxied
from tests.soak import report, verdict
from tests.soak.fleet import Fleet
from tests.soak.handlers import ROUGH
from tests.soak.ledger import Ledger
from tests.soak.load import Load
from tests.soak.nemesis import Nemesis
from tests.soak.recovery import Recoveries
from tests.soak.sampling import Sampler, too_steep
from tests.soak.schedule import Kind, Strike, digest, schedule

CALL_SECONDS: Final = 10.0
RECONNECT_SECONDS: Final = 120.0
DESCRIPTORS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do."""

    seed: int
    seconds: float
    rate: float
    """Jobs a second."""
    kinds: frozenset[Kind]
    """Faults to choose from; none: load only."""
    rest: tuple[float, float]
    """Seconds from the end of one fault to the next: at least and at most."""

    @property
    def strikes(self) -> tuple[Strike, ...]:
        """What will be struck, and when."""
        if not self.kinds:
            return ()
        return schedule(self.seed, seconds=self.seconds, kinds=self.kinds, rest=self.rest)


async def soak(plan: Plan, directory: Path) -> int:
    """Do it, with services of its own in this directory. Returns 0, or 1 for a finding."""
    strikes = plan.strikes
    print(
        f"seed {plan.seed}: {len(strikes)} faults in {plan.seconds:g} s ({digest(strikes)}),"
        f" {plan.rate:g} jobs/s; data and logs in {directory}",
        flush=True,
    )
    more_descriptors()
    # asyncio warns of each write of a proxy to a connection that a fault has just reset.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    with private_services(directory, durable=True, start=False) as services:
        services.erase()
        logs = fresh_directory(directory / "logs")
        await asyncio.to_thread(services.start)
        await asyncio.to_thread(migrate, services.database_url)
        ledger = Ledger(logs / "accepted")
        try:
            await _run(plan, strikes, services, logs, ledger)
        finally:
            ledger.close()
        if not ledger.findings_count:
            services.erase()
    return 1 if ledger.findings_count else 0


async def _run(
    plan: Plan, strikes: Sequence[Strike], services: Services, logs: Path, ledger: Ledger
) -> None:
    url = services.database_url
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(proxied(url))
        rabbitmq = await stack.enter_async_context(proxied(services.amqp_url))
        fleet = Fleet(
            services,
            database_url=postgres.url,
            amqp_url=rabbitmq.url,
            directory=logs,
            complain=ledger.complain,
        )
        stack.callback(fleet.stack.stop)
        for _ in range(2):
            fleet.add_server()
        fleet.add_worker(rough=False)
        fleet.add_worker(processes=2)
        fleet.add_worker()
        await fleet.start()
        print(f"started in {time.monotonic() - started:.0f} s", flush=True)
        clients = [
            await stack.enter_async_context(
                Client(target, call_timeout=CALL_SECONDS, reconnect_timeout=RECONNECT_SECONDS)
            )
            for target in (*fleet.targets, ",".join(fleet.targets))
        ]
        load = Load(clients, rate=plan.rate, seed=plan.seed, ledger=ledger, database_url=url)
        recoveries = Recoveries(url, ledger)
        nemesis = Nemesis(
            services,
            fleet,
            postgres=postgres,
            rabbitmq=rabbitmq,
            recoveries=recoveries,
            ledger=ledger,
            fill=load.burst,
        )
        sampler = Sampler(fleet.processes)
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(fleet.mind()), group.create_task(sampler.run())]
            calling = group.create_task(load.run())
            striking = group.create_task(nemesis.run(strikes))
            await asyncio.sleep(plan.seconds)
            await striking  # the last recovery is measured under load, too
            load.stop()
            await calling
            seconds, load_ended = time.monotonic() - begun, time.time()
            rested = await verdict.rest(url, ledger)
            for task in background:
                task.cancel()
        print(f"\nall done {rested:.1f} s after the last call", flush=True)
        await fleet.leave()
        print(f"all gone {time.monotonic() - begun - seconds:.1f} s after it", flush=True)
        await verdict.no_message_left(services.amqp_url, ["default", ROUGH], ledger)
        await verdict.judge(url, ledger, load_ended=load_ended)
        verdict.enough_was_done(
            ledger,
            wanted=plan.rate * seconds,
            strikes=len(strikes),
            survived=nemesis.survived,
        )
        verdict.nothing_broken(logs, ledger)
        slopes = sampler.slopes()
        for finding in too_steep(slopes):
            ledger.complain(finding)
        report.print_load(seconds=seconds, ledger=ledger, wanted=plan.rate * seconds)
        report.print_recovery(nemesis.survived, recoveries.all)
        report.print_slopes(slopes)
        report.print_verdict(ledger)
        report.keep(
            logs / "report.json",
            recoveries.all,
            seed=plan.seed,
            seconds=seconds,
            accepted=ledger.accepted,
            jobs=ledger.counts["jobs"],
            completed=ledger.counts["completed under load"],
            wanted=plan.rate * seconds,
            survived=nemesis.survived,
            findings=ledger.findings,
            slopes=[
                (*key, line.per_hour, line.error, line.seconds, line.highest)
                for key, line in slopes.items()
            ],
        )


def fresh_directory(path: Path) -> Path:
    """An empty directory."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def more_descriptors() -> None:
    """The proxies hold two for every connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        wanted = DESCRIPTORS if most == resource.RLIM_INFINITY else min(DESCRIPTORS, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
