"""What cannot work says so in one precise sentence, soon, and without any password."""

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from headway import JobState
from headway_dev import ports
from headway_dev.children import Child
from tests.end_to_end.conftest import MakeStack
from tests.end_to_end.stack import HANDLERS, Ran, Stack, eventually, headway, reaches, run

SOON_SECONDS = 15.0


@pytest.fixture(scope="module")
def stack(new_stack: MakeStack) -> Stack:
    """Nothing of it runs: each test starts what is to fail."""
    return new_stack(HEADWAY_LOG_LEVEL="warning")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else can while the test runs."""
    with socket.socket() as reserved:
        reserved.bind((ports.LOOPBACK, 0))
        yield reserved.getsockname()[1]


async def start(stack: Stack, *arguments: str, **settings: str) -> Ran:
    """Run something that is expected to end by itself; its output must hold no secret."""
    began = time.monotonic()
    environment = {**stack.environment, **settings}
    ran = await run(headway(), *arguments, environment=environment, timeout=SOON_SECONDS)
    assert time.monotonic() - began < SOON_SECONDS
    for name in ("HEADWAY_DATABASE_URL", "HEADWAY_AMQP_URL"):
        password = urlsplit(environment[name]).password
        assert password
        assert password not in ran.output + ran.errors
    return ran


@pytest.mark.parametrize("role", ["server", "worker"])
async def test_an_old_schema_is_refused_with_the_command_that_mends_it(
    stack: Stack, empty_database_url: str, role: str
) -> None:
    arguments = [role, HANDLERS] if role == "worker" else [role]
    ran = await start(stack, *arguments, HEADWAY_DATABASE_URL=empty_database_url)
    assert ran.code == 1
    assert "schema" in ran.errors
    assert "headway migrate" in ran.errors
    assert "Traceback" not in ran.errors

    migrated = await start(stack, "migrate", HEADWAY_DATABASE_URL=empty_database_url)
    assert migrated.code == 0


async def test_an_occupied_port_is_refused_also_when_a_server_of_ours_has_it(stack: Stack) -> None:
    """gRPC would share the port, and a stray server would take half of the connections."""
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, 0))
        taken.listen()
        listen = f"{ports.LOOPBACK}:{taken.getsockname()[1]}"
        ran = await start(stack, "server", HEADWAY_LISTEN=listen)
        assert ran.code == 1
        assert listen in ran.errors
        assert "Traceback" not in ran.errors

    server = stack.start_server()
    server.await_ready()
    second = await start(stack, "server")
    assert second.code == 1
    assert stack.target in second.errors
    stack.stop()


@pytest.mark.parametrize("role", ["server", "worker", "migrate"])
async def test_a_wrong_database_url_ends_the_command_with_the_reason(
    stack: Stack, closed_port: int, role: str
) -> None:
    arguments = [role, HANDLERS] if role == "worker" else [role]
    away = f"postgresql://somebody:nottobeshown@{ports.LOOPBACK}:{closed_port}/headway"
    denied = urlsplit(stack.database_url)
    host = denied.netloc.rpartition("@")[2]
    wrong = denied._replace(netloc=f"headway:nottobeshown@{host}").geturl()
    for url, word in ((away, "database"), (wrong, "password authentication failed")):
        ran = await start(stack, *arguments, HEADWAY_DATABASE_URL=url)
        assert ran.code == 1, (url, ran)
        assert word in ran.errors
        assert "Traceback" not in ran.errors

    ran = await start(
        stack, *arguments, HEADWAY_DATABASE_URL="mysql://somebody:nottobeshown@localhost/headway"
    )
    assert ran.code in {1, 2}
    assert "HEADWAY_DATABASE_URL" in ran.errors
    assert "Traceback" not in ran.errors


async def test_all_wrong_settings_are_reported_together(stack: Stack) -> None:
    ran = await start(
        stack,
        "server",
        HEADWAY_LEASE_SECONDS="soon",
        HEADWAY_REFLECTION="maybe",
        HEADWAY_LISTEN="nowhere",
    )
    assert ran.code == 2
    for name in ("HEADWAY_LEASE_SECONDS", "HEADWAY_REFLECTION", "HEADWAY_LISTEN"):
        assert name in ran.errors
    assert "soon" not in ran.errors


async def test_refused_broker_credentials_are_named_while_submits_are_accepted(
    stack: Stack,
) -> None:
    """RabbitMQ is not needed for the promise, only for the work: the job runs once it lets us in."""
    parts = urlsplit(stack.amqp_url)
    host = parts.netloc.rpartition("@")[2]
    wrong = parts._replace(netloc=f"headway:nottobeshown@{host}").geturl()
    server = stack.start_server(HEADWAY_AMQP_URL=wrong)
    server.await_ready()
    worker = stack.start_worker(HEADWAY_AMQP_URL=wrong)

    def refused(child: Child) -> bool:
        return "ACCESS_REFUSED" in child.log.read_text()

    for child in (server, worker):
        await eventually(lambda child=child: refused(child), what=f"{child.name} says why")
        assert "nottobeshown" not in child.log.read_text()
    async with stack.client() as client:
        job = await client.submit("e2e.work", {})
        assert (await client.get(job.id)).state is JobState.PENDING
        stack.stop()
        stack.start()
        await reaches(client, job.id, JobState.COMPLETED)
