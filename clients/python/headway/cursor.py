"""The rules of a watch that survives restarts, without I/O: `Client` and `SyncClient` drive them.

A stream may break at any time. The next one asks for the events after the last one seen, so the
numbers tell everything: the next number is news, an old number is a repetition and dropped, and a
number too high is a defect, since the server promises to skip nothing (DESIGN §5.7). Progress has
no number: it is live and lossy.
"""

import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from headway import convert, requests, v1
from headway.errors import SequenceGap, Unavailable
from headway.updates import Bookmark, Snapshot, Update

if TYPE_CHECKING:
    from headway.jobs import Job

SILENCE_SECONDS = 45.0
"""A stream is given up after this long without a message: it has missed three bookmarks."""
STREAM_SECONDS = 600.0
"""A blocking stream is renewed after this long; it cannot watch the clock while it reads."""
BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_MAX_SECONDS = 5.0
ADVICE_MAX_SECONDS = 60.0
"""The longest wait that a server can ask for."""


class Cursor:
    """How far a watch has come, and what each message of the server means to it."""

    def __init__(self, job_id: str, after_sequence: int | None) -> None:
        """`after_sequence` as in WatchJobRequest: None begins with a snapshot."""
        self.job_id = job_id
        self._sequence = after_sequence
        self._job: Job | None = None

    def request(self, *, min_progress_interval: timedelta | float | None) -> v1.WatchJobRequest:
        """Ask for what has not been seen yet."""
        return requests.watch(
            self.job_id,
            after_sequence=self._sequence,
            min_progress_interval=min_progress_interval,
        )

    @property
    def complete(self) -> bool:
        """Whether a stream may end here: not while the job is known to go on."""
        return self._job is None or self._job.done

    def accept(self, response: v1.WatchJobResponse) -> Update | None:
        """What a message tells that is new, or None. Raises SequenceGap."""
        match response.WhichOneof("update"):
            case "snapshot":
                return self._snapshot(response)
            case "event":
                return self._event(response)
            case "progress":
                self._nothing_skipped(response.sequence)
                return convert.progress(response.progress)
            case "bookmark":
                self._nothing_skipped(response.sequence)
                return Bookmark(response.sequence)
        return None  # a kind of update that a newer server has: it may carry no event

    def _snapshot(self, response: v1.WatchJobResponse) -> Update | None:
        if self._sequence is not None and not response.reset:
            self._nothing_skipped(response.sequence)
            return None
        self._sequence = response.sequence
        self._job = convert.job(response.snapshot)
        return Snapshot(sequence=response.sequence, job=self._job, reset=response.reset)

    def _event(self, response: v1.WatchJobResponse) -> Update | None:
        seen = self._sequence or 0
        if response.sequence <= seen:
            return None
        self._nothing_skipped(response.sequence - 1)
        self._sequence = response.sequence
        event = convert.event(response.event)
        self._job = event.job
        return event

    def _nothing_skipped(self, sequence: int) -> None:
        seen = self._sequence or 0
        if sequence > seen:
            raise SequenceGap(self.job_id, expected=seen + 1, received=sequence + 1)


class Patience:
    """How long to wait before the next try, and when to give up.

    Full jitter, doubling from BACKOFF_FIRST_SECONDS to BACKOFF_MAX_SECONDS, never less than the
    server asks for, within reason. It gives up `first` seconds after its making if no message has
    ever come, and `later` seconds after the first failure that follows the last message.
    """

    def __init__(
        self,
        *,
        first: float,
        later: float,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limit = first
        self._later = later
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._failing_since: float | None = clock()
        self._hearing_since: float | None = None
        self.read_timeout = min(SILENCE_SECONDS, first)
        """Seconds to wait for the next message."""

    def heard(self) -> None:
        """A message came: the server is there."""
        if self._hearing_since is None:
            self._hearing_since = self._clock()
            self._failing_since = None
            self._limit = self._later
            self.read_timeout = SILENCE_SECONDS

    def delay(self, failure: Unavailable) -> float:
        """Seconds until the next try. Raises `failure` once patience has run out."""
        now = self._clock()
        heard, self._hearing_since = self._hearing_since, None
        # A server that breaks streams as soon as they are up is not to be hurried.
        if heard is not None and now - heard > BACKOFF_MAX_SECONDS:
            self._failures = 0
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= self._limit:
            raise failure
        ceiling = min(BACKOFF_FIRST_SECONDS * 2.0**self._failures, BACKOFF_MAX_SECONDS)
        self._failures = min(self._failures + 1, 16)
        asked = failure.retry_after.total_seconds() if failure.retry_after else 0.0
        return min(asked, ADVICE_MAX_SECONDS) + ceiling * self._jitter()
