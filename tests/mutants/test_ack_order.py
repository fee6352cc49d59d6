"""Ack before commit: the one mutant that needs the broker and a worker of real processes."""

import os
import signal
from collections.abc import AsyncIterator

import asyncpg
import pytest

from headway_core.topology import job_queue
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
    rows = await stage.database.fetch(
        "SELECT FROM jobs WHERE id = $1 AND state IN (1, 2, 5) "
        "AND NOT EXISTS (SELECT FROM outbox WHERE job_id = $1)",
        job_id,
    )
    lost = rows and not await stage.message_count()
    return [f"{job_id}: it waits, and no message speaks for it"] if lost else []


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
