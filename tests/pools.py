"""Databases and virtual hosts for tests, made ahead: one at a time each would cost more than it."""

import asyncio
import itertools
import os
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import asyncpg

from headway_dev.rabbitmq import RabbitMq

VHOST_BATCHES = (4, 8, 16)


class DatabasePool:
    """Copies of a template: the next is made, and the last one dropped, while a test runs.

    All over one connection, on a loop in a thread of its own: the tests' loops are left alone.
    """

    def __init__(self, url: str, *, template: str) -> None:
        """`url` is of any other database of that server. Connects."""
        self._template = template
        self._numbers = itertools.count(1)
        self._thread = ThreadPoolExecutor(1)
        self._runner = asyncio.Runner()
        self._connection = self._run(asyncpg.connect(url, timeout=60)).result()
        self._drops: list[Future[Any]] = []
        self._next = self._make()

    def take(self) -> str:
        """Return the name of one that nobody had."""
        (name, made), self._next = self._next, self._make()
        made.result()
        return name

    def drop(self, name: str) -> None:
        """Be done with one, whoever is still connected to it. Does not wait."""
        statement = f'DROP DATABASE "{name}" WITH (FORCE)'
        self._drops.append(self._run(self._connection.execute(statement, timeout=60)))

    def close(self) -> None:
        """Leave none behind. Raises what went wrong with the drops."""
        name, made = self._next
        made.result()
        self.drop(name)
        for dropped in self._drops:
            dropped.result()
        self._run(self._connection.close(timeout=60)).result()
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def _make(self) -> tuple[str, Future[Any]]:
        name = f"headway_test_{os.getpid()}_{next(self._numbers)}"
        statement = f'CREATE DATABASE "{name}" TEMPLATE "{self._template}"'
        return name, self._run(self._connection.execute(statement, timeout=60))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return self._thread.submit(self._runner.run, work)


class VhostPool:
    """Virtual hosts made in batches: the Erlang start of a call costs more than the vhosts do."""

    def __init__(self, rabbitmq: RabbitMq) -> None:
        self._rabbitmq = rabbitmq
        self._batches = itertools.chain(VHOST_BATCHES, itertools.repeat(VHOST_BATCHES[-1]))
        self._numbers = itertools.count(1)
        self._fresh: list[str] = []
        self._used: list[str] = []

    def take(self) -> str:
        """Return one that nobody had; it is there until the next batch after `give_back`."""
        if not self._fresh:
            size = next(self._batches)
            names = [f"test-{next(self._numbers)}" for _ in range(size)]
            self._rabbitmq.replace_vhosts(old=self._used, new=names)
            self._used, self._fresh = [], names
        return self._fresh.pop(0)

    def give_back(self, name: str) -> None:
        """Be done with one."""
        self._used.append(name)
