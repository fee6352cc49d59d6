"""What the broker's tests share: background loops, a raw connection, dispatches to publish."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from aio_pika.abc import AbstractConnection
from pydantic import SecretStr

from headway_core import trace_context
from headway_core.broker import connected
from headway_core.job import Dispatch

POLL_SECONDS = 0.01
PATIENCE_SECONDS = 60.0


@pytest.fixture
def url(amqp_url: str) -> SecretStr:
    """A fresh virtual host."""
    return SecretStr(amqp_url)


@pytest.fixture
async def connection(url: SecretStr) -> AsyncIterator[AbstractConnection]:
    """A connection of the test's own, to look at the broker with."""
    async with connected(url, name="test") as connection:
        yield connection


@asynccontextmanager
async def running(*loops: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run loops while the block runs; what one of them raises ends the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        yield
        for task in tasks:
            task.cancel()


async def until(condition: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Poll until it holds, or fail."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 -- what is waited for sets no event
            await asyncio.sleep(POLL_SECONDS)


def dispatch(queue: str = "default", **given: Any) -> Dispatch:
    """A dispatch of a job that nobody stored."""
    context = trace_context.new(sampled=False)
    fields: dict[str, Any] = {
        "outbox_id": 1,
        "job_id": uuid4(),
        "dispatch_no": 1,
        "queue": queue,
        "priority": 4,
        "dead": False,
        "type": "noop",
        "traceparent": context.traceparent,
        "tracestate": context.tracestate,
    }
    return Dispatch(**(fields | given))
