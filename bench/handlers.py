"""What the workers of the benchmark run: `headway worker bench.handlers:jobs`."""

import asyncio
import random
import time

from headway_worker import Context, Jobs

jobs = Jobs()


@jobs.handler("bench.noop")
async def noop(_ctx: Context, _payload: object) -> None:
    """Do nothing."""


@jobs.handler("bench.small_result")
async def small_result(_ctx: Context, _payload: object) -> dict[str, int]:
    """Return at once, with a small result."""
    return {"pages": 12}


@jobs.handler("bench.progress")
async def progress(ctx: Context, payload: dict[str, float]) -> None:
    """Report progress `reports` times, `seconds` apart give or take a fifth.

    The message is the Unix time of the report. Jobs that started together drift apart.
    """
    reports = int(payload["reports"])
    for number in range(1, reports + 1):
        await asyncio.sleep(payload["seconds"] * random.uniform(0.8, 1.2))
        ctx.progress(number, reports, message=repr(time.time()))


@jobs.handler("bench.wait")
async def wait(_ctx: Context, _payload: object) -> None:
    """Run until the worker drains."""
    await asyncio.sleep(600)
