"""What follows a confirm: rows deleted together, marks in the slack after a pour."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from headway_core import outbox, submissions
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.hints import EventHint
from headway_core.ids import new_job_id
from headway_core.job import Dispatch, Submission
from headway_core.states import JobState
from headway_core.trace_context import new
from headway_server import bookkeeper as module
from headway_server.bookkeeper import POUR_MIN, Bookkeeper

LONG = timedelta(minutes=10)


@asynccontextmanager
async def booking(database: Database) -> AsyncIterator[tuple[Bookkeeper, asyncio.Queue[EventHint]]]:
    marked: asyncio.Queue[EventHint] = asyncio.Queue()
    bookkeeper = Bookkeeper(database, marked.put_nowait)
    task = asyncio.create_task(bookkeeper.run())
    try:
        yield bookkeeper, marked
    finally:
        task.cancel()
        await asyncio.wait([task])


async def published(database: Database, count: int) -> list[Dispatch]:
    trace = new(sampled=False).traceparent
    items = [
        Submission(id=new_job_id(), type="t", request_hash=b"", traceparent=trace)
        for _ in range(count)
    ]
    stored = await submissions.submit_all(database, items, queue_depth_max=None)
    return [one.dispatch for one in stored if one.dispatch]


def without_first_reply(work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The first time it is done, but nobody hears of it."""
    lost = iter([True])

    async def call(*arguments: object) -> object:
        done = await work(*arguments)
        if next(lost, False):
            raise StoreUnavailable("the reply was lost")
        return done

    return call


def refused_once(work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The first time it is not done."""
    refused = iter([True])

    async def call(*arguments: object) -> object:
        if next(refused, False):
            raise StoreUnavailable("away")
        return await work(*arguments)

    return call


async def queued(database: Database) -> int:
    found: int = await database.fetchval(
        "SELECT count(*) FROM jobs WHERE state = $1", JobState.QUEUED
    )
    return found


async def test_rows_that_are_confirmed_together_are_deleted_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit for each confirm would cost submits theirs."""
    deleted: list[int] = []
    delete = outbox.delete

    async def count(source: Database, rows: Sequence[int]) -> None:
        deleted.append(len(rows))
        await delete(source, rows)

    monkeypatch.setattr(outbox, "delete", count)
    dispatches = await published(database, 10)
    async with booking(database) as (bookkeeper, marked):
        for dispatch in dispatches:
            bookkeeper.forget([dispatch])
        told = {(await marked.get()).job_id for _ in dispatches}
    assert deleted == [10]
    assert told == {dispatch.job_id for dispatch in dispatches}
    assert await database.fetchval("SELECT count(*) FROM outbox") == 0


async def test_a_delete_does_not_wait_for_the_disk(database: Database, database_url: str) -> None:
    """The transaction after it does: what comes over the same connection may be a submit."""
    ids = [dispatch.outbox_id for dispatch in await published(database, 2)]
    async with asyncpg.create_pool(database_url, min_size=1) as pool, pool.acquire() as connection:
        await connection.execute("SET synchronous_commit = on")
        async with connection.transaction():
            await outbox.delete(connection, ids)
            assert await connection.fetchval("SHOW synchronous_commit") == "off"
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 0


async def test_marks_wait_until_a_pour_is_over(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take nothing from the submits that pour in."""
    lull = timedelta(seconds=0.6)
    monkeypatch.setattr(module, "LULL", lull)
    monkeypatch.setattr(module, "PATIENCE", LONG)
    dispatches = await published(database, POUR_MIN)
    time = asyncio.get_running_loop().time
    async with booking(database) as (bookkeeper, marked):
        poured = time()
        bookkeeper.mark(dispatches)
        await marked.get()
        assert time() - poured >= lull.total_seconds()
    assert await queued(database) == POUR_MIN


async def test_marks_do_not_wait_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pour without an end they take their part."""
    patience = timedelta(seconds=0.6)
    monkeypatch.setattr(module, "LULL", timedelta(seconds=2))
    monkeypatch.setattr(module, "PATIENCE", patience)
    dispatches = await published(database, POUR_MIN)
    time = asyncio.get_running_loop().time
    async with booking(database) as (bookkeeper, marked):
        noted = time()
        bookkeeper.mark(dispatches)
        while marked.empty():
            bookkeeper.mark([dispatches[0]] * POUR_MIN)
            await asyncio.sleep(0.02)
        assert time() - noted >= patience.total_seconds()


async def test_a_lone_job_is_marked_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pour, no wait."""
    monkeypatch.setattr(module, "LULL", LONG)
    monkeypatch.setattr(module, "PATIENCE", LONG)
    dispatches = await published(database, 1)
    async with booking(database) as (bookkeeper, marked):
        bookkeeper.forget(dispatches)
        async with asyncio.timeout(30):
            assert (await marked.get()).job_id == dispatches[0].job_id


async def test_the_newest_dispatch_of_a_job_is_marked(database: Database) -> None:
    """A retry may be published before the row of the try before it is gone."""
    first, other = await published(database, 2)
    await database.execute("UPDATE jobs SET dispatch_no = 2 WHERE id = $1", first.job_id)
    async with booking(database) as (bookkeeper, _):
        for dispatch in (first._replace(dispatch_no=2), other, first):
            bookkeeper.mark([dispatch])
        await bookkeeper.finish()
    assert await queued(database) == 2


async def test_what_fails_is_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delete and a mark of which nobody knows whether they came about."""
    monkeypatch.setattr(module, "BACKOFF", timedelta(milliseconds=50))
    monkeypatch.setattr(outbox, "delete", without_first_reply(outbox.delete))
    monkeypatch.setattr(outbox, "mark_queued", refused_once(outbox.mark_queued))
    dispatches = await published(database, 3)
    async with booking(database) as (bookkeeper, marked):
        bookkeeper.forget(dispatches)
        told = {(await marked.get()).job_id for _ in dispatches}
    assert told == {dispatch.job_id for dispatch in dispatches}
    assert await database.fetchval("SELECT count(*) FROM outbox") == 0


async def test_a_finish_marks_even_if_it_cannot_delete(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are published again by the next server; jobs without a mark look lost to it."""

    async def away(*_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(outbox, "delete", away)
    kept, gone = await published(database, 2)
    async with booking(database) as (bookkeeper, _):
        bookkeeper.forget([kept])
        bookkeeper.mark([gone])
        await bookkeeper.finish()
    assert await queued(database) == 1


async def test_dead_letters_are_not_marked(database: Database) -> None:
    """Nobody waits for them."""
    (dispatch,) = await published(database, 1)
    async with booking(database) as (bookkeeper, _):
        bookkeeper.forget([dispatch._replace(dead=True)])
        await bookkeeper.finish()
    assert await queued(database) == 0
    assert await database.fetchval("SELECT count(*) FROM outbox") == 0


async def test_nothing_is_left_behind(database: Database) -> None:
    """A finish books what it finds and what is under way."""
    dispatches = await published(database, 600)
    async with booking(database) as (bookkeeper, _):
        bookkeeper.forget(dispatches[:300])
        await asyncio.sleep(0.04)  # the first delete may be under way
        bookkeeper.forget(dispatches[300:])
        await bookkeeper.finish()
        assert await queued(database) == 600
        assert await database.fetchval("SELECT count(*) FROM outbox") == 0
