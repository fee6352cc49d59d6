"""Stacks of real processes, one for each test module."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from headway_dev.services import Services
from tests.end_to_end.stack import Stack, query

MakeStack = Callable[..., Stack]


@pytest.fixture(scope="session")
def _stack_numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture(scope="module")
def new_stack(
    services: Services,
    template_database: str,
    _vhosts: Any,
    _stack_numbers: Iterator[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MakeStack]:
    """Make stacks with a database and a virtual host of their own, no process started yet."""
    made: list[Stack] = []
    databases: list[str] = []

    def make(**settings: str) -> Stack:
        name = f"headway_stack_{os.getpid()}_{next(_stack_numbers)}"
        template = urlsplit(template_database).path.lstrip("/")
        query(services.database_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        databases.append(name)
        url = urlsplit(services.database_url)._replace(path=f"/{name}")
        made.append(
            Stack(
                services,
                database_url=urlunsplit(url),
                amqp_url=services.rabbitmq.url_of(_vhosts.take()) if _vhosts else services.amqp_url,
                directory=tmp_path_factory.mktemp("stack"),
                settings=settings,
            )
        )
        return made[-1]

    yield make
    for stack in made:
        stack.stop()
    for name in databases:
        query(services.database_url, f'DROP DATABASE "{name}" WITH (FORCE)')


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
