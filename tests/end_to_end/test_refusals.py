"""What cannot work says so in one precise sentence, soon, and without any password."""

import asyncio
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from headway import JobState
from headway_dev import ports
from headway_dev.children import Child
from tests.end_to_end.conftest import MakeStack
from tests.end_to_end.stack import HANDLERS, Ran, Stack, eventually, headway, reaches, run

SOON_SECONDS = 60.0
SECRET = "nottobeshown"
COMMANDS = {"server": ("server",), "worker": ("worker", HANDLERS), "migrate": ("migrate",)}


@pytest.fixture(scope="module")
def made_stack(new_stack: MakeStack) -> Stack:
    return new_stack(HEADWAY_LOG_LEVEL="warning")


@pytest.fixture
def stack(made_stack: Stack) -> Iterator[Stack]:
    """Nothing of it runs: each test starts what is to fail."""
    yield made_stack
    made_stack.stop()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else can while the test runs."""
    with socket.socket() as reserved:
        reserved.bind((ports.LOOPBACK, 0))
        yield reserved.getsockname()[1]


async def start(stack: Stack, role: str, **settings: str) -> Ran:
    """Run a command that is expected to end by itself, in words for people."""
    ran = await run(
        headway(),
        *COMMANDS[role],
        environment={**stack.environment, **settings},
        timeout=SOON_SECONDS,
    )
    text = ran.output + ran.errors
    assert "Traceback" not in text
    passwords = [urlsplit(url).password for url in (stack.database_url, stack.amqp_url)]
    assert not any(password and password in text for password in [*passwords, SECRET])
    return ran


def with_wrong_password(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"headway:{SECRET}@{host}").geturl()


async def test_an_old_schema_is_refused_with_the_command_that_mends_it(
    stack: Stack, empty_database_url: str
) -> None:
    for ran in await asyncio.gather(
        start(stack, "server", HEADWAY_DATABASE_URL=empty_database_url),
        start(stack, "worker", HEADWAY_DATABASE_URL=empty_database_url),
    ):
        assert ran.code == 1
        assert "schema" in ran.errors
        assert "headway migrate" in ran.errors
    assert (await start(stack, "migrate", HEADWAY_DATABASE_URL=empty_database_url)).code == 0


async def test_an_occupied_port_is_refused_also_when_a_server_of_ours_has_it(stack: Stack) -> None:
    """Shared, as gRPC does by default, a stray server would take half of the connections."""
    with socket.socket() as taken:
        taken.bind((ports.LOOPBACK, 0))
        taken.listen()
        listen = f"{ports.LOOPBACK}:{taken.getsockname()[1]}"
        stack.start(workers=0)
        for address in (listen, stack.target):
            ran = await start(stack, "server", HEADWAY_LISTEN=address)
            assert ran.code == 1
            assert address in ran.errors


@pytest.fixture
def wrong_urls(stack: Stack, closed_port: int) -> dict[str, str]:
    """An address where nobody listens, and a password that is refused; with the words for each."""
    away = f"postgresql://somebody:{SECRET}@{ports.LOOPBACK}:{closed_port}/headway"
    return {
        away: "does not answer",
        with_wrong_password(stack.database_url): "password authentication failed",
    }


@pytest.mark.parametrize("role", ["server", "migrate"])
async def test_a_wrong_database_url_ends_the_command_with_the_reason(
    stack: Stack, wrong_urls: dict[str, str], role: str
) -> None:
    nonsense = f"mysql://somebody:{SECRET}@{ports.LOOPBACK}/headway"
    expected = {**wrong_urls, nonsense: "HEADWAY_DATABASE_URL"}
    endings = await asyncio.gather(
        *(start(stack, role, HEADWAY_DATABASE_URL=url) for url in expected)
    )
    for ran, words in zip(endings, expected.values(), strict=True):
        assert ran.code in {1, 2}
        assert words in ran.errors


async def test_a_worker_with_a_wrong_database_url_says_what_it_waits_for(
    stack: Stack, wrong_urls: dict[str, str]
) -> None:
    """Workers may be started before their database is, so it waits; but not in silence."""
    for url, words in wrong_urls.items():
        worker = stack.start_worker(HEADWAY_DATABASE_URL=url)
        await eventually(lambda: words in worker.log.read_text(), what=words)  # noqa: B023 - awaited
        assert SECRET not in worker.log.read_text()


async def test_all_wrong_settings_are_reported_together(stack: Stack) -> None:
    wrong = {
        "HEADWAY_LEASE_SECONDS": "soon",
        "HEADWAY_REFLECTION": "perhaps",
        "HEADWAY_LISTEN": "nowhere",
    }
    ran = await start(stack, "server", **wrong)
    assert ran.code == 2
    for name, value in wrong.items():
        assert name in ran.errors
        assert value not in ran.errors


async def test_refused_broker_credentials_are_named_while_submits_are_accepted(
    stack: Stack,
) -> None:
    """RabbitMQ is needed for the work, not for the promise: the job runs once it lets us in."""
    wrong = with_wrong_password(stack.amqp_url)
    server = stack.start_server(HEADWAY_AMQP_URL=wrong)
    worker = stack.start_worker(HEADWAY_AMQP_URL=wrong)
    server.await_ready()

    async def says_why(child: Child) -> None:
        words = "refuses the user or password of HEADWAY_AMQP_URL"
        await eventually(lambda: words in child.log.read_text(), what=f"{child.name} says why")
        assert SECRET not in child.log.read_text()

    await asyncio.gather(says_why(server), says_why(worker))
    async with stack.client() as client:
        job = await client.submit("e2e.work", {})
        assert (await client.get(job.id)).state is JobState.PENDING
        stack.stop()
        stack.start()
        await reaches(client, job.id, JobState.COMPLETED)
