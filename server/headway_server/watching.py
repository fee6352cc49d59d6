"""One WatchJob stream (DESIGN §5.7): every event in order, the newest progress, bounded memory.

The stream holds its position and one page of events. It pulls: a reader that does not read stops it
at the next write, and nothing piles up meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from headway.v1 import Bookmark, WatchJobResponse
from headway_core.failpoints import failpoint
from headway_core.job import Job, Progress
from headway_core.states import JobState
from headway_server.convert import job_message, progress_message
from headway_server.errors import RequestInvalid, ServerDraining, SlowReader, Violation
from headway_server.validate import Watching
from headway_server.watch_hub import EVENTS_READ_MAX, EventResponse, Watcher, WatchHub

WRITE_PATIENCE: Final = timedelta(seconds=30)
BOOKMARK_INTERVAL: Final = timedelta(seconds=15)

Write = Callable[[WatchJobResponse], Awaitable[None]]


async def watch(
    hub: WatchHub,
    asked: Watching,
    write: Write,
    *,
    write_patience: timedelta = WRITE_PATIENCE,
    bookmark_interval: timedelta = BOOKMARK_INTERVAL,
) -> None:
    """Write what is asked until the job is done and its last event is sent.

    Raises JobNotFound, RequestInvalid (a sequence beyond the job's last), ServerDraining,
    SlowReader, StoreUnavailable.
    """
    # Subscribed before anything is read: what happens in between is heard of.
    with hub.subscribe(asked.job_id) as watcher:
        stream = _Stream(
            hub,
            watcher,
            write,
            progress_interval=asked.progress_interval,
            write_patience=write_patience,
            bookmark_interval=bookmark_interval,
        )
        if hub.draining:
            raise ServerDraining
        ended = await stream.begin(asked.after_sequence)
        while not ended:
            await stream.wait()
            ended = await stream.send_events()


class _Stream:
    def __init__(
        self,
        hub: WatchHub,
        watcher: Watcher,
        write: Write,
        *,
        progress_interval: timedelta,
        write_patience: timedelta,
        bookmark_interval: timedelta,
    ) -> None:
        self._hub = hub
        self._watcher = watcher
        self._topic = watcher.topic
        self._write = write
        self._progress_interval_seconds = progress_interval.total_seconds()
        self._write_patience = write_patience
        self._bookmark_interval_seconds = bookmark_interval.total_seconds()
        self._time = asyncio.get_running_loop().time
        self._sequence = 0
        """Of the last event sent, or contained in the snapshot."""
        self._running_epoch: int | None = None
        """The run that is under way as of `_sequence`: only its progress is sent."""
        self._epoch_read = 0
        """The newest run that events were read for."""
        self._progress_sent: datetime | None = None
        self._progress_due = 0.0
        self._bookmark_due = 0.0

    async def begin(self, after_sequence: int | None) -> bool:
        """Send the snapshot, or the events after a sequence. True: the stream has ended."""
        job = await self._hub.job(self._topic.job_id)
        await failpoint("watch_after_snapshot")
        self._topic.note_event(job.sequence)
        if after_sequence is None:
            return await self._send_snapshot(job, reset=False)
        if after_sequence > job.sequence:
            # No reader was ever given that number, unless Postgres has lost commits; waiting for
            # it would skip the events that take the numbers in between.
            wrong = f"must be at most {job.sequence}, the sequence of the job's last event"
            raise RequestInvalid([Violation("after_sequence", wrong)])
        self._sequence = after_sequence
        if after_sequence == job.sequence:
            self._stand_at(job.state, job.run_epoch)
            self._bookmark_due = self._time() + self._bookmark_interval_seconds
            return job.done
        return await self.send_events()

    async def send_events(self) -> bool:
        """Send every event that follows. True: the job is done and its last event is sent."""
        while True:
            self._epoch_read = max(self._epoch_read, self._topic.epoch)
            page = await self._hub.events_after(self._topic, self._sequence)
            if not page:
                return await self._catch_up()
            if await self._send(page):
                return True
            if self._topic.head <= self._sequence and len(page) < EVENTS_READ_MAX:
                return False

    async def wait(self) -> None:
        """Wait for events; send progress and bookmarks meanwhile. Raises ServerDraining."""
        while True:
            self._watcher.wake.clear()
            if self._hub.draining:
                raise ServerDraining
            if self._topic.head > self._sequence or self._is_behind_a_run():
                return
            now = self._time()
            progress = self._unsent_progress()
            if progress is not None and now >= self._progress_due:
                await self._send_progress(progress)
                continue
            if now >= self._bookmark_due:
                await self._send_response(
                    WatchJobResponse(sequence=self._sequence, bookmark=Bookmark())
                )
                continue
            until = self._bookmark_due
            if progress is not None:
                until = min(until, self._progress_due)
            try:
                async with asyncio.timeout(until - now):
                    await self._watcher.wake.wait()
            except TimeoutError:
                pass

    async def _send(self, page: Sequence[EventResponse]) -> bool:
        """Send events. True: the last one is the end."""
        for event in page:
            if event.sequence != self._sequence + 1:
                return await self._send_snapshot(await self._read(), reset=True)
            self._sequence = event.sequence
            self._stand_at(event.state, event.run_epoch)
            await self._send_response(event.response)
        match page[-1].state:
            case JobState.COMPLETED | JobState.CANCELLED:
                return True
            case JobState.DEAD:
                # Not the end if a REPLAYED follows.
                return not await self._hub.read_events(self._topic, self._sequence)
            case _:
                return False

    async def _catch_up(self) -> bool:
        """No event follows ours. Either nothing is new, or what was new is gone from the store."""
        job = await self._read()
        if job.sequence > self._sequence:
            # It may have come between the two reads: only what is missing now is gone.
            page = await self._hub.read_events(self._topic, self._sequence)
            if page:
                return await self._send(page)
            return await self._send_snapshot(job, reset=True)
        self._topic.head = job.sequence
        return False

    async def _read(self) -> Job:
        return await self._hub.job(self._topic.job_id)

    async def _send_snapshot(self, job: Job, *, reset: bool) -> bool:
        self._sequence = job.sequence
        self._stand_at(job.state, job.run_epoch)
        if job.progress is not None:
            self._progress_sent = job.progress.update_time
        await self._send_response(
            WatchJobResponse(sequence=self._sequence, snapshot=job_message(job), reset=reset)
        )
        return job.done

    async def _send_progress(self, progress: Progress) -> None:
        self._progress_sent = progress.update_time
        await self._send_response(
            WatchJobResponse(sequence=self._sequence, progress=progress_message(progress))
        )
        self._progress_due = self._time() + self._progress_interval_seconds

    async def _send_response(self, response: WatchJobResponse) -> None:
        try:
            async with asyncio.timeout(self._write_patience.total_seconds()):
                await self._write(response)
        except TimeoutError as error:
            raise SlowReader(patience=self._write_patience) from error
        self._bookmark_due = self._time() + self._bookmark_interval_seconds

    def _stand_at(self, state: JobState, run_epoch: int) -> None:
        """The stream's reader now knows the job as of here."""
        self._epoch_read = max(self._epoch_read, run_epoch)
        running_epoch = run_epoch if state is JobState.RUNNING else None
        if running_epoch != self._running_epoch:
            # The next run may be on a machine whose clock is behind this one's.
            self._progress_sent = None
        self._running_epoch = running_epoch

    def _is_behind_a_run(self) -> bool:
        """Whether progress of a run is known whose STARTED is not: that event comes first."""
        return self._topic.progress is not None and self._topic.epoch > self._epoch_read

    def _unsent_progress(self) -> Progress | None:
        progress = self._topic.progress
        if progress is None or self._topic.epoch != self._running_epoch:
            return None
        if self._progress_sent is not None and progress.update_time <= self._progress_sent:
            return None
        return progress
