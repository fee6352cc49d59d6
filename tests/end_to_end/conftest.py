"""Stacks of real processes: shared ones, and others for tests that end what they run on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from headway_dev.services import AMQP_VARIABLE, Services
from tests.end_to_end.stack import Gate, Stack, query

MakeStack = Callable[..., Stack]


@pytest.fixture(scope="session")
def new_stack(
    services: Services,
    template_database: str,
    _vhosts: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MakeStack]:
    """Make stacks with a database and a virtual host of their own, no process started yet."""
    if not services.has_rabbitmq:
        pytest.skip(f"{AMQP_VARIABLE} is set, and there we cannot make virtual hosts")
    made: list[Stack] = []
    template = urlsplit(template_database).path.lstrip("/")

    def make(**settings: str) -> Stack:
        name = f"headway_stack_{uuid4().hex}"
        query(services.database_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        stack = Stack(
            services,
            database_url=urlunsplit(urlsplit(services.database_url)._replace(path=f"/{name}")),
            amqp_url=services.rabbitmq.url_of(_vhosts.take()),
            directory=tmp_path_factory.mktemp("stack"),
            settings=settings,
        )
        made.append(stack)
        return stack

    yield make
    for stack in made:
        stack.stop()
        name = urlsplit(stack.database_url).path.lstrip("/")
        query(services.database_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def common_stack(new_stack: MakeStack) -> Stack:
    """A server and a worker for tests that only submit, and do not mind each other's jobs."""
    stack = new_stack()
    stack.start()
    return stack


@pytest.fixture(scope="session")
def one_slot_stack(new_stack: MakeStack) -> Stack:
    """A server and a worker that runs one job at a time; each test leaves it idle."""
    stack = new_stack()
    stack.start(options=("--concurrency", "1", "--processes", "1"))
    return stack


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """What jobs of the test wait for; opened at its end, so that none waits on for others."""
    made = Gate(tmp_path / "gate")
    yield made
    made.open()


@pytest.fixture
def fault_stack(fault_services: Services, tmp_path: Path) -> Iterator[Stack]:
    """A stack on services that may be stopped, killed and wiped; no process started yet."""
    stack = Stack(
        fault_services,
        database_url=fault_services.database_url,
        amqp_url=fault_services.amqp_url,
        directory=tmp_path,
    )
    yield stack
    stack.stop()
