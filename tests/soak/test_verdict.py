"""The verdict of a soak: of what is whole it says nothing, and what is broken it finds."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import aio_pika
import pytest

from headway_core import submissions
from headway_core.database import Database
from headway_core.topology import job_queue
from tests.service.worker import PlayedWorker
from tests.soak import verdict
from tests.soak.ledger import Ledger
from tests.store.conftest import submission

FAR = 4e9
"""After all (Unix time)."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "accepted")
    yield ledger
    ledger.close()


async def ended_job(database: Database, ledger: Ledger, *, dead: bool = False) -> UUID:
    """A short job as a soak leaves it."""
    item = submission("soak.short")
    await submissions.submit(database, [item], queue_depth_max=None)
    ledger.accept([str(item.id)])
    worker = await PlayedWorker.register(database, "soak.short")
    await (worker.kill if dead else worker.complete)(item.id)
    await database.execute("DELETE FROM outbox")
    return item.id


async def findings(database_url: str, ledger: Ledger) -> list[str]:
    ledger.findings.clear()
    await verdict.judge(database_url, ledger, load_ended=FAR)
    return ledger.findings


async def test_a_lost_job_and_a_broken_history_are_found(
    database: Database, database_url: str, ledger: Ledger
) -> None:
    await ended_job(database, ledger)
    assert await findings(database_url, ledger) == []
    assert ledger.counts["completed under load"] == 1
    await database.execute("DELETE FROM job_events WHERE sequence = 2")
    assert any("sequences are" in finding for finding in await findings(database_url, ledger))
    await database.execute("TRUNCATE jobs, job_events")
    assert any("accepted, and lost" in finding for finding in await findings(database_url, ledger))


async def test_an_innocent_job_may_be_dead_only_if_it_was_struck(
    database: Database, database_url: str, ledger: Ledger
) -> None:
    job_id = await ended_job(database, ledger, dead=True)
    ledger.hits[job_id] = 2
    assert any("is DEAD in the end" in finding for finding in await findings(database_url, ledger))
    await database.execute("UPDATE jobs SET crashes = 3")
    assert await findings(database_url, ledger) == []
    ledger.hits[job_id] = 1
    assert any("struck 1 times" in finding for finding in await findings(database_url, ledger))


async def test_a_message_left_and_a_queue_that_is_gone_are_found(
    amqp_url: str, ledger: Ledger
) -> None:
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(job_queue("default"))
        await verdict.no_message_left(amqp_url, ["default"], ledger)
        assert ledger.findings == []
        await channel.default_exchange.publish(aio_pika.Message(b""), queue.name)
        await verdict.no_message_left(amqp_url, ["default"], ledger)
        await queue.delete(if_empty=False)
        await verdict.no_message_left(amqp_url, ["default"], ledger)
    assert ledger.findings == ["1 messages left in default", "there is no queue default"]


def test_a_load_that_was_not_there_and_a_strike_not_survived_are_found(ledger: Ledger) -> None:
    verdict.enough_was_done(ledger, wanted=100, strikes=2, survived=Counter(kill=1))
    assert ledger.findings == [
        "0 jobs were accepted, of about 100",
        "2 strikes, and 1 recovered from",
    ]


def test_a_traceback_in_a_log_is_found(tmp_path: Path, ledger: Ledger) -> None:
    log = tmp_path / "server.log"
    log.write_text('{"event": "handler_raised"}\n')
    verdict.nothing_broken(tmp_path, ledger)
    assert ledger.findings == []
    log.write_text("Traceback (most recent call last):\n")
    verdict.nothing_broken(tmp_path, ledger)
    assert "server.log says, 1 times" in ledger.findings[0]
