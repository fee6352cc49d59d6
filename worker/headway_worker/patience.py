"""Asking Postgres again until it answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from headway_core.errors import StoreUnavailable

Result = TypeVar("Result")

WAIT_SECONDS_FIRST: Final = 0.05
WAIT_SECONDS_MAX: Final = 1.0


async def until_answered(call: Callable[[], Awaitable[Result]]) -> Result:
    """Call until it does not raise StoreUnavailable, after 50 ms to 1 s each time.

    For what is safe to run twice with the same arguments, as every transition is. Ends by
    cancellation, too.
    """
    wait = WAIT_SECONDS_FIRST
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, WAIT_SECONDS_MAX)
