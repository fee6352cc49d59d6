"""Failures in a row, told once: a loop that fails every second would fill the log with one fact."""

from dataclasses import dataclass
from typing import Final

import structlog

log = structlog.get_logger(__name__)

AGAIN_EVERY: Final = 60
"""Failures after which it is told again."""


@dataclass(slots=True)
class Streak:
    """The failures of one loop since it last worked."""

    loop: str
    failures: int = 0

    def failed(self, error: Exception) -> None:
        """Tell of the first failure, and of every AGAIN_EVERYth after it."""
        if self.failures % AGAIN_EVERY == 0:
            log.warning("loop_failed", loop=self.loop, reason=str(error), before=self.failures)
        self.failures += 1

    def worked(self) -> None:
        """Tell that it works again, if it did not."""
        if self.failures:
            log.info("loop_works_again", loop=self.loop, failures=self.failures)
            self.failures = 0
