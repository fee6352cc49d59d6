"""Private PostgreSQL and RabbitMQ for the tests that ask for them, started once a session.

`database_url`    a fresh, migrated database for one test; `database` is a pool on it
`amqp_url`        a fresh virtual host for one test
`fault_services`  a PostgreSQL and a RabbitMQ of the test's own to kill, stop, freeze and wipe
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import aio_pika
import asyncpg
import hypothesis
import psutil
import pytest

from headway_core.database import Database
from headway_dev.errors import DirectoryBusy
from headway_dev.rabbitmq import VHOST
from headway_dev.schema import migrate
from headway_dev.services import AMQP_VARIABLE, DATABASE_VARIABLE, Services, private_services
from tests.pools import DatabasePool, VhostPool

Result = TypeVar("Result")

# A shell that runs tests in the background has them ignore it, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
# One directory for each pytest process that runs at the same time; used again by later sessions.
SLOTS_DIRECTORY = ROOT / ".cache" / "test-services"
SLOTS_MAX = 64
VHOST_SECONDS_MAX = 30.0
TEMPLATE = f"headway_template_{os.getpid()}"
# Python's own helper of multiprocessing; it lives as long as the interpreter.
KNOWN_CHILDREN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


# An example may take as long as a busy machine makes it.
hypothesis.settings.register_profile("headway", deadline=None)
hypothesis.settings.load_profile("headway")

# A minute each, and more: begun last, one would run on while the other processes are done.
LONG_FILES = (
    "tests/worker/test_worker.py",
    "tests/end_to_end/test_demo.py",
    "tests/service/test_app.py",
)
QUITE_LONG = (
    "tests/faults/",
    "tests/end_to_end/",
    "tests/model/",
    "tests/worker/",
    "tests/dev/",
    "tests/broker/",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, then those that take real processes; in a file all stays as it is."""

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(ROOT).as_posix()
        if path in LONG_FILES:
            return LONG_FILES.index(path)
        return len(LONG_FILES) + (not path.startswith(QUITE_LONG))

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind() -> Iterator[None]:
    """Set up first and so torn down last: by then every child of the session has to have ended."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = set(psutil.Process().children(recursive=True)) - before
    lines = [line for line in map(_command_line, left) if line]
    assert not lines, "processes left behind:\n" + "\n".join(lines)


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """The session's services, none started yet; shared, so not to be ill-treated.

    A test that needs no more than a URL asks for `database_url` or `amqp_url` instead.
    """
    with _slot_services("shared", durable=False) as found:
        yield found


@pytest.fixture(scope="session")
def template_database(services: Services) -> Iterator[str]:
    """The URL of a migrated database, which `database_url` copies: not to be connected to."""
    if services.has_postgres:
        services.postgres.start()
    url = _with_database(services.database_url, TEMPLATE)
    _execute(services.database_url, f'CREATE DATABASE "{TEMPLATE}"')
    migrate(url)
    yield url
    _execute(services.database_url, f'DROP DATABASE "{TEMPLATE}" WITH (FORCE)')


@pytest.fixture(scope="session")
def _databases(services: Services, template_database: str) -> Iterator[DatabasePool]:
    pool = DatabasePool(services.database_url, template=TEMPLATE)
    yield pool
    pool.close()


@pytest.fixture
def database_url(services: Services, _databases: DatabasePool) -> Iterator[str]:
    """The URL of a fresh, migrated database for one test."""
    name = _databases.take()
    yield _with_database(services.database_url, name)
    _databases.drop(name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool on the test's database, past every proxy."""
    database = await Database.connect(database_url, name="test", size=10)
    yield database
    await database.close()


