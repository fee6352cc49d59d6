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

    The coroutine waits for futures and nothing else; asyncio.timeout is of no effect within.
    """

    __slots__ = ("_cancelled", "_coroutine", "_turn")

    def __init__(
        self, coroutine: Coroutine[Any, None, Result], cancelled: Callable[[], None]
    ) -> None:
        self._coroutine = coroutine
        self._cancelled = cancelled

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
            future.add_done_callback(self._go_on)
            while not future.done():
                self._turn = loop.create_future()
                try:
                    yield from self._turn
                except asyncio.CancelledError as error:
                    interruption = error
                    self._cancelled()

    def _go_on(self, _future: "asyncio.Future[Any]") -> None:
        if not self._turn.done():
            self._turn.set_result(None)
