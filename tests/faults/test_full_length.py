"""The rows of the fault matrix that take minutes, and recovery with the default settings."""

import asyncio
import time
from typing import Any

import aio_pika
import pytest

from headway_core.topology import job_queue
from tests.faults.broker import QUEUE
from tests.faults.proxy import proxied
from tests.faults.rig import Rig
from tests.faults.waiting import promised, until

pytestmark = [pytest.mark.slow_faults, pytest.mark.faults]

WORKER_RECOVERY_SECONDS_MAX = 20.0
HALF_OPEN_SECONDS_MAX = 60.0
CONSUMER_TIMEOUT = (
    "application:set_env(rabbit, consumer_timeout, {timeout}),"
    " application:set_env(rabbit, channel_tick_interval, 1000)."
)


@pytest.mark.timeout(180)
async def test_a_killed_worker_is_replaced_within_twenty_seconds(default_rig: Rig) -> None:
    """P2: SIGKILL to all of it; its jobs run on another worker ≤ 20 s later."""
    rig = default_rig
    first = await rig.worker("--concurrency", "4")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 4, journal=str(journal), until=str(gate))
        await journal.begun(4)
        await rig.worker("--concurrency", "4")
        await asyncio.sleep(12)  # the reaper's own wait after its start is over
        # The worst moment: a lease that has just been renewed has its whole length to go.
        lease = await _lease(rig)
        await until(lambda: _renewed(rig, lease), "a beat")
        killed_at = time.time()
        await asyncio.to_thread(first.kill)
        again = (await journal.begun(8))[4:]
        took = max(line.time for line in again) - killed_at
        gate.touch()
    await rig.judge()
    promised(
        "worker killed, default times -> its jobs run again", took, WORKER_RECOVERY_SECONDS_MAX
    )


async def _lease(rig: Rig) -> Any:
    rows = await rig.query(
        "SELECT lease_expires FROM workers WHERE id IN (SELECT worker_id FROM runs)"
    )
    return [tuple(row) for row in rows]


async def _renewed(rig: Rig, lease: Any) -> bool:
    return bool(await _lease(rig) != lease)


@pytest.mark.timeout(240)
async def test_a_postgres_away_for_longer_than_two_default_leases_costs_no_run(
    default_rig: Rig,
) -> None:
    """P4, P9: 40 s without Postgres, 100 jobs running, nobody reaped and no executor ended."""
    rig = default_rig
    await rig.workers(2, "--concurrency", "50")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 100, journal=str(journal), until=str(gate))
        await journal.begun(100)
        await asyncio.to_thread(rig.services.postgres.kill)
        await asyncio.sleep(40)
        await asyncio.to_thread(rig.services.postgres.start)
        await asyncio.sleep(20)
        gate.touch()
        await rig.done()
    assert set(journal.runs().values()) == {1}
    await rig.judge(without_fault=True)


@pytest.mark.timeout(600)
async def test_four_minute_jobs_outlive_a_consumer_timeout_of_one_minute(default_rig: Rig) -> None:
    """P3: handed off after 20 s; the broker closes no channel, and each job runs once.

    That it would is shown by another worker, which hands off after 120 s, the default.
    """
    rig = default_rig
    eval_ = CONSUMER_TIMEOUT.format(timeout=60_000)
    await asyncio.to_thread(rig.services.rabbitmqctl, "eval", eval_)
    try:
        worker = await rig.worker("--concurrency", "3", HEADWAY_HANDOFF_SECONDS="20")
        journal = rig.journal()
        async with rig.client() as client:
            await rig.submit(client, 3, journal=str(journal), seconds=240)
            await journal.begun(3)
            late = await rig.worker("--concurrency", "1")
            await rig.submit(client, 1, journal=str(journal), seconds=240)
            await rig.done(seconds=300)
        assert "broker_connection_lost" not in worker.log
        assert "broker_connection_lost" in late.log
    finally:
        eval_ = CONSUMER_TIMEOUT.format(timeout=1_800_000)
        await asyncio.to_thread(rig.services.rabbitmqctl, "eval", eval_)
    assert set(journal.runs().values()) == {1}
    await rig.judge(without_fault=True)


@pytest.mark.timeout(180)
async def test_a_half_open_connection_is_found_by_heartbeats(default_rig: Rig) -> None:
    """P1, P3: nothing passes between a worker and its broker, and nothing is closed.

    What the broker has sent it meanwhile goes to others when the heartbeats stop coming.
    """
    rig = default_rig
    async with proxied(rig.stack.amqp_url) as proxy:
        await rig.worker("--concurrency", "6", HEADWAY_AMQP_URL=proxy.url)
        journal, gate = rig.journal(), rig.gate()
        async with rig.client() as client:
            await rig.submit(client, 2, journal=str(journal), until=str(gate))
            await journal.begun(2)
            proxy.freeze(r"headway-worker [0-9a-f]")
            await rig.submit(client, 4, journal=str(journal))
            await until(lambda: _all_sent(rig), "the broker has sent them")
            await rig.worker("--concurrency", "6")
            took = await until(lambda: len(journal.runs()) == 6, "others run")
            gate.touch()
            await rig.done()
        proxy.heal()
        await rig.judge(without_fault=True)
    promised("half-open connection -> deliveries run elsewhere", took, HALF_OPEN_SECONDS_MAX)


async def _all_sent(rig: Rig) -> bool:
    async with await aio_pika.connect(rig.stack.amqp_url) as connection:
        channel = await connection.channel()
        found = await channel.declare_queue(job_queue(QUEUE), passive=True)
        ready = found.declaration_result.message_count == 0
    rows = await rig.query("SELECT count(*) FROM outbox")
    return ready and bool(rows) and rows[0][0] == 0


async def test_a_frozen_worker_gives_back_what_it_was_sent(default_rig: Rig) -> None:
    """P1, P4: SIGSTOP to a worker with free slots: new jobs wait there for the heartbeats' end."""
    rig = default_rig
    frozen = await rig.worker("--concurrency", "4")
    frozen.pause()
    journal = rig.journal()
    async with rig.client() as client:
        await rig.submit(client, 3, journal=str(journal))
        await until(lambda: _all_sent(rig), "the broker has sent them")
        await rig.worker("--concurrency", "4")
        took = await until(lambda: len(journal.runs()) == 3, "others run")
        frozen.resume()
        await rig.done()
    await rig.judge(without_fault=True)
    promised("frozen worker -> its deliveries run elsewhere", took, HALF_OPEN_SECONDS_MAX)
