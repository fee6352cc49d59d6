"""What the workers of a soak run: `headway worker tests.soak.handlers:jobs`."""

import asyncio
import mmap
import os
import signal
import time
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

from headway_worker import Context, Jobs, PermanentError

jobs = Jobs()
Payload = dict[str, Any]
HASTE: Final = timedelta(milliseconds=100)
ROUGH: Final = "rough"
"""The queue of jobs that take their process down; the worker that lives on does not serve it."""
LOOK_SECONDS: Final = 0.1
COUNTS_VARIABLE: Final = "HEADWAY_TEST_SOAK_COUNTS"
"""A directory, a colon, and how many jobs there are."""


@jobs.handler("soak.short", max_attempts=50, initial_backoff=HASTE)
async def short(ctx: Context, payload: Payload) -> Payload:
    """Take milliseconds."""
    await asyncio.sleep(payload["seconds"])
    return {"answer": payload["number"]}


@jobs.handler("soak.later", max_attempts=50, initial_backoff=HASTE)
async def later(ctx: Context, payload: Payload) -> Payload:
    """The same, submitted with a delay."""
    return await short(ctx, payload)


@jobs.handler("soak.long", max_attempts=50, initial_backoff=HASTE)
async def long(ctx: Context, payload: Payload) -> Payload:
    """Take longer than the hand-off, and tell how far it is."""
    begun = time.monotonic()
    while (taken := time.monotonic() - begun) < payload["seconds"]:
        ctx.progress(taken, payload["seconds"])
        await asyncio.sleep(LOOK_SECONDS)
    return {"answer": payload["number"]}


@jobs.handler("soak.flaky", max_attempts=50, initial_backoff=HASTE, multiplier=1.0)
async def flaky(ctx: Context, payload: Payload) -> Payload:
    """Fail at first."""
    if ctx.attempt <= payload["failures"]:
        raise ConnectionResetError("the other side hung up")
    return {"answer": payload["number"]}


@jobs.handler("soak.hopeless")
async def hopeless(ctx: Context, payload: Payload) -> Payload:
    """Fail for good."""
    raise PermanentError("no such country")


@jobs.handler("soak.poison", queue=ROUGH, initial_backoff=HASTE)
async def poison(ctx: Context, payload: Payload) -> Payload:
    """Take one's process down, every time."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@jobs.handler("soak.steps", max_attempts=50, initial_backoff=HASTE)
async def steps(ctx: Context, payload: Payload) -> Payload:
    """Count in steps; the last one sees what the first ones stored."""
    total = 0
    for number in range(3):
        total += await ctx.step(f"add-{number}", _third, payload["number"], number)
    return {"answer": total}


def _third(number: int, part: int) -> int:
    """The three thirds of a number make the number."""
    return (number + part) // 3


@jobs.handler("soak.thread", max_attempts=50, initial_backoff=HASTE)
def thread(ctx: Context, payload: Payload) -> Payload:
    """Run in a thread."""
    time.sleep(payload["seconds"])
    return {"answer": payload["number"]}


@jobs.handler("soak.child", max_attempts=50, initial_backoff=HASTE, isolation="process")
async def child(ctx: Context, payload: Payload) -> Payload:
    """Run in a child process."""
    return {"answer": payload["number"]}


@jobs.handler("soak.endless", max_attempts=50, initial_backoff=HASTE)
async def endless(ctx: Context, payload: Payload) -> Payload:
    """Wait to be cancelled, for a while."""
    await asyncio.sleep(payload["seconds"])
    return {"answer": payload["number"]}


@jobs.handler("soak.count")
async def count(ctx: Context, payload: Payload) -> None:
    """Nothing, counted where Headway does not see it."""
    counts = _counts()
    number = payload["number"]
    counts[number] = min(255, counts[number] + 1)


@cache
def _counts() -> mmap.mmap:
    """One byte for each job: how often it ran in this process. It outlives the process."""
    directory, _, size = os.environ[COUNTS_VARIABLE].rpartition(":")
    with (Path(directory) / f"{os.getpid()}.counts").open("w+b") as file:
        file.truncate(int(size))
        return mmap.mmap(file.fileno(), int(size))
