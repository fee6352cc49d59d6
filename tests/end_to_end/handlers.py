"""What the workers of these tests run: `headway worker tests.end_to_end.handlers:jobs`.

Every run leaves lines in a journal, a file that outlives the process, so that a test can count the
runs themselves instead of trusting what Headway says about them.
"""

import asyncio
import json
import os
import time
from datetime import timedelta
from pathlib import Path

from headway_worker import Context, Jobs, PermanentError

jobs = Jobs()

LOOK_SECONDS = 0.02
STEP_SECONDS = 0.05
WAIT_SECONDS_MAX = 90.0


@jobs.handler("e2e.work", initial_backoff=timedelta(seconds=0.2), multiplier=1.0)
async def work(ctx: Context, payload: dict[str, object]) -> dict[str, object]:
    """Do what the payload says, in this order; every part may be left out.

    `journal` (a path) gets a line at the beginning and one at the end. `ticks` reports progress so
    often, every `tick_seconds`. `until` waits for a file. `failures` attempts fail. `die` is an
    error that no retry mends.
    """
    note(payload, ctx, "begin")
    ticks = int(str(payload.get("ticks", 0)))
    for tick in range(1, ticks + 1):
        ctx.progress(tick, ticks, step="tick", message=f"tick {tick}")
        await asyncio.sleep(float(str(payload.get("tick_seconds", 0.01))))
    if "until" in payload:
        await appearance(str(payload["until"]))
    if ctx.attempt <= int(str(payload.get("failures", 0))):
        raise ConnectionResetError("the other side hung up")
    if payload.get("die"):
        raise PermanentError("this cannot work")
    note(payload, ctx, "end")
    return {"attempt": ctx.attempt, "echo": payload.get("echo")}


@jobs.handler("e2e.steps")
async def steps(ctx: Context, payload: dict[str, object]) -> dict[str, object]:
    """Take a step each 50 ms until a file is there: a history that grows as long as it has to."""
    count = 0
    while not is_there(str(payload["until"])):
        count += 1
        await ctx.step(f"step {count}", step, count)
        await asyncio.sleep(STEP_SECONDS)
    return {"steps": count}


async def step(number: int) -> int:
    return number


def note(payload: dict[str, object], ctx: Context, what: str) -> None:
    """Append one line; O_APPEND keeps lines of several processes whole."""
    if "journal" in payload:
        line = {
            "what": what,
            "job_id": str(ctx.job_id),
            "attempt": ctx.attempt,
            "pid": os.getpid(),
            "time": time.time(),
        }
        with Path(str(payload["journal"])).open("a") as file:
            file.write(json.dumps(line) + "\n")


def is_there(path: str) -> bool:
    """A file is the one signal that crosses processes."""
    return Path(path).exists()


async def appearance(path: str) -> None:
    """Wait for a file, not for ever: a failing test must not leave a worker that waits."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not is_there(path):
        if time.monotonic() > deadline:
            raise PermanentError(f"{path} did not appear")
        await asyncio.sleep(LOOK_SECONDS)
