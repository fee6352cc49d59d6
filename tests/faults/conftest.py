"""What the fault tests share: a store behind a proxy, stacks of processes to ill-treat.

Whatever a case does to its database, the history checker reads it at the end: `history_is_checked`.
"""

import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import pytest

from headway_core.database import Database
from headway_dev.services import AMQP_VARIABLE, Services
from tests.end_to_end.stack import query
from tests.faults.history import check
from tests.faults.lending import PASSED, judged, served
from tests.faults.proxy import Proxy, proxied
from tests.faults.rig import Rig

TIMEOUT_SECONDS: Final = 300
"""Of a test, which has many waits with a bound of their own."""
DEFAULTS: Final = {
    "HEADWAY_LEASE_SECONDS": "15",
    "HEADWAY_HEARTBEAT_SECONDS": "5",
    "HEADWAY_HANDOFF_SECONDS": "120",
    "HEADWAY_DRAIN_SECONDS": "30",
    "HEADWAY_GRACE_SECONDS": "10",
}
RIGS: Final = ("rig", "service_rig", "default_rig", "small_disk_rig")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the cases of this directory time, unless they say how much."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            asked = item.config.getoption("timeout") or 0
            item.add_marker(pytest.mark.timeout(max(asked, TIMEOUT_SECONDS)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the case itself passed."""
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture(autouse=True)
async def history_is_checked(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Every case has a history, and it is checked after the case, so that none can forget it.

    Those with a rig: by the rig's fixture, at rest if the case passed.
    """
    if any(name in request.fixturenames for name in RIGS):
        yield
        return
    database_url = request.getfixturevalue("database_url")
    yield
    database = await Database.connect(database_url, name="checker", size=2)
    try:
        violations = await check(database, at_rest=False)
    finally:
        await database.close()
    assert not violations, violations


@pytest.fixture
async def postgres_proxy(database_url: str) -> AsyncIterator[Proxy]:
    """A proxy before the shared Postgres, on a database of the test's own."""
    async with proxied(database_url) as proxy:
        yield proxy


@pytest.fixture
async def troubled(postgres_proxy: Proxy) -> AsyncIterator[Database]:
    """A pool whose connections lead through the proxy."""
    database = await Database.connect(
        postgres_proxy.url, name="troubled", size=4, timeout_seconds=1.5
    )
    yield database
    await database.close()


@pytest.fixture(scope="module")
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
    vhost = _vhosts.take()
    rig = Rig(
        services,
        database_url=urlunsplit(urlsplit(services.database_url)._replace(path=f"/{name}")),
        amqp_url=services.rabbitmq.url_of(vhost),
        directory=tmp_path_factory.mktemp("rig"),
    )
    try:
        rig.start_server()
        yield rig
    finally:
        rig.stack.stop()
        query(services.database_url, f'DROP DATABASE "{name}" WITH (FORCE)')
        _vhosts.give_back(vhost)


@pytest.fixture
async def rig(_rig: Rig, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A server on the shared services, for faults of processes; each test starts its workers."""
    async with judged(_rig, request):
        yield _rig


@pytest.fixture(scope="module")
def _service_rig(
    _fault_services: Services,
    reset_services: Callable[[Services], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rig]:
    reset_services(_fault_services)
    with served(_fault_services, tmp_path_factory.mktemp("service-rig")) as rig:
        yield rig


@pytest.fixture
async def service_rig(_service_rig: Rig, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """A server on a Postgres and a RabbitMQ of its own, to be killed, frozen and wiped."""
    async with judged(_service_rig, request):
        yield _service_rig


@pytest.fixture
async def default_rig(
    fault_services: Services, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Rig]:
    """A service rig whose processes have the default times."""
    with served(fault_services, tmp_path, **DEFAULTS) as rig:
        async with judged(rig, request):
            yield rig
