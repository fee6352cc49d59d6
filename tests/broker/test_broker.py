"""Connections are rebuilt, in bounded time, and tell why they are not there."""

import asyncio
import logging
import socket
from urllib.parse import urlsplit, urlunsplit

import pytest
import structlog
from aio_pika.abc import AbstractConnection
from pydantic import SecretStr

from headway_core import broker
from headway_core.broker import Session, connected, open_channel, retry_seconds
from headway_core.broker_border import LoginRefused, broker_border
from headway_core.errors import BrokerUnavailable, TopologyMismatch
from tests.broker.conftest import running, until
from tests.service.proxy import proxied


class Uses:
    """Counts how often a session uses a connection, and how often that is cancelled."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0

    async def __call__(self, connection: AbstractConnection) -> None:
        self.begun += 1
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def test_a_lost_connection_is_rebuilt(url: SecretStr) -> None:
    uses = Uses()
    async with proxied(url.get_secret_value()) as (proxy, through):
        session = Session(SecretStr(through), name="test", use=uses)
        async with running(session.run()):
            await until(lambda: uses.begun == 1)
            assert session.connected
            assert session.trouble is None
            proxy.cut()
            await until(lambda: not session.connected)
            assert uses.cancelled == 1
            await until(lambda: session.trouble is not None)
            proxy.heal()
            await until(lambda: uses.begun == 2)
            assert session.connected


@pytest.mark.alone
async def test_a_broker_that_comes_late_is_found_within_ten_seconds(url: SecretStr) -> None:
    uses = Uses()
    async with proxied(url.get_secret_value()) as (proxy, through):
        proxy.cut()
        session = Session(SecretStr(through), name="test", use=uses)
        async with running(session.run()):
            await until(lambda: session.trouble is not None)
            proxy.heal()
            await until(lambda: uses.begun == 1, seconds=10)


async def test_an_absent_broker_is_warned_of_once() -> None:
    with socket.socket() as closed, structlog.testing.capture_logs() as lines:
        closed.bind(("127.0.0.1", 0))
        url = SecretStr(f"amqp://user:canary@127.0.0.1:{closed.getsockname()[1]}/")
        async with running(Session(url, name="test", use=Uses()).run()):
            await until(lambda: len(lines) == 3)
    assert [line["log_level"] for line in lines] == ["warning", "info", "info"]
    assert "canary" not in str(lines)


def test_the_wait_between_tries_grows_and_stays_below_five_seconds() -> None:
    assert retry_seconds(0) <= 0.1
    assert all(retry_seconds(failures) <= 4 for failures in range(1000))
    assert min(retry_seconds(20) for _ in range(100)) >= 2
    assert retry_seconds(0, refused=True) >= 7.5


async def test_a_refused_connection_is_said_in_one_line() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = SecretStr(f"amqp://user:canary@127.0.0.1:{closed.getsockname()[1]}/")
        with pytest.raises(BrokerUnavailable, match=r"connect: .*Connect call failed") as caught:
            async with connected(url, name="test"):
                pass
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_wrong_password_is_said_clearly_and_not_shown(
    url: SecretStr, caplog: pytest.LogCaptureFixture
) -> None:
    parts = urlsplit(url.get_secret_value())
    login = f"{parts.username}:wrong-canary@{parts.hostname}:{parts.port}"
    wrong = SecretStr(urlunsplit(parts._replace(netloc=login)))
    session = Session(wrong, name="test", use=Uses())
    with caplog.at_level(logging.DEBUG):
        async with running(session.run()):
            await until(lambda: session.trouble is not None and "refuses" in session.trouble)
            trouble = session.trouble
    assert trouble == "connect: the broker refuses the user or password of HEADWAY_AMQP_URL"
    assert "canary" not in caplog.text
    with pytest.raises(LoginRefused):
        async with connected(wrong, name="test"):
            pass


async def test_an_unknown_virtual_host_is_said_clearly(url: SecretStr) -> None:
    parts = urlsplit(url.get_secret_value())
    elsewhere = SecretStr(urlunsplit(parts._replace(path="/no-such-vhost")))
    with pytest.raises(BrokerUnavailable, match="refuses the virtual host of HEADWAY_AMQP_URL"):
        async with connected(elsewhere, name="test"):
            pass


async def test_a_silent_peer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts and says nothing; no task of the attempt may stay behind."""
    monkeypatch.setattr(broker, "CONNECT_SECONDS_MAX", 0.2)
    before = asyncio.all_tasks()
    silent = socket.create_server(("127.0.0.1", 0))
    try:
        url = SecretStr(f"amqp://user:canary@127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(BrokerUnavailable, match="no answer in time"):
            async with connected(url, name="test"):
                pass
    finally:
        silent.close()
    await until(lambda: asyncio.all_tasks() == before)


async def test_the_connection_bears_its_name(url: SecretStr) -> None:
    async with connected(url, name="headway-server publish") as connection:
        transport = connection.transport
        assert transport is not None
        assert connection.kwargs["client_properties"] == {
            "connection_name": "headway-server publish"
        }
        assert transport.connection.connection_tune.heartbeat == 10


async def test_a_use_that_gives_up_gets_a_new_connection(
    url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[AbstractConnection] = []

    async def use(connection: AbstractConnection) -> None:
        seen.append(connection)
        if len(seen) == 1:
            raise TopologyMismatch("mail", "x-max-priority")
        if len(seen) == 2:
            return
        await asyncio.get_running_loop().create_future()

    session = Session(url, name="test", use=use)
    async with running(session.run()):
        await until(lambda: len(seen) == 3)
    assert len(set(map(id, seen))) == 3


async def test_a_defect_of_the_use_ends_the_session(url: SecretStr) -> None:
    async def use(connection: AbstractConnection) -> None:
        raise LookupError("ours")

    with pytest.raises(ExceptionGroup) as caught:
        await Session(url, name="test", use=use).run()
    assert caught.group_contains(LookupError, match="ours")


async def test_the_cancellations_that_aiormq_invents_do_not_end_the_session(
    url: SecretStr,
) -> None:
    """A closing channel rejects its futures with CancelledError; nobody cancelled the task."""
    begun = 0

    async def use(connection: AbstractConnection) -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise asyncio.CancelledError
        await asyncio.get_running_loop().create_future()

    async with running(Session(url, name="test", use=use).run()):
        await until(lambda: begun == 2)


async def test_the_border_lets_a_real_cancellation_pass() -> None:
    async def wait() -> None:
        with broker_border("test"):
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_border_turns_a_deadline_into_trouble() -> None:
    async def wait() -> None:
        with broker_border("test"):
            async with asyncio.timeout(0.01):
                await asyncio.get_running_loop().create_future()

    with pytest.raises(BrokerUnavailable, match="test: no answer in time"):
        await wait()


@pytest.mark.parametrize("ours", [LookupError("x"), TopologyMismatch("mail", "x"), ValueError("x")])
def test_the_border_leaves_other_errors_alone(ours: Exception) -> None:
    with pytest.raises(type(ours)), broker_border("test"):
        raise ours


async def test_a_closed_channel_says_why(url: SecretStr) -> None:
    async with connected(url, name="test") as connection:
        channel, closed = await open_channel(connection)
        with pytest.raises(BrokerUnavailable, match="NOT_FOUND"), broker_border("test"):
            await channel.declare_queue("no-such-queue", passive=True)
        assert "NOT_FOUND" in await closed


async def test_reconnecting_leaves_nothing_behind(url: SecretStr) -> None:
    before = asyncio.all_tasks()
    uses = Uses()
    async with proxied(url.get_secret_value()) as (proxy, through):
        async with running(Session(SecretStr(through), name="test", use=uses).run()):
            for round_ in range(1, 6):
                await until(lambda round_=round_: uses.begun == round_)  # type: ignore[misc]
                proxy.cut()
                await until(lambda round_=round_: uses.cancelled == round_)  # type: ignore[misc]
                proxy.heal()
        await until(lambda: len(asyncio.all_tasks() - before) <= 1)
    await until(lambda: asyncio.all_tasks() == before)


async def test_a_cancellation_at_the_moment_of_a_loss_is_not_forgotten(url: SecretStr) -> None:
    """A TaskGroup of Python 3.11 raises the loss then, and the session would connect for ever."""

    async def use(connection: AbstractConnection) -> None:
        task.cancel()
        raise BrokerUnavailable("lost")

    async def hold(connection: AbstractConnection) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(use(connection))

    task = asyncio.create_task(Session(url, name="test", use=hold).run())
    done, _ = await asyncio.wait({task}, timeout=2)
    task.cancel()
    assert done
    assert task.cancelled()
