"""What a handler raises to say how its run ends."""

import asyncio
from datetime import timedelta
from typing import Final

SNOOZE_MAX: Final = timedelta(days=365)


class PermanentError(Exception):
    """Another attempt would be pointless: the job is DEAD at once.

    Raise it with a text for the person who will read the dead letter.
    """


class RetryLater(Exception):
    """Run the job again after a while. Costs no attempt.

    `after` is a timedelta or seconds, 0 to 365 days; anything else raises ValueError where it is
    written, which fails the attempt.
    """

    def __init__(self, after: timedelta | float) -> None:
        wait = after if isinstance(after, timedelta) else timedelta(seconds=after)
        if not timedelta(0) <= wait <= SNOOZE_MAX:
            raise ValueError(f"after is {after!r}; 0 to {SNOOZE_MAX.days} days are possible")
        super().__init__(f"again after {wait.total_seconds():g} s")
        self.after = wait


class JobCancelled(asyncio.CancelledError):
    """The run is to end now: `ctx.raise_if_cancelled()` and `ctx.step` raise it.

    No Exception, so that `except Exception` in a handler lets it through, as it does the
    CancelledError that an `async def` handler gets at its next await.
    """
