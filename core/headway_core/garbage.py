"""How often Python looks for garbage in reference cycles."""

import gc
from typing import Final

YOUNG_MAX: Final = 5_000
"""Objects that may be new before they are looked through. By default 700 are, which a few dozen
calls or runs under way have together: all of them are looked at again and again, and found alive.
"""
YOUNG_ROUNDS, MIDDLE_ROUNDS = 10, 10


def look_seldom() -> None:
    """Let what there is stand for good, and look for garbage less often.

    It saves a busy process some percent of its CPU time. To be called once, when a process that
    serves has been built.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, YOUNG_ROUNDS, MIDDLE_ROUNDS)
