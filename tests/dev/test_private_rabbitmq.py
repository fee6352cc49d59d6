"""A private RabbitMQ keeps its promises, too; one start of 5 s serves all tests."""

import socket
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import psutil
import pytest

from headway_dev import ports
from headway_dev.services import Services, private_services

QUEUE = "kept"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with private_services(tmp_path_factory.mktemp("rabbitmq"), start=False) as found:
        found.rabbitmq.start()
        yield found
        found.erase()


async def publish(url: str, body: bytes) -> None:
    async with await aio_pika.connect(url, timeout=30) as connection:
        channel = await connection.channel()
        await channel.declare_queue(QUEUE, durable=True)
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, QUEUE, timeout=30)


async def take(url: str) -> bytes | None:
    async with await aio_pika.connect(url, timeout=30) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(QUEUE, durable=True)
        message = await queue.get(no_ack=True, fail=False, timeout=30)
        return message.body if message else None


async def test_messages_survive_kill_and_restart_but_not_a_wipe(services: Services) -> None:
    """Same port, same password, same data, until the data is taken away."""
    broker, url = services.rabbitmq, services.amqp_url
    await publish(url, b"first")
    broker.sync_definitions()
    broker.kill()
    with pytest.raises(ConnectionError):
        await take(url)
    broker.start()
    assert await take(url) == b"first"

    await publish(url, b"second")
    broker.restart()
    assert await take(url) == b"second"

    await publish(url, b"third")
    broker.wipe()
    broker.start()
    assert services.amqp_url == url
    assert await take(url) is None


async def test_a_paused_broker_accepts_and_stays_silent(services: Services) -> None:
    """As a host that hangs: TCP answers, AMQP does not."""
    services.rabbitmq.pause()
    with pytest.raises(TimeoutError):
        await aio_pika.connect(services.amqp_url, timeout=0.5)
    services.rabbitmq.resume()
    await publish(services.amqp_url, b"after")
    assert await take(services.amqp_url) == b"after"


async def test_virtual_hosts_are_replaced_by_empty_ones(services: Services) -> None:
    """The way tests get a broker of their own without waiting for one."""
    services.rabbitmq.replace_vhosts(new=["one", "two"])
    url = services.rabbitmq.url_of("one")
    await publish(url, b"gone soon")
    services.rabbitmq.replace_vhosts(old=["one", "two"], new=["one"])
    assert await take(url) is None
    listed = services.rabbitmqctl("list_vhosts").split()
    assert "one" in listed
    assert "two" not in listed


def test_stop_leaves_neither_node_nor_epmd(services: Services) -> None:
    """`erl` likes to start an epmd that outlives everything."""
    marker = str(services.directory)
    services.rabbitmq.stop()
    assert not services.state.processes
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if marker in " ".join(process.info["cmdline"] or [])
        and "headway_dev.guardian" not in process.info["cmdline"]
    ]
    assert left == []
    services.rabbitmq.start()


def test_a_port_that_another_takes_in_between_is_chosen_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port for other nodes, which RabbitMQ looks at first, before it has a log."""
    free_port = ports.free_port
    with (
        socket.create_server((ports.LOOPBACK, 0)) as other,
        private_services(tmp_path, start=False) as found,
    ):
        chosen = iter([free_port(), other.getsockname()[1]])
        monkeypatch.setattr(ports, "free_port", lambda: next(chosen, None) or free_port())
        found.rabbitmq.start()
        assert found.rabbitmq.is_running
        assert next(chosen, None) is None
        found.rabbitmq.stop()
