"""Await something to its end, whoever cancels meanwhile."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Uninterrupted(Generic[Result]):
    """`await Uninterrupted(coroutine, cancelled)` runs a coroutine to its end, in this task.

    A cancellation that comes meanwhile does not reach it: `cancelled` is called, which may bring
    the end nearer, and CancelledError is raised at the end, whatever that is. asyncio.shield does
    the same by a task of its own, which costs more than a small statement.

    Nothing within may use asyncio.timeout, which would cancel the whole.
    """

    __slots__ = ("_cancelled", "_coroutine", "_turn")

    def __init__(
        self, coroutine: Coroutine[Any, None, Result], cancelled: Callable[[], None]
    ) -> None:
        self._coroutine = coroutine
        self._cancelled = cancelled
        self._turn: asyncio.Future[None] | None = None
        """What the task waits for in the place of the coroutine's future."""

    def __await__(self) -> Generator[Any, None, Result]:
        loop = asyncio.get_running_loop()
        interruption: asyncio.CancelledError | None = None
        while True:
            try:
                future = self._coroutine.send(None)
            except StopIteration as end:
                if interruption is not None:
                    raise interruption from None
                result: Result = end.value
                return result
            except BaseException as error:
                if interruption is not None:
                    raise interruption from error
                raise
            if future is None:  # sleep(0)
                future = loop.create_future()
                loop.call_soon(future.set_result, None)
            future.add_done_callback(self._go_on)
            while not future.done():
                turn = self._turn = loop.create_future()
                try:
                    yield from turn
                except asyncio.CancelledError as error:
                    interruption = error
                    self._cancelled()

    def _go_on(self, _future: "asyncio.Future[Any]") -> None:
        if self._turn and not self._turn.done():
            self._turn.set_result(None)
