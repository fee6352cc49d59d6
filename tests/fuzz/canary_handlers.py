"""Handlers that know a secret, and let it out in every way that user code has by accident."""

import asyncio
import os
from datetime import timedelta
from typing import Any

from headway_worker import Context, Jobs, PermanentError

jobs = Jobs()
HASTE = timedelta(milliseconds=50)
Payload = dict[str, Any]


def fail(payload: Payload) -> None:
    """Raise, with a cause, a context and a note that all tell it."""
    try:
        try:
            raise KeyError(payload["text"])
        except KeyError as error:
            raise RuntimeError(payload["text"]) from error
    except RuntimeError as error:
        found = ValueError(f"cannot charge {payload['text']}")
        found.add_note(payload["text"])
        raise found from error


@jobs.handler("canary.complete")
async def complete(ctx: Context, payload: Payload) -> Payload:
    ctx.progress(1, 2, step="half")
    return {"result": payload["result"]}


@jobs.handler("canary.settle")
@jobs.handler("canary.wait")
async def end(ctx: Context, payload: Payload) -> Payload:
    return {"result": payload["result"]}


@jobs.handler("canary.retry", initial_backoff=HASTE)
async def retry(ctx: Context, payload: Payload) -> Payload:
    if ctx.attempt == 1:
        fail(payload)
    return {"result": payload["result"]}


@jobs.handler("canary.die", max_attempts=2, initial_backoff=HASTE)
async def die(ctx: Context, payload: Payload) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(fail, payload))


@jobs.handler("canary.permanent")
def permanent(ctx: Context, payload: Payload) -> None:
    raise PermanentError(payload["text"])


@jobs.handler("canary.child", max_attempts=2, initial_backoff=HASTE, isolation="process")
def child(ctx: Context, payload: Payload) -> None:
    fail(payload)


@jobs.handler("canary.crash", max_attempts=1, isolation="process")
def crash(ctx: Context, payload: Payload) -> None:
    os._exit(9)


@jobs.handler("canary.step", max_attempts=1)
async def step(ctx: Context, payload: Payload) -> None:
    await ctx.step("kept", lambda: {"result": payload["result"]})
    await ctx.step("lost", fail, payload)


@jobs.handler("canary.refused")
async def refused(ctx: Context, payload: Payload) -> Payload:
    return {"result": {payload["result"]}}


@jobs.handler("canary.forgotten")
async def forgotten(ctx: Context, payload: Payload) -> Payload:
    """Leave a task behind that fails: asyncio says so when it is collected."""
    task = asyncio.ensure_future(asyncio.to_thread(fail, payload))
    await asyncio.wait([task])
    return {}


@jobs.handler("canary.cancelled")
async def cancelled(ctx: Context, payload: Payload) -> None:
    ctx.progress(1, 2)
    try:
        await asyncio.sleep(60)
    finally:
        fail(payload)


@jobs.handler("canary.late", timeout=timedelta(seconds=0.3), max_attempts=1)
async def late(ctx: Context, payload: Payload) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        fail(payload)
