"""Ack before commit: the one mutant that needs the broker and a worker of real processes."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from uuid import UUID

import asyncpg
import pytest

from headway_core import leases
from headway_core.topology import job_queue
from headway_worker import Jobs
from headway_worker.deliveries import Delivery
from headway_worker.pipeline import Pipeline
from tests.worker import stage as staging
from tests.worker.stage import Stage, alive, eventually
from tests.worker.stage import stage as set_up

PATIENCE = 60.0


@pytest.fixture
async def stage(
    database_url: str, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    monkeypatch.setattr(staging, "PATIENCE", PATIENCE)
    async with set_up(database_url, amqp_url) as found:
        yield found


async def killed_while_it_claims(stage: Stage, handlers: str) -> list[str]:
    """A job whose row is locked is delivered; its worker is killed before the claim commits."""
    async with stage.worker(handlers) as worker:
        await worker.ready()
        locker = await asyncpg.connect(stage.database_url)
        try:
            async with locker.transaction():
                job_id = await stage.submit("echo", {"n": 1})
                await locker.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
                await eventually(lambda: _claims(stage), within=PATIENCE)
                worker.children()
                os.killpg(worker.process.pid, signal.SIGKILL)
                await eventually(lambda: not any(map(alive, worker.family)), within=PATIENCE)
                # Postgres does not see that the client is gone: let go now, and it would commit.
                await eventually(lambda: _no_claim(stage), within=PATIENCE)
        finally:
            await locker.close()
    # What the dead connection had in hand is ready again before its consumer is gone.
    await eventually(lambda: _gone(stage), within=PATIENCE)
    return await lost(stage, job_id)


async def lost(stage: Stage, job_id: UUID) -> list[str]:
    """Whether only a sweeper could still help."""
    rows = await stage.database.fetch(
        "SELECT FROM jobs WHERE id = $1 AND state IN (1, 2, 5) "
        "AND NOT EXISTS (SELECT FROM outbox WHERE job_id = $1)",
        job_id,
    )
    gone = rows and not await stage.message_count()
    return [f"{job_id}: it waits, and no message speaks for it"] if gone else []


async def _claims(stage: Stage) -> bool:
    """Whether a claim waits for the row."""
    waiting = await stage.database.fetchval(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE query LIKE '-- claims.claim%' AND wait_event_type = 'Lock'"
    )
    return bool(waiting)


async def _no_claim(stage: Stage) -> bool:
    return not await _claims(stage)


async def _gone(stage: Stage) -> bool:
    async with stage.broker.channel() as channel:
        found = await channel.declare_queue(job_queue("default"), passive=True)
        return found.declaration_result.consumer_count == 0


@pytest.mark.parametrize(
    ("handlers", "word"),
    [
        pytest.param("tests.worker.handlers:jobs", "", id="as the code stands"),
        pytest.param("tests.mutants.early_ack:jobs", "no message speaks", id="ack before commit"),
    ],
)
async def test_an_ack_before_the_commit_is_caught(stage: Stage, handlers: str, word: str) -> None:
    """P3: the job waits, the broker has forgotten it, and only the sweeper would know."""
    found = await killed_while_it_claims(stage, handlers)
    print(found)
    assert [word in one for one in found] == ([True] if word else [])


@pytest.mark.parametrize(
    ("mutant", "word"),
    [
        pytest.param(False, "", id="as the code stands"),
        pytest.param(True, "no message speaks", id="an ack with a lapsed lease"),
    ],
)
async def test_an_ack_without_a_lease_is_caught(
    stage: Stage, mutant: bool, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P3: a claim that is refused for its own lease has claimed nothing."""
    refused = asyncio.Event()
    give_back = Pipeline._give_back

    def instead(self: Pipeline, delivery: Delivery) -> None:
        refused.set()
        (self.consumer.ack if mutant else partial(give_back, self))(delivery)

    monkeypatch.setattr(Pipeline, "_give_back", instead)
    async with stage.engine(Jobs(), queues=["default"]) as running:
        running.keep = False
        await leases.end(
            stage.database, running.worker_id, how=leases.LeaseEnd.STOPPED, message="for the test"
        )
        job_id = await stage.submit("echo")
        async with asyncio.timeout(PATIENCE):
            await refused.wait()
        await eventually(lambda: _at_rest(stage, running), within=PATIENCE)
    await eventually(lambda: _gone(stage), within=PATIENCE)
    found = await lost(stage, job_id)
    print(found)
    assert [word in one for one in found] == ([True] if word else [])


async def _at_rest(stage: Stage, running: staging.RunningEngine) -> bool:
    return running.engine.consumer.held == 0
