"""Waiting with a deadline, and loops beside a test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any

PATIENCE_SECONDS = 60.0


async def eventually(
    holds: Callable[[], bool | Awaitable[bool]], *, seconds: float = PATIENCE_SECONDS
) -> None:
    """Wait until it holds, looking often; fail after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = holds()
                if await found if isawaitable(found) else found:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s") from None


@asynccontextmanager
async def running_beside(*loops: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run loops beside the block and cancel them at its end."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        yield
        for task in tasks:
            task.cancel()
