"""What the fault tests share: a store behind a proxy, stacks of processes to ill-treat."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from headway_core.database import Database
from headway_dev.services import AMQP_VARIABLE, Services
from tests.end_to_end.stack import query
from tests.faults.proxy import Proxy, proxied
from tests.faults.rig import Rig


@pytest.fixture
async def postgres_proxy(database_url: str) -> AsyncIterator[Proxy]:
    """A proxy before the shared Postgres, on a database of the test's own."""
    async with proxied(database_url) as proxy:
        yield proxy


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool that no fault touches, for looking."""
    database = await Database.connect(database_url, name="onlooker", size=6)
    yield database
    await database.close()


@pytest.fixture
async def troubled(postgres_proxy: Proxy) -> AsyncIterator[Database]:
    """A pool whose connections lead through the proxy."""
    database = await Database.connect(
        postgres_proxy.url, name="troubled", size=4, timeout_seconds=1.5
    )
    yield database
    await database.close()


@pytest.fixture(scope="session")
def _rig(
    services: Services,
    template_database: str,
    _vhosts: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rig]:
    if not services.has_rabbitmq:
        pytest.skip(f"{AMQP_VARIABLE} is set, and there we cannot make virtual hosts")
    name = f"headway_faults_{os.getpid()}"
    template = urlsplit(template_database).path.lstrip("/")
    query(services.database_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    rig = Rig(
        services,
        database_url=urlunsplit(urlsplit(services.database_url)._replace(path=f"/{name}")),
        amqp_url=services.rabbitmq.url_of(_vhosts.take()),
        directory=tmp_path_factory.mktemp("rig"),
    )
    rig.start_server()
    yield rig
    rig.stack.stop()
    query(services.database_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
async def rig(_rig: Rig) -> AsyncIterator[Rig]:
    """A server on the shared services, for faults of processes; each test starts its workers."""
    yield _rig
    await _rig.recover()


@pytest.fixture(scope="session")
def _service_rig(
    _fault_services: Services,
    reset_services: Callable[[Services], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rig]:
    reset_services(_fault_services)
    rig = Rig(
        _fault_services,
        database_url=_fault_services.database_url,
        amqp_url=_fault_services.amqp_url,
        directory=tmp_path_factory.mktemp("service-rig"),
    )
    rig.start_server()
    yield rig
    rig.stack.stop()


@pytest.fixture
async def service_rig(_service_rig: Rig) -> AsyncIterator[Rig]:
    """A server on a Postgres and a RabbitMQ of its own, to be killed, frozen and wiped."""
    yield _service_rig
    await _service_rig.recover()
