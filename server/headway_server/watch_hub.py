"""What the watchers of one process share: who watches which job, and what is known of it.

A hint only says that it is worth reading; so does the poll, once a second for all watched jobs
together, which is the guarantee: with every hint lost, watchers are a second late and miss nothing.
Events come from Postgres alone, and one read serves all watchers of a job.
"""

import asyncio
import random
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, NamedTuple, Never
from uuid import UUID

from headway.v1 import WatchJobResponse
from headway_core import events, jobs
from headway_core.batching import GroupCommit
from headway_core.database import Database
from headway_core.errors import JobNotFound, StoreUnavailable
from headway_core.hints import EventHint, Hint, ProgressHint
from headway_core.job import Job, Progress
from headway_core.states import JobState
from headway_server.convert import event_response
from headway_server.settings import CALL_DATABASE_TIME_MAX
from headway_server.streak import Streak

POLL: Final = timedelta(seconds=1)
POLL_JOBS_MAX: Final = 1000
"""In one query; more watched jobs take several."""
READS_MAX: Final = 4
"""Reads of events at the same time: a storm of watchers leaves connections to other calls."""
EVENTS_READ_MAX: Final = 100
EVENTS_SHARED_MAX: Final = 20
"""Newest events of a watched job that are kept for those of its watchers that read them later."""


class EventResponse(NamedTuple):
    """The response that tells of an event, made once for all watchers: nobody changes it."""

    sequence: int
    state: JobState
    """The job's, as of the event."""
    run_epoch: int
    response: WatchJobResponse


class Topic:
    """A watched job: the newest that is known of it."""

    def __init__(self, job_id: UUID) -> None:
        self.job_id = job_id
        self.head = 0
        """The highest sequence heard of."""
        self.epoch = 0
        self.progress: Progress | None = None
        """The newest of the run `epoch`."""
        self.watchers: set[Watcher] = set()
        self.shared: deque[EventResponse] = deque(maxlen=EVENTS_SHARED_MAX)
        self.reading = asyncio.Lock()

    def shared_after(self, sequence: int) -> list[EventResponse]:
        """The events after a sequence, if the first of them is among those kept."""
        shared = [event for event in self.shared if event.sequence > sequence]
        return shared if shared and shared[0].sequence == sequence + 1 else []

    def note_event(self, sequence: int) -> None:
        """There is an event with this sequence."""
        if sequence > self.head:
            self.head = sequence
            for watcher in self.watchers:
                watcher.wake.set()

    def note_progress(self, epoch: int, progress: Progress) -> None:
        """There is progress of this run. Of an older run, or older than what is known: nothing."""
        known = self.progress
        if epoch < self.epoch:
            return
        if epoch == self.epoch and known and progress.update_time <= known.update_time:
            return
        self.epoch, self.progress = epoch, progress
        for watcher in self.watchers:
            watcher.wake.set()


class Watcher:
    """One stream's subscription. `wake` is set when something new is known of the job."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.wake = asyncio.Event()


class WatchHub:
    """All topics. `run` is to be a task; it ends by cancellation."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._topics: dict[UUID, Topic] = {}
        self._snapshots: GroupCommit[UUID, Job | None] = GroupCommit(self._read_jobs)
        self._reads = asyncio.Semaphore(READS_MAX)
        self._poll_now = asyncio.Event()
        self._streak = Streak("watch poll")
        self.draining = False

    @property
    def watched(self) -> int:
        """How many jobs are watched."""
        return len(self._topics)

    @contextmanager
    def subscribe(self, job_id: UUID) -> Iterator[Watcher]:
        """Hear of a job's news inside the block."""
        topic = self._topics.get(job_id)
        if topic is None:
            topic = self._topics[job_id] = Topic(job_id)
        watcher = Watcher(topic)
        topic.watchers.add(watcher)
        try:
            yield watcher
        finally:
            topic.watchers.discard(watcher)
            if not topic.watchers:
                del self._topics[job_id]

    def hear(self, hint: Hint) -> None:
        """Take a hint from the broker or from this process."""
        match hint:
            case EventHint():
                if topic := self._topics.get(hint.job_id):
                    topic.note_event(hint.sequence)
            case ProgressHint():
                if topic := self._topics.get(hint.job_id):
                    topic.note_progress(hint.run_epoch, hint.progress)
            case _:
                pass

    def poll_now(self) -> None:
        """Hints may have been missed: look at the truth."""
        self._poll_now.set()

    def drain(self) -> None:
        """End every stream, and every further one at once."""
        self.draining = True
        for topic in self._topics.values():
            for watcher in topic.watchers:
                watcher.wake.set()

    async def run(self) -> None:
        """Poll, and read the snapshots that streams ask for."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._snapshots.run())
            group.create_task(self._poll())

    async def job(self, job_id: UUID) -> Job:
        """The job as it stands. Streams that begin together share a read. Raises JobNotFound."""
        job = await self._snapshots.submit(job_id, within=CALL_DATABASE_TIME_MAX)
        if job is None:
            raise JobNotFound(job_id)
        return job

    async def events_after(self, topic: Topic, sequence: int) -> Sequence[EventResponse]:
        """Some of the events after a sequence, in order; none if there is none."""
        if shared := topic.shared_after(sequence):
            return shared
        async with topic.reading:
            if shared := topic.shared_after(sequence):  # by the one that was reading
                return shared
            page = await self.read_events(topic, sequence)
            self._share(topic, page)
            return page

    async def read_events(self, topic: Topic, sequence: int) -> list[EventResponse]:
        """The same, from Postgres in any case: at most EVENTS_READ_MAX, fewer only at the head."""
        async with self._reads:
            read = await events.after(self._database, topic.job_id, sequence, limit=EVENTS_READ_MAX)
        page = [
            EventResponse(
                event.sequence, event.job.state, event.job.run_epoch, event_response(event)
            )
            for event in read
        ]
        if page:
            topic.note_event(page[-1].sequence)
        return page

    def _share(self, topic: Topic, page: Sequence[EventResponse]) -> None:
        """Keep the newest events, without a gap, if there is somebody to share them with."""
        if len(topic.watchers) == 1:
            topic.shared.clear()
            return
        for event in page:
            if not topic.shared or event.sequence == topic.shared[-1].sequence + 1:
                topic.shared.append(event)

    async def _read_jobs(self, job_ids: Sequence[UUID]) -> list[Job | None]:
        found = {job.id: job for job in await jobs.get_many(self._database, list(set(job_ids)))}
        return [found.get(job_id) for job_id in job_ids]

    async def _poll(self) -> Never:
        while True:
            try:
                async with asyncio.timeout(POLL.total_seconds() * random.uniform(0.8, 1.2)):
                    await self._poll_now.wait()
            except TimeoutError:
                pass
            self._poll_now.clear()
            try:
                await self._look_at_all()
            except StoreUnavailable as error:
                self._streak.failed(error)
            else:
                self._streak.worked()

    async def _look_at_all(self) -> None:
        watched = list(self._topics)
        for start in range(0, len(watched), POLL_JOBS_MAX):
            heads = await events.heads(self._database, watched[start : start + POLL_JOBS_MAX])
            for job_id, head in heads.items():
                topic = self._topics.get(job_id)
                if topic is None:
                    continue
                topic.note_event(head.sequence)
                if head.progress is not None and head.state is JobState.RUNNING:
                    topic.note_progress(head.run_epoch, head.progress)
