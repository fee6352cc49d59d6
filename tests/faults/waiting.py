"""Waiting for conditions, and asking again as callers do."""

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from headway import HeadwayError

Result = TypeVar("Result")

PATIENCE_SECONDS: Final = 90.0
"""For what has no promised time: far beyond what it takes on a machine that is busy, too."""
LOOK_SECONDS: Final = 0.02
BUSY: Final = 3.0 if "PYTEST_XDIST_WORKER" in os.environ else 1.0
"""A promised time is stretched so much beside other tests; `make faults` runs alone."""


async def until(
    holds: Callable[[], Any],
    what: str,
    *,
    seconds: float = PATIENCE_SECONDS,
    tell: Callable[[], Any] | None = None,
) -> float:
    """Ask until the answer, or what it awaits, is true; return how long that took."""
    begun = time.monotonic()
    while True:
        answer = holds()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return time.monotonic() - begun
        if time.monotonic() - begun > seconds:
            told = await tell() if tell is not None else ""
            raise AssertionError(f"not within {seconds:g} s: {what}\n{told}")
        await asyncio.sleep(LOOK_SECONDS)


async def insist(call: Callable[[], Awaitable[Result]]) -> Result:
    """Call again while the service is away or restarts, as callers with a key may."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await call()
        except HeadwayError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)


def promised(what: str, took: float, seconds: float) -> None:
    """Print a measured time, and fail if it is over the promised one."""
    print(f"{what}: {took:.2f} s, promised {seconds:g} s")
    assert took <= seconds * BUSY, f"{what} took {took:.2f} s"
