"""An executor's view of its lease, which its supervisor keeps."""

import asyncio
from time import monotonic


class Lease:
    """Until when this worker may begin something, by the monotonic clock, which all processes
    share.

    The database has the last word in every claim and step; this saves it from doomed ones while the
    worker is cut off.
    """

    def __init__(self) -> None:
        self._deadline = 0.0
        self._confirmations = 0
        self._confirmed = asyncio.Event()

    @property
    def live(self) -> bool:
        """Whether the last confirmed heartbeat is less than one lease old."""
        return monotonic() < self._deadline

    @property
    def confirmations(self) -> int:
        """How many heartbeats were confirmed so far."""
        return self._confirmations

    def confirm(self, deadline: float) -> None:
        """Note a heartbeat: the lease lasts until `deadline` (monotonic)."""
        self._deadline = max(self._deadline, deadline)
        self._confirmations += 1
        self._confirmed.set()
        self._confirmed = asyncio.Event()

    async def wait_live(self) -> None:
        """Wait until something may begin."""
        while not self.live:
            await self._confirmed.wait()

    async def wait_confirmation(self, *, after: int) -> None:
        """Wait for a heartbeat confirmed after the first `after` ones."""
        while self._confirmations <= after:
            await self._confirmed.wait()
