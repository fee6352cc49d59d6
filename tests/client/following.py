"""What the tests of watches share."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from headway import (
    Client,
    Event,
    Update,
)
from tests.client.scripted_job import ScriptedJob
from tests.client.scripted_server import ScriptedService

WITHIN = 60


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not reached():  # noqa: ASYNC110 - the state is the scripted server's, without events
            await asyncio.sleep(0.01)


def sequences(updates: list[Update]) -> list[int]:
    return [update.sequence for update in updates if isinstance(update, Event)]


async def collect(client: Client, job_id: str, **arguments: object) -> list[Update]:
    async with asyncio.timeout(WITHIN), aclosing(client.watch(job_id, **arguments)) as updates:
        return [update async for update in updates]


async def history(scripted: ScriptedJob, steps: int) -> None:
    """STARTED, `steps` finished steps, COMPLETED."""
    await scripted.start()
    for number in range(steps):
        await scripted.event("STEP_COMPLETED", "RUNNING", f"step {number}")
        await scripted.advance(number + 1, steps)
    await scripted.complete(pages=12)


async def until_streams(service: ScriptedService, count: int) -> None:
    await until(lambda: service.streams >= count and service.open_streams > 0)
