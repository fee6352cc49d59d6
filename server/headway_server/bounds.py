"""The table of bounds: what each field of a request may hold, as the contract says.

A rule answers with what is wrong, or None. It says what the field must be and never repeats the
value, which may be a secret.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from math import isfinite
from typing import Final

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""What Postgres cannot keep in a text."""


@dataclass(frozen=True, slots=True)
class Word:
    """Text of a fixed alphabet."""

    pattern: re.Pattern[str]
    says: str

    def wrong(self, value: str) -> str | None:
        """What is wrong with a text that is not empty."""
        return None if self.pattern.fullmatch(value) else f"must be {self.says}"


@dataclass(frozen=True, slots=True)
class Text:
    """Free text that Postgres can keep."""

    characters_max: int
    characters_min: int = 0

    def wrong(self, value: str) -> str | None:
        """What is wrong with a text."""
        if _UNSTORABLE.search(value):
            return "must be Unicode text without NUL characters"
        if not self.characters_min <= len(value) <= self.characters_max:
            least = f"{self.characters_min} to " if self.characters_min else "at most "
            return f"must have {least}{self.characters_max} characters, has {len(value)}"
        return None


@dataclass(frozen=True, slots=True)
class Number:
    """A number from `least` to `most`."""

    least: float
    most: float

    def wrong(self, value: float) -> str | None:
        """What is wrong with a number."""
        if isfinite(value) and self.least <= value <= self.most:
            return None
        return f"must be {self.least:g} to {self.most:g}"


@dataclass(frozen=True, slots=True)
class Span:
    """A duration from 0 to `most`; `above` keeps out 0 itself."""

    most: timedelta
    says: str
    above: bool = False

    def wrong(self, value: timedelta) -> str | None:
        """What is wrong with a duration."""
        low = value <= timedelta(0) if self.above else value < timedelta(0)
        return f"must be {self.says}" if low or value > self.most else None


TYPE: Final = Word(re.compile(r"[a-z0-9._-]{1,128}"), "1 to 128 of a-z, 0-9, '.', '_' and '-'")
QUEUE: Final = Word(re.compile(r"[a-z0-9_-]{1,64}"), "1 to 64 of a-z, 0-9, '_' and '-'")
JOB_ID: Final = Word(
    re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    "a UUID, as 01234567-89ab-7def-8123-456789abcdef",
)
IDEMPOTENCY_KEY: Final = Text(256)
CONTENT_TYPE: Final = Text(256)
CANCEL_REASON: Final = Text(1024)
FINGERPRINT: Final = Text(128)

LABELS_MAX: Final = 32
LABEL_KEY: Final = Text(64, characters_min=1)
LABEL_VALUE: Final = Text(256)

PRIORITY: Final = Number(0, 9)
MAX_ATTEMPTS: Final = Number(1, 1000)
MULTIPLIER: Final = Number(1, 100)
DELAY: Final = Span(timedelta(days=365), "0 to 365 days")
BACKOFF: Final = Span(timedelta(days=7), "0 to 7 days")
TIMEOUT: Final = Span(timedelta(days=30), "more than 0 and at most 30 days", above=True)
PROGRESS_INTERVAL: Final = Span(timedelta(hours=1), "0 to 1 hour")
RUN_TIME_AHEAD_MAX: Final = timedelta(days=365)

STATES_MAX: Final = 16

PAGE_SIZE_DEFAULT: Final = 100
PAGE_SIZE_MAX: Final = 1000
PAGE_BYTES_MAX: Final = 3_500_000
"""Of an answer: clients take 4 MiB unless told otherwise. A page ends early to stay below it."""

BATCH_JOBS_MAX: Final = 1000
REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
REPLAY_JOBS: Final = Number(1, 1000)
REPLAY_JOBS_MAX: Final = 1000
