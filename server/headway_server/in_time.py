"""A bound for those who wait for a shared flush."""

import asyncio
from typing import TypeVar

from headway_core.batching import GroupCommit
from headway_core.errors import StoreUnavailable
from headway_server.settings import CALL_DATABASE_TIME_MAX

Item = TypeVar("Item")
Result = TypeVar("Result")


async def submit_in_time(group: GroupCommit[Item, Result], item: Item) -> Result:
    """Submit to a group, and wait no longer than for a call of one's own.

    A flush that hangs would make an item wait for it and then for the next one. Raises
    StoreUnavailable; the item may yet be flushed.
    """
    try:
        async with asyncio.timeout(CALL_DATABASE_TIME_MAX.total_seconds()):
            return await group.submit(item)
    except TimeoutError as error:
        raise StoreUnavailable("the database does not answer in time") from error
