"""Why nothing is consumed, for now."""

import asyncio
from typing import Literal

Reason = Literal["lease", "alone", "drain"]


class Pauses:
    """The reasons that stand against consuming. Quiet: nothing new is taken. Closed: what is in
    hand goes back, too.
    """

    def __init__(self) -> None:
        self._quiet: set[Reason] = set()
        self._closed: set[Reason] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.close_wanted = False
        """Whether the channel is to be closed: even if consuming is resumed before anybody looked,
        for something was left to others.
        """

    @property
    def quiet(self) -> bool:
        """Whether nothing new is to be taken."""
        return bool(self._quiet)

    def be_quiet(self, reason: Reason) -> None:
        """Take nothing new."""
        self._quiet.add(reason)

    def close(self, reason: Reason) -> None:
        """Give back what is in hand, and take nothing."""
        self._closed.add(reason)
        self.close_wanted = True
        self._open.clear()

    def resume(self, reason: Reason) -> None:
        """Take back a reason."""
        self._quiet.discard(reason)
        self._closed.discard(reason)
        if not self._closed:
            self._open.set()

    async def wait_open(self) -> None:
        """Wait until nothing keeps the channel closed."""
        await self._open.wait()