@pytest.fixture
def empty_database_url(services: Services) -> Iterator[str]:
    """The URL of a fresh database with no schema at all, for tests of the migrations."""
    if services.has_postgres:
        services.postgres.start()
    name = f"headway_empty_{os.getpid()}"
    _execute(services.database_url, f'CREATE DATABASE "{name}"')
    yield _with_database(services.database_url, name)
    _execute(services.database_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def _vhosts(services: Services) -> VhostPool | None:
    if not services.has_rabbitmq:
        return None
    services.rabbitmq.start()
    return VhostPool(services.rabbitmq)


@pytest.fixture
def amqp_url(services: Services, _vhosts: VhostPool | None) -> Iterator[str]:
    """The URL of a fresh virtual host for one test.

    With HEADWAY_AMQP_URL set it is that one, the same for every test: we cannot make others there.
    """
    if _vhosts is None:
        yield services.amqp_url
        return
    name = _vhosts.take()
    yield services.rabbitmq.url_of(name)
    _vhosts.give_back(name)


@pytest.fixture(scope="session")
def _fault_services() -> Iterator[Services]:
    for variable in (DATABASE_VARIABLE, AMQP_VARIABLE):
        if os.environ.get(variable):
            pytest.skip(f"{variable} is set, and that service is not ours to kill")
    with _slot_services("faults", durable=True) as found:
        yield found


@pytest.fixture
def fault_services(_fault_services: Services) -> Services:
    """A running PostgreSQL (migrated, empty) and RabbitMQ (empty), to be killed, frozen or wiped.

    Kept between tests, cleaned before each: `database_url` and `amqp_url` of it stay the same.
    """
    _reset(_fault_services)
    return _fault_services


@pytest.fixture(scope="session")
def reset_services() -> Callable[[Services], None]:
    """Bring services up again, whatever was done to them, and empty them."""
    return _reset


@contextlib.contextmanager
def _slot_services(kind: str, *, durable: bool) -> Iterator[Services]:
    """Own the first free slot; start from nothing and leave nothing."""
    with contextlib.ExitStack() as stack:
        for slot in range(SLOTS_MAX):
            owner = private_services(
                SLOTS_DIRECTORY / f"{kind}-{slot}",
                durable=durable,
                start=False,
                patience_seconds=0,
            )
            with contextlib.suppress(DirectoryBusy):
                found = stack.enter_context(owner)
                break
        else:
            raise RuntimeError(f"all {SLOTS_MAX} slots below {SLOTS_DIRECTORY} are in use")
        found.erase()
        stack.callback(found.erase)
        yield found


def _reset(found: Services) -> None:
    found.postgres.resume()
    found.rabbitmq.resume()
    found.start()
    maintenance = found.postgres.url_of("postgres")
    _execute(maintenance, "DROP DATABASE IF EXISTS headway WITH (FORCE)")
    _execute(maintenance, "CREATE DATABASE headway")
    migrate(found.database_url)
    found.rabbitmq.replace_vhosts(old=[VHOST], new=[VHOST])
    _await_vhost(found.amqp_url)


def _await_vhost(url: str) -> None:
    """Return once the virtual host lets us in: a node refuses while it still starts one."""

    async def connect() -> None:
        deadline = time.monotonic() + VHOST_SECONDS_MAX
        while True:
            try:
                connection = await aio_pika.connect(url, timeout=5)
            except (OSError, aio_pika.exceptions.AMQPError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
            else:
                return await connection.close()

    _run_apart(connect)


def _execute(url: str, statement: str) -> None:
    async def connect_and_execute() -> None:
        connection = await asyncpg.connect(url, timeout=30)
        try:
            await connection.execute(statement, timeout=60)
        finally:
            await connection.close(timeout=10)

    _run_apart(connect_and_execute)


def _run_apart(function: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run it on a loop of its own in a thread of its own: the test's loop is left untouched."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(function())).result()


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _command_line(process: psutil.Process) -> str:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return f"{process.pid} (a zombie that nobody waited for)"
        line = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
    return "" if any(known in line for known in KNOWN_CHILDREN) else f"{process.pid} {line}"
