"""What the workers of the fault tests run: `headway worker tests.faults.handlers:jobs`.

Every run leaves lines in journals, files that outlive its process: the one that its payload names,
and its worker's, which the environment names.
"""

import asyncio
import ctypes
import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from headway_worker import Context, Jobs, PermanentError

jobs = Jobs()
Payload = dict[str, Any]
HASTE = timedelta(milliseconds=50)
LOOK_SECONDS = 0.02
WAIT_SECONDS_MAX = 120.0
JOURNAL = "FAULTS_JOURNAL"


@jobs.handler("fault.work", initial_backoff=HASTE, multiplier=1.0)
async def work(ctx: Context, payload: Payload) -> Payload:
    """Take so long, or until a file is there; fail so often first."""
    note(ctx, payload, "begin")
    await asyncio.sleep(float(payload.get("seconds", 0)))
    deadline = time.monotonic() + float(payload.get("patience", WAIT_SECONDS_MAX))
    while "until" in payload and not there(payload):
        assert time.monotonic() < deadline
        await asyncio.sleep(LOOK_SECONDS)
    if ctx.attempt <= int(payload.get("failures", 0)):
        raise ConnectionResetError("the other side hung up")
    note(ctx, payload, "end")
    return {"attempt": ctx.attempt}


@jobs.handler("fault.unless", max_attempts=1)
async def unless(ctx: Context, payload: Payload) -> Payload:
    """Fail for good, unless a file is there."""
    note(ctx, payload, "begin")
    if not there(payload):
        raise PermanentError("there is no such file yet")
    return {}


@jobs.handler("fault.steps")
async def steps(ctx: Context, payload: Payload) -> Payload:
    """Finish so many steps, an event each; wait for a file before the last one."""
    note(ctx, payload, "begin")
    for number in range(int(payload["count"])):
        await ctx.step(f"step {number}", _count_step, number)
    while "until" in payload and not there(payload):  # noqa: ASYNC110 - the event is a file
        await asyncio.sleep(LOOK_SECONDS)
    await ctx.step("last", _count_step, -1)
    return {}


async def _count_step(number: int) -> int:
    return number


@jobs.handler("fault.progress")
async def progress(ctx: Context, payload: Payload) -> Payload:
    """Report progress without end, until a file is there."""
    note(ctx, payload, "begin")
    number = 0
    while not there(payload):
        number += 1
        ctx.progress(number, message=str(time.time()))
        await asyncio.sleep(LOOK_SECONDS)
    note(ctx, payload, "end")
    return {}


@jobs.handler("fault.poison", initial_backoff=HASTE)
async def poison(ctx: Context, payload: Payload) -> Payload:
    """Take one's process down, every time, as soon as a file is there.

    `how`: SIGKILL unless it says "exit" or "segfault". `with_worker`: the executor too, from a
    child process.
    """
    note(ctx, payload, "begin")
    while "until" in payload and not there(payload):  # noqa: ASYNC110 - the event is a file
        await asyncio.sleep(LOOK_SECONDS)
    if payload.get("with_worker") and "headway_worker.child" in " ".join(sys.orig_argv):
        os.kill(os.getppid(), signal.SIGKILL)
    match payload.get("how"):
        case "exit":
            os._exit(3)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case _:
            os.kill(os.getpid(), signal.SIGKILL)
    return {}


@jobs.handler("fault.block")
async def block(ctx: Context, payload: Payload) -> Payload:
    """Block the event loop."""
    note(ctx, payload, "begin")
    time.sleep(float(payload["seconds"]))  # noqa: ASYNC251 - the mistake that is tested
    note(ctx, payload, "end")
    return {}


@jobs.handler("fault.gil")
async def gil(ctx: Context, payload: Payload) -> Payload:
    """Hold the interpreter lock in one C call: PyDLL, unlike CDLL, does not let go of it."""
    note(ctx, payload, "begin")
    ctypes.PyDLL(None).sleep(int(payload["seconds"]))
    note(ctx, payload, "end")
    return {}


@jobs.handler("fault.hang", timeout=timedelta(seconds=0.5), max_attempts=2, initial_backoff=HASTE)
async def hang(ctx: Context, payload: Payload) -> Payload:
    """Never end, politely."""
    note(ctx, payload, "begin")
    await asyncio.Event().wait()
    return {}


@jobs.handler(
    "fault.hang.stubborn", timeout=timedelta(seconds=0.5), max_attempts=2, initial_backoff=HASTE
)
def hang_stubborn(ctx: Context, payload: Payload) -> Payload:
    """Never end, and ignore everything."""
    note(ctx, payload, "begin")
    while True:
        time.sleep(1)


def note(ctx: Context, payload: Payload, what: str) -> None:
    """Append one line; O_APPEND keeps lines of several processes whole."""
    line = {
        "what": what,
        "job_id": str(ctx.job_id),
        "attempt": ctx.attempt,
        "pid": os.getpid(),
        "child": "headway_worker.child" in " ".join(sys.orig_argv),
        "time": time.time(),
    }
    for path in filter(None, (os.environ.get(JOURNAL), payload.get("journal"))):
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")


def there(payload: Payload) -> bool:
    """Whether the test lets go."""
    return Path(payload["until"]).exists()
