"""The proxy itself: each deed does what it says, to a frame of each protocol."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aio_pika
import asyncpg
import pytest

from tests.faults.proxy import Deed, Proxy, proxied

DELAY_SECONDS = 0.5
SILENCE_SECONDS = 1.5
STORE = "-- test.store\nINSERT INTO seen VALUES (1)"
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, aio_pika.exceptions.AMQPError, OSError)


@dataclass(frozen=True, slots=True)
class Asked:
    """A client behind a proxy."""

    proxy: Proxy
    ask: Callable[[], Awaitable[object]]
    """Send a request, and wait for the reply."""
    reply: str
    """The reply's name."""

    async def silent(self) -> bool:
        """Whether no reply comes to one more request."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self.ask()
        except TimeoutError:
            return True
        return False


@contextlib.asynccontextmanager
async def _postgres(proxy: Proxy) -> AsyncIterator[Asked]:
    connection = await asyncpg.connect(proxy.url)
    try:
        await connection.execute("CREATE TABLE seen (n integer)")
        yield Asked(proxy, lambda: connection.execute(STORE), "committed test.store")
    finally:
        connection.terminate()


@contextlib.asynccontextmanager
async def _amqp(proxy: Proxy) -> AsyncIterator[Asked]:
    connection = await aio_pika.connect(proxy.url, timeout=5)
    exchange = (await connection.channel()).default_exchange

    async def publish() -> None:
        await exchange.publish(aio_pika.Message(b"{}"), "nowhere", mandatory=False)

    try:
        yield Asked(proxy, publish, "< basic.ack")
    finally:
        with contextlib.suppress(TimeoutError, *LOST):
            async with asyncio.timeout(1):
                await connection.close()


@pytest.fixture(params=["database_url", "amqp_url"])
async def asked(request: pytest.FixtureRequest) -> AsyncIterator[Asked]:
    client = {"database_url": _postgres, "amqp_url": _amqp}[request.param]
    async with proxied(request.getfixturevalue(request.param)) as proxy, client(proxy) as found:
        await found.ask()
        assert proxy.seen[found.reply] == 1
        yield found


async def test_a_counted_reply_passes(asked: Asked) -> None:
    """From the second to the third one, of four."""
    fault = asked.proxy.on(asked.reply, Deed.COUNT, first=2, times=2)
    struck = []
    for _ in range(4):
        await asked.ask()
        struck.append(fault.struck.is_set())
    assert struck == [False, True, True, True]
    assert fault.count == 4


async def test_a_delayed_reply_comes_later(asked: Asked) -> None:
    asked.proxy.on(asked.reply, Deed.DELAY, seconds=DELAY_SECONDS)
    begun = time.monotonic()
    await asked.ask()
    assert time.monotonic() - begun >= DELAY_SECONDS
    begun = time.monotonic()
    await asked.ask()
    assert time.monotonic() - begun < DELAY_SECONDS


@pytest.mark.parametrize("deed", [Deed.RESET, Deed.HALF_CLOSE], ids=lambda deed: deed.name)
async def test_a_reset_or_half_closed_connection_is_lost_at_once(asked: Asked, deed: Deed) -> None:
    fault = asked.proxy.on(asked.reply, deed)
    with pytest.raises(LOST):
        async with asyncio.timeout(SILENCE_SECONDS):
            await asked.ask()
    assert fault.struck.is_set()
    assert asked.proxy.seen[asked.reply] == 2


@pytest.mark.parametrize("deed", [Deed.DROP, Deed.BLACK_HOLE], ids=lambda deed: deed.name)
async def test_a_swallowed_reply_is_silence(asked: Asked, deed: Deed) -> None:
    """The request has arrived. After a drop all else passes; a black hole swallows everything."""
    fault = asked.proxy.on(asked.reply, deed)
    assert await asked.silent()
    assert fault.struck.is_set()
    assert asked.proxy.seen[asked.reply] == 2
    if asked.reply == "< basic.ack":  # asyncpg gives up a connection whose reply does not come
        assert await asked.silent() == (deed is Deed.BLACK_HOLE)


async def test_only_the_connections_that_are_named_are_struck(database_url: str) -> None:
    async with proxied(database_url) as proxy:
        one = await asyncpg.connect(proxy.url, server_settings={"application_name": "one"})
        two = await asyncpg.connect(proxy.url, server_settings={"application_name": "two"})
        try:
            assert proxy.cut("^two$") == 1
            with pytest.raises(LOST):
                await two.fetchval("SELECT 1")
            with pytest.raises(LOST):
                await asyncpg.connect(proxy.url, server_settings={"application_name": "two"})
            proxy.freeze("^one$")
            asking = asyncio.create_task(one.fetchval("SELECT 1"))
            _, waiting = await asyncio.wait([asking], timeout=DELAY_SECONDS)
            assert waiting
            proxy.heal()
            assert await asking == 1
        finally:
            one.terminate()
            two.terminate()


async def test_what_was_not_committed_is_not_called_so(database_url: str) -> None:
    """A statement that failed, one that was rolled back, and one whose COMMIT did so."""
    async with proxied(database_url) as proxy:
        connection = await asyncpg.connect(proxy.url)
        try:
            with pytest.raises(asyncpg.UndefinedTableError):
                await connection.fetch(STORE)
            await connection.execute("CREATE TABLE seen (n integer)")
            with contextlib.suppress(ZeroDivisionError):
                async with connection.transaction():
                    await connection.fetch(STORE)
                    raise ZeroDivisionError
            await connection.execute("BEGIN")
            await connection.fetch(STORE)
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.fetchval("SELECT 1 / 0")
            await connection.execute("COMMIT")
            await connection.fetchval("SELECT 1")
            assert proxy.seen["sent test.store"] == 2
            assert proxy.seen["committed test.store"] == 0
            async with connection.transaction():
                await connection.fetch(STORE)
                assert proxy.seen["committed test.store"] == 0
            assert proxy.seen["committed test.store"] == 1
            assert await connection.fetchval("SELECT count(*) FROM seen") == 1
        finally:
            connection.terminate()
