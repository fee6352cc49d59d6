"""Many deadlines, one timer."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

LATE_SECONDS_MAX: Final = 0.01
"""How late a deadline may pass on an idle loop: many in a row are looked at together."""


class Deadlines(Generic[Key]):
    """Calls `passed` with each key that is still there at its deadline, a time of the loop's clock.

    Nearly all are withdrawn in time, so the one timer is left alone until it goes off: to set and
    to cancel one for each costs a lone call several times as much.
    """

    def __init__(self, passed: Callable[[Key], None]) -> None:
        self._passed = passed
        self._deadlines: dict[Key, float] = {}
        self._timer: asyncio.Handle | None = None
        """Goes off at the first deadline or before it. None: there was none when it last did."""
        self._time = 0.0
        """When it goes off. Kept here: for a time that has come uvloop's handle has no when()."""

    def add(self, key: Key, deadline: float) -> None:
        """Begin to wait."""
        self._deadlines[key] = deadline
        if self._timer is None or deadline < self._time:
            self._set_timer(deadline)

    def discard(self, key: Key) -> None:
        """Wait no longer, if the deadline has not passed anyway."""
        self._deadlines.pop(key, None)

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(deadline, self._look)
        self._time = deadline

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        try:
            for key in [key for key, deadline in self._deadlines.items() if deadline <= now]:
                if self._deadlines.pop(key, None) is not None:
                    self._passed(key)
        finally:
            if self._deadlines:
                first = min(self._deadlines.values())
                self._set_timer(max(first, now + LATE_SECONDS_MAX))
