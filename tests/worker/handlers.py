"""Handlers for tests that run whole processes, driven by files that the test makes."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from headway_worker import Context, Jobs, PermanentError

jobs = Jobs()
Payload = dict[str, Any]

HASTE = timedelta(milliseconds=50)


def mark(payload: Payload, line: str) -> None:
    """Append a line to the test's log, in one write."""
    with Path(payload["log"]).open("a") as file:
        file.write(f"{line}\n")


def exists(payload: Payload) -> bool:
    """Whether the test lets go."""
    return Path(payload["until"]).exists()


@jobs.handler("echo")
async def echo(ctx: Context, payload: Payload) -> Payload:
    return payload | {"attempt": ctx.attempt, "pid": os.getpid()}


@jobs.handler("hold")
async def hold(ctx: Context, payload: Payload) -> Payload:
    """Run until a file is there."""
    mark(payload, "begun")
    while not exists(payload):  # noqa: ASYNC110 - the event is a file
        await asyncio.sleep(0.02)
    return {"pid": os.getpid(), "parent": os.getppid(), "attempt": ctx.attempt}


@jobs.handler("hold.thread")
def hold_thread(ctx: Context, payload: Payload) -> Payload:
    """Run until a file is there, whatever else one is told."""
    mark(payload, "begun")
    while not exists(payload):
        time.sleep(0.02)
    return {"pid": os.getpid()}


# The start of a child process counts, too.
@jobs.handler("hold.stubborn", timeout=timedelta(seconds=3), initial_backoff=HASTE)
def hold_stubborn(ctx: Context, payload: Payload) -> Payload:
    """Outlive every timeout, in a thread, unless one has a process of one's own."""
    mark(payload, "begun")
    if threading.current_thread() is threading.main_thread():
        return {"pid": os.getpid()}
    while True:
        time.sleep(0.02)


@jobs.handler("block")
async def block(ctx: Context, payload: Payload) -> Payload:
    """Block the loop."""
    mark(payload, "begun")
    time.sleep(payload["seconds"])  # noqa: ASYNC251 - the mistake that is tested
    return {"pid": os.getpid()}


@jobs.handler("block.forever", max_attempts=2, initial_backoff=HASTE)
async def block_forever(ctx: Context, payload: Payload) -> Payload:
    """Block the executor's loop for good; behave in a child process."""
    mark(payload, "begun")
    if "headway_worker.executor" in " ".join(sys.orig_argv):
        time.sleep(1_000)  # noqa: ASYNC251 - the mistake that is tested
    return {"pid": os.getpid()}


@jobs.handler("block.interpreter")
async def block_interpreter(ctx: Context, payload: Payload) -> Payload:
    """Keep the interpreter lock for good in an executor; behave in a child process."""
    mark(payload, "begun")
    if "headway_worker.executor" in " ".join(sys.orig_argv):
        re.match(r"(a+)+$", "a" * 64 + "b")
    return {"pid": os.getpid()}


@jobs.handler("die")
async def die(ctx: Context, payload: Payload) -> Payload:
    """Take one's process down, each time."""
    mark(payload, "begun")
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@jobs.handler("die.with.worker")
async def die_with_worker(ctx: Context, payload: Payload) -> Payload:
    """Take the executor down, from a child process too."""
    mark(payload, f"begun {ctx.attempt}")
    in_child = "headway_worker.child" in " ".join(sys.orig_argv)
    os.kill(os.getppid() if in_child else os.getpid(), signal.SIGKILL)
    await asyncio.sleep(10)
    return {}


@jobs.handler("isolated.echo", isolation="process")
def isolated_echo(ctx: Context, payload: Payload) -> Payload:
    ctx.progress(1, 2, step="half")
    ctx.logger.info("said_in_a_child")
    return payload | {
        "pid": os.getpid(),
        "labels": dict(ctx.labels),
        "key": ctx.idempotency_key("a"),
    }


@jobs.handler("isolated.data", isolation="process")
async def isolated_data(ctx: Context, payload: bytes) -> bytes:
    return payload[::-1]


@jobs.handler("isolated.raise", isolation="process", max_attempts=2, initial_backoff=HASTE)
def isolated_raise(ctx: Context, payload: Payload) -> Payload:
    match payload["how"]:
        case "permanent":
            raise PermanentError("not this one")
        case "exit":
            sys.exit(3)
        case "hard":
            os._exit(7)
        case "result":
            return [1]  # type: ignore[return-value]
        case _:
            raise ValueError("no")


@jobs.handler(
    "isolated.hold",
    isolation="process",
    timeout=timedelta(seconds=30),
    max_attempts=1,
)
def isolated_hold(ctx: Context, payload: Payload) -> Payload:
    """Ignore everything; start a program that does, too."""
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    mark(payload, f"{os.getpid()} {program.pid}")
    while not exists(payload):
        time.sleep(0.02)
    return {}


@jobs.handler("isolated.polite", isolation="process")
def isolated_polite(ctx: Context, payload: Payload) -> Payload:
    """Stop when asked."""
    mark(payload, "begun")
    while not ctx.cancelled:
        time.sleep(0.01)
    mark(payload, "stopped")
    ctx.raise_if_cancelled()
    return {}


@jobs.handler("isolated.async", isolation="process")
async def isolated_async(ctx: Context, payload: Payload) -> Payload:
    mark(payload, "begun")
    try:
        await asyncio.sleep(1_000)
    finally:
        mark(payload, "stopped")
    return {}


@jobs.handler("isolated.steps", isolation="process", max_attempts=3, initial_backoff=HASTE)
def isolated_steps(ctx: Context, payload: Payload) -> Payload:
    one = ctx.step("one", count_up, payload)
    if ctx.attempt == 1:
        raise ConnectionError("once")
    two = ctx.step("two", count_up_async, payload)
    return {"one": one, "two": two}


@jobs.handler("isolated.async.steps", isolation="process", max_attempts=3, initial_backoff=HASTE)
async def isolated_async_steps(ctx: Context, payload: Payload) -> Payload:
    one, two = await asyncio.gather(
        ctx.step("one", count_up, payload), ctx.step("two", count_up_async, payload)
    )
    if ctx.attempt == 1:
        raise ConnectionError("once")
    return {"one": one, "two": two}


@jobs.handler("isolated.hungry", isolation="process", memory_bytes_max=400 * 2**20, max_attempts=1)
def isolated_hungry(ctx: Context, payload: Payload) -> Payload:
    return {"bytes": len(bytearray(2**30))}


def count_up(payload: Payload) -> int:
    """How often it was called."""
    mark(payload, "step")
    return len(Path(payload["log"]).read_text().splitlines())


async def count_up_async(payload: Payload) -> int:
    return count_up(payload)


@jobs.handler("isolated.forks", isolation="process", max_attempts=1)
def isolated_forks(ctx: Context, payload: Payload) -> Payload:
    """Leave a fork behind that holds one's pipe open, and die or end."""
    if not (child := os.fork()):
        time.sleep(1_000)
    mark(payload, str(child))
    if payload["die"]:
        os._exit(5)
    return {}
