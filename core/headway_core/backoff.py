"""How long to wait before the next attempt."""

from datetime import timedelta
from random import Random

DECLINE_BACKOFF_MIN = timedelta(seconds=1)
DECLINE_BACKOFF_MAX = timedelta(seconds=60)


def exponential(
    count: int, *, initial: timedelta, longest: timedelta, multiplier: float
) -> timedelta:
    """The longest wait after the `count`-th failure: initial x multiplier^(count-1), capped."""
    seconds = initial.total_seconds()
    for _ in range(count - 1):
        seconds *= multiplier
        if seconds >= longest.total_seconds():
            break
    return min(timedelta(seconds=seconds), longest)


def full_jitter(longest: timedelta, random: Random) -> timedelta:
    """A wait spread evenly over 0 to `longest`, so that failures of one moment do not return as
    one.

    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return longest * random.random()
