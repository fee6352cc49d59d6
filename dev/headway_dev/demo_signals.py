"""How `headway demo` is interrupted: at any moment, and without leaving anything."""

import signal
from collections.abc import Sequence
from types import FrameType
from typing import Self

from headway_dev import processes
from headway_dev.children import Child

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """SIGTERM is taken for Ctrl-C, a KeyboardInterrupt. Later on both kill what still stops."""

    def __init__(self) -> None:
        self.terminated = False
        self._children: Sequence[Child] = ()
        self._before = [(number, signal.getsignal(number)) for number in STOPPING]

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, self._on_terminate)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def stopping(self, children: Sequence[Child] = ()) -> None:
        """Everything is being stopped: no signal interrupts that, but it shortens it."""
        self._children = children
        for number in STOPPING:
            signal.signal(number, self._on_impatience)

    def _on_terminate(self, _number: int, _frame: FrameType | None) -> None:
        self.terminated = True
        signal.raise_signal(signal.SIGINT)  # asyncio has a handler of its own for this one

    def _on_impatience(self, _number: int, _frame: FrameType | None) -> None:
        for child in self._children:
            processes.kill(child.record)
