"""Which new traces are recorded."""

import random
import time
from collections.abc import Callable
from typing import Final

OVERFLOW_RATIO: Final = 0.001
"""Of the traces beyond the budget, so that a busy hour still shows what it was busy with."""


class TraceBudget:
    """Takes so many new traces a second, and OVERFLOW_RATIO of those beyond.

    The decision is made once, where a trace begins, and travels in its traceparent. A budget of one
    second can be saved up. Not thread-safe: one loop asks.
    """

    def __init__(
        self,
        traces_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._rate = traces_per_second
        # Less than one trace a second is a budget too: one may always be saved up.
        self._tokens_max = max(1.0, traces_per_second)
        self._tokens = self._tokens_max
        self._clock = clock
        self._chance = chance
        self._refilled = clock()

    def take(self) -> bool:
        """Decide for one new trace."""
        if not self._rate:
            return False
        now = self._clock()
        gained = (now - self._refilled) * self._rate
        self._tokens = min(self._tokens_max, self._tokens + gained)
        self._refilled = now
        if self._tokens >= 1:
            self._tokens -= 1
            return True
        return self._chance() < OVERFLOW_RATIO
