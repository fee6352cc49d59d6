"""The client for asyncio."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from headway import convert, requests
from headway.connection import Connection, Settings, seconds
from headway.cursor import Cursor
from headway.errors import Unavailable, WaitTimeout
from headway.jobs import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterGroup,
    Job,
    JobState,
    PayloadIn,
    Replay,
    RetryPolicy,
    Submission,
)
from headway.updates import Update
from headway.watching import OnReconnect, watch


class Client:
    """Submits jobs and follows them. One is enough for a program, for any number of tasks.

    `target` is HOST:PORT, or several with commas (see `headway.channel.resolve`); without one
    $HEADWAY_TARGET, then 127.0.0.1:50051. `call_timeout` bounds one call with its retries;
    `reconnect_timeout` bounds how long a broken watch tries to come back. Numbers mean seconds.

    It connects on first use and belongs to the loop that runs then; close it with `async with` or
    `close()`. What goes wrong is raised as a HeadwayError.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        call_timeout: timedelta | float = 15.0,
        reconnect_timeout: timedelta | float = 300.0,
    ) -> None:
        self._connection = Connection(
            Settings(target, call_timeout=call_timeout, reconnect_timeout=reconnect_timeout)
        )

    @property
    def target(self) -> str:
        """The server or servers, as gRPC is told."""
        return self._connection.settings.target

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End open calls and the connection. A later call would connect again."""
        await self._connection.close()

    async def submit(
        self,
        type: str,  # noqa: A002 - the service's word
        payload: PayloadIn = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        delay: timedelta | float | None = None,
        run_time: datetime | None = None,
        retry_policy: RetryPolicy | None = None,
        timeout: timedelta | float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Job:
        """Store a job durably and return it.

        `payload` is a dict (JSON), bytes or `Data`, or a Protobuf message. `priority` is 0 to 9,
        higher first. `timeout` bounds one attempt. None leaves a choice to the handler, then to
        the server. Without an `idempotency_key` a random one is sent, so that a lost answer never
        makes a second job; with one, `created` on the job tells whether this call made it.
        """
        submission = Submission(
            type,
            payload,
            queue=queue,
            priority=priority,
            idempotency_key=idempotency_key,
            delay=delay,
            run_time=run_time,
            retry_policy=retry_policy,
            timeout=timeout,
            labels=labels,
        )
        request = requests.submit(submission)
        response = await self._connection.call(self._connection.stub.SubmitJob, request)
        return requests.submitted(submission, response)

    async def submit_many(self, submissions: Iterable[Submission]) -> tuple[Job, ...]:
        """Store up to 1,000 jobs in one commit, all or none; the jobs come in the same order."""
        submissions = tuple(submissions)
        request = requests.submit_many(submissions)
        response = await self._connection.call(self._connection.stub.BatchSubmitJobs, request)
        return tuple(map(requests.submitted, submissions, response.responses))

    async def get(self, job_id: str, *, full: bool = False) -> Job:
        """A job as it stands now; with `full`, payload and result too. Raises JobNotFound."""
        request = requests.get(job_id, full=full)
        return convert.job((await self._connection.call(self._connection.stub.GetJob, request)).job)

    async def list(
        self,
        *,
        states: Iterable[JobState | str] = (),
        type: str | None = None,  # noqa: A002 - the service's word
        queue: str | None = None,
        labels: Mapping[str, str] | None = None,
        create_time_from: datetime | None = None,
        create_time_to: datetime | None = None,
        full: bool = False,
        limit: int | None = None,
    ) -> AsyncGenerator[Job, None]:
        """Iterate over jobs, newest first, page by page; what is given must all hold."""
        request = requests.list_jobs(
            states=states,
            type=type,
            queue=queue,
            labels=labels,
            create_time_from=create_time_from,
            create_time_to=create_time_to,
            full=full,
            limit=limit,
        )
        left = sys.maxsize if limit is None else limit
        async for page in self._connection.pages(self._connection.stub.ListJobs, request):
            for item in page.jobs[:left]:
                yield convert.job(item)
            left -= len(page.jobs)
            if left <= 0:
                return

    async def cancel(self, job_id: str, *, reason: str = "") -> Job:
        """Cancel a waiting job now, ask a running one to stop; a done job stays as it is.

        A running job may still complete. The job is returned as it stands.
        """
        request = requests.cancel(job_id, reason=reason)
        response = await self._connection.call(self._connection.stub.CancelJob, request)
        return convert.job(response.job)

    async def dead_letters(
        self, chosen: DeadLetterFilter | None = None, *, limit: int | None = None
    ) -> AsyncGenerator[DeadLetter, None]:
        """Iterate over DEAD jobs, latest death first, page by page."""
        request = requests.dead_letters(chosen, group=False, limit=limit)
        left = sys.maxsize if limit is None else limit
        async for page in self._connection.pages(self._connection.stub.ListDeadLetters, request):
            for item in page.dead_letters[:left]:
                yield convert.dead_letter(item)
            left -= len(page.dead_letters)
            if left <= 0:
                return

    async def dead_letter_groups(
        self, chosen: DeadLetterFilter | None = None, *, limit: int = 100
    ) -> tuple[DeadLetterGroup, ...]:
        """DEAD jobs grouped by what killed them, the largest group first; at most 1,000."""
        request = requests.dead_letters(chosen, group=True, limit=limit)
        response = await self._connection.call(self._connection.stub.ListDeadLetters, request)
        return tuple(map(convert.dead_letter_group, response.groups))

    async def replay(
        self,
        chosen: str | DeadLetterFilter | None = None,
        *,
        allow_all: bool = False,
        dry_run: bool = False,
        max_jobs: int | None = None,
    ) -> Replay:
        """Bring DEAD jobs back: one by ID, those that a filter chooses, or with `allow_all` all.

        They keep their IDs, get fresh budgets and skip finished steps. At most `max_jobs` (1 to
        1,000, default 1,000), oldest death first; `more` tells that some are left. `dry_run`
        changes nothing. Raises JobNotDead for a job that never died.
        """
        request = requests.replay(chosen, allow_all=allow_all, dry_run=dry_run, max_jobs=max_jobs)
        method = self._connection.stub.ReplayDeadLetter
        return convert.replay(await self._connection.call(method, request))

    def watch(
        self,
        job_id: str,
        *,
        after_sequence: int | None = None,
        min_progress_interval: timedelta | float | None = None,
        on_reconnect: OnReconnect | None = None,
    ) -> AsyncGenerator[Update, None]:
        """Iterate over what happens to a job until it is done, across restarts of the server.

        A Snapshot first, then every Event in order, each once; between them the newest Progress,
        and a Bookmark when nothing happens. With `after_sequence` the events after it instead of
        the snapshot (0: the whole history); a Snapshot with `reset` if those are gone.

        A broken stream is resumed after the last event; `on_reconnect` hears why, and in how many
        seconds. Raises JobNotFound, Unavailable when `reconnect_timeout` is over, and SequenceGap
        if the server skips an event. Close it (`contextlib.aclosing`) to stop early.
        """
        return watch(
            self._connection,
            Cursor(job_id, after_sequence),
            min_progress_interval=min_progress_interval,
            on_reconnect=on_reconnect,
        )

    async def wait(self, job_id: str, *, timeout: timedelta | float | None = None) -> Job:
        """The job, with payload and result, once it is done, whatever its end.

        Raises WaitTimeout; the job goes on then.
        """
        job = await self._get_patiently(job_id)
        try:
            async with asyncio.timeout(None if timeout is None else seconds(timeout)):
                while not job.done:
                    async with aclosing(self.watch(job_id, after_sequence=job.sequence)) as updates:
                        async for _ in updates:
                            pass
                    job = await self._get_patiently(job_id)
        except TimeoutError as error:
            assert timeout is not None
            raise WaitTimeout(job_id, timedelta(seconds=seconds(timeout))) from error
        return job

    async def result(self, job_id: str, *, timeout: timedelta | float | None = None) -> Any:
        """What the job returned, once it is done: a dict, `Data`, a Protobuf message, or None.

        Raises JobDied, JobCancelled or WaitTimeout.
        """
        return requests.outcome(await self.wait(job_id, timeout=timeout))

    async def _get_patiently(self, job_id: str) -> Job:
        patience = self._connection.settings.patience()
        while True:
            try:
                return await self.get(job_id, full=True)
            except Unavailable as error:
                await asyncio.sleep(patience.delay(error))
