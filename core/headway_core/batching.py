"""Group commit: calls that are made at the same time share one flush."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import timedelta
from typing import Final, Generic, TypeVar

from headway_core.deadlines import Deadlines
from headway_core.errors import HeadwayError, StoreUnavailable

QUIET_TURNS: Final = 40
"""Turns of the event loop without a new item: what this process had under way is here. uvloop takes
0.05 ms for them when it has nothing else to do, and when it is busy as long as it has others to
bring on. No clock can tell these apart on machines that differ by three times in speed."""
LINGER_PER_ITEM: Final = timedelta(milliseconds=0.5)
"""For each item of the last flush: a few callers have little to gain by waiting for each other, on
a loop that others keep busy."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommit(Generic[Item, Result]):
    """Collects items while a flush is under way and gives them to the next one.

    An idle group adds no wait. Soon after a flush that was shared, within `linger`, the next one
    waits as long as more items keep coming, so that a loaded group fills its batches. They have
    stopped when none comes for QUIET_TURNS. The wait is over, too, when `enough` of them are there
    (all that are there share the flush, up to `batch_max`), after `linger`, and after
    LINGER_PER_ITEM for each that shared the last flush.

    `key`: at most one item with the same key shares a flush, for a statement can change a row once.
    `alone` flushes one item in its caller's task, if nobody else is there: the way to the flusher
    and back costs as much as a small statement. It must end within `within`, is not for groups with
    a `key`, and leaves the item to the flusher if its result is None.
    `run` is the one flusher; if it ends, its process must end.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        batch_max: int = 256,
        enough: int | None = None,
        linger: timedelta = timedelta(0),
        key: Callable[[Item], Hashable] | None = None,
        alone: Callable[[Item], Awaitable[Result | None]] | None = None,
    ) -> None:
        self._flush = flush
        self._alone = alone
        self._batch_max = batch_max
        self._enough = batch_max if enough is None else enough
        self._linger_seconds = linger.total_seconds()
        self._key = key
        self._waiting: deque[tuple[Item, asyncio.Future[Result], bool]] = deque()
        """With whether it is dropped when its caller has gone."""
        self._deadlines: Deadlines[asyncio.Future[Result]] = Deadlines(_give_up)
        self._idle: asyncio.Future[None] | None = None
        """What the flusher waits for when it has nothing to do."""
        self._flushing = False
        self._last, self._ended = 0, float("-inf")
        """How many shared the last flush, and when it was over."""

    async def submit(self, item: Item, *, within: timedelta | None = None) -> Result:
        """Hand over an item and wait for its own result or error.

        A caller that is cancelled leaves its item behind, unless `alone` has it: it is flushed all
        the same. One that has waited as long as `within`, for a flush before its own perhaps, gets
        StoreUnavailable; once such a caller has gone, its item is dropped if its flush has not
        begun.
        """
        loop = asyncio.get_running_loop()
        time = loop.time()
        if self._alone and not (self._waiting or self._flushing or self._lingers(time)):
            self._flushing = True
            try:
                result = await self._alone(item)
            finally:
                self._flushed(1)
            if result is not None:
                return result
        future: asyncio.Future[Result] = loop.create_future()
        if within is not None:
            self._deadlines.add(future, time + within.total_seconds())
        self._waiting.append((item, future, within is not None))
        if not self._flushing:
            self._wake()
        try:
            return await future
        finally:
            self._deadlines.discard(future)

    async def run(self) -> None:
        """Flush until cancelled."""
        loop = asyncio.get_running_loop()
        futures: Sequence[asyncio.Future[Result]] = ()
        try:
            while True:
                if not self._waiting:
                    self._idle = loop.create_future()
                    await self._idle
                if self._lingers(loop.time()):
                    await self._gather()
                items, futures = self._take()
                if not items:
                    continue  # all of their callers have gone
                self._flushing = True
                try:
                    results = await self._flush(items)
                except Exception as error:  # noqa: BLE001 - it is the callers' to deal with
                    await self._fail(items, futures, error)
                else:
                    _tell(futures, results)
                finally:
                    self._flushed(len(items))
        finally:
            for future in futures:
                future.cancel()  # of no effect on those that know their result
            while self._waiting:
                self._waiting.popleft()[1].cancel()

    def _wake(self) -> None:
        if self._idle and not self._idle.done():
            self._idle.set_result(None)

    def _flushed(self, count: int) -> None:
        self._flushing = False
        self._last, self._ended = count, asyncio.get_running_loop().time()
        if self._waiting:
            self._wake()

    def _lingers(self, time: float) -> bool:
        return self._last > 1 and time < self._ended + self._linger_seconds

    async def _gather(self) -> None:
        time = asyncio.get_running_loop().time
        wanted = LINGER_PER_ITEM.total_seconds() * self._last
        deadline = time() + min(self._linger_seconds, wanted)
        count, quiet = len(self._waiting), 0
        while count < self._enough and quiet < QUIET_TURNS and time() < deadline:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) == count else 0
            count = len(self._waiting)

    def _take(self) -> tuple[list[Item], list[asyncio.Future[Result]]]:
        items: list[Item] = []
        futures: list[asyncio.Future[Result]] = []
        seen: set[Hashable] = set()
        later: list[tuple[Item, asyncio.Future[Result], bool]] = []
        while self._waiting and len(items) < self._batch_max:
            item, future, droppable = self._waiting.popleft()
            if droppable and future.done():
                continue
            if self._key is not None:
                key = self._key(item)
                if key in seen:
                    later.append((item, future, droppable))
                    continue
                seen.add(key)
            items.append(item)
            futures.append(future)
        self._waiting.extendleft(reversed(later))
        return items, futures

    async def _fail(
        self,
        items: Sequence[Item],
        futures: Sequence[asyncio.Future[Result]],
        error: Exception,
    ) -> None:
        if len(items) == 1 or isinstance(error, HeadwayError):
            # Nobody is to blame, or the whole flush is: each caller decides whether to try again.
            for future in futures:
                _refuse(future, error)
            return
        # One bad item must fail alone; one whose first flush was applied knows its own result.
        for item, future in zip(items, futures, strict=True):
            try:
                results = await self._flush([item])
            except Exception as its_own:  # noqa: BLE001 - as above
                _refuse(future, its_own)
            else:
                _tell([future], results)


def _tell(futures: "Sequence[asyncio.Future[Result]]", results: Sequence[Result]) -> None:
    for future, result in zip(futures, results, strict=True):
        if not future.done():
            future.set_result(result)


def _refuse(future: "asyncio.Future[Result]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _give_up(future: "asyncio.Future[Result]") -> None:
    _refuse(future, StoreUnavailable("the store does not answer in time"))
