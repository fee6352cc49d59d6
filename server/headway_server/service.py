"""JobService: each method reads its request, calls the core, and answers."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, Final
from uuid import UUID

from headway.v1 import (
    BatchSubmitJobsRequest,
    BatchSubmitJobsResponse,
    CancelJobRequest,
    CancelJobResponse,
    GetJobRequest,
    GetJobResponse,
    ListDeadLettersRequest,
    ListDeadLettersResponse,
    ListJobsRequest,
    ListJobsResponse,
    ReplayDeadLetterRequest,
    ReplayDeadLetterResponse,
    SubmitJobRequest,
    SubmitJobResponse,
    WatchJobRequest,
    WatchJobResponse,
)
from headway.v1 import Job as JobMessage
from headway_core import dead_letters, jobs, leases, submissions
from headway_core.batching import GroupCommit
from headway_core.database import Database
from headway_core.errors import Refused
from headway_core.hints import CancelHint, EventHint, HintPublisher
from headway_core.job import Job, Submission
from headway_core.metrics import Metrics
from headway_core.states import JobState
from headway_core.submissions import Submitted
from headway_core.telemetry import ServerSpan
from headway_server import pages, validate
from headway_server.bounds import BATCH_JOBS_MAX, PAGE_BYTES_MAX
from headway_server.convert import (
    dead_letter_group_message,
    dead_letter_message,
    job_message,
    write_job,
)
from headway_server.listing import Part, fill
from headway_server.relay import Relay
from headway_server.rpc import Streaming, Unary, Write
from headway_server.settings import CALL_DATABASE_TIME_MAX
from headway_server.watch_hub import WatchHub
from headway_server.watching import watch

NAME: Final = "headway.v1.JobService"

Submits = GroupCommit[Submission, Submitted | Refused]


class JobService:
    """The eight methods of `headway.v1.JobService`."""

    def __init__(
        self,
        database: Database,
        *,
        long_reads: Database,
        submits: Submits,
        relay: Relay,
        hub: WatchHub,
        hints: HintPublisher,
        metrics: Metrics,
        queue_depth_max: int | None,
    ) -> None:
        self._database = database
        self._long_reads = long_reads
        self._submits = submits
        self._relay = relay
        self._hub = hub
        self._hints = hints
        self._metrics = metrics
        self._queue_depth_max = queue_depth_max

    def methods(self) -> list[Unary[Any, Any] | Streaming[Any, Any]]:
        """All methods, for `rpc.Calls`."""
        return [
            Unary("SubmitJob", SubmitJobRequest, self.submit_job),
            Unary("BatchSubmitJobs", BatchSubmitJobsRequest, self.batch_submit_jobs),
            Unary("GetJob", GetJobRequest, self.get_job),
            Unary("ListJobs", ListJobsRequest, self.list_jobs),
            Streaming("WatchJob", WatchJobRequest, self.watch_job),
            Unary("CancelJob", CancelJobRequest, self.cancel_job),
            Unary("ListDeadLetters", ListDeadLettersRequest, self.list_dead_letters),
            Unary("ReplayDeadLetter", ReplayDeadLetterRequest, self.replay_dead_letter),
        ]

    async def submit_job(self, request: SubmitJobRequest, span: ServerSpan) -> SubmitJobResponse:
        """Store a job, in a commit that it shares with others of the same moment."""
        item = validate.submission(request, span.context)
        outcome = await self._submits.submit(item, within=CALL_DATABASE_TIME_MAX)
        if isinstance(outcome, Refused):
            raise outcome
        span.job(outcome.job.id)
        # In the loop's next turn: the answer leaves before.
        asyncio.get_running_loop().call_soon(self._accept, [outcome])
        response = SubmitJobResponse()
        _write(response, outcome)
        return response

    async def batch_submit_jobs(
        self, request: BatchSubmitJobsRequest, span: ServerSpan
    ) -> BatchSubmitJobsResponse:
        """Store all jobs in one commit, or none."""
        contexts = span.contexts(min(len(request.requests), BATCH_JOBS_MAX))
        items = validate.submissions(request, contexts)
        outcomes = await submissions.submit_all(
            self._database, items, queue_depth_max=self._queue_depth_max
        )
        span.jobs([(outcome.job.id, outcome.created) for outcome in outcomes])
        self._accept(outcomes)
        response = BatchSubmitJobsResponse()
        for outcome in outcomes:
            _write(response.responses.add(), outcome)
        return response

    async def get_job(self, request: GetJobRequest, span: ServerSpan) -> GetJobResponse:
        """Read a job."""
        job_id, full = validate.get_job(request)
        span.job(job_id)
        return GetJobResponse(job=job_message(await jobs.get(self._database, job_id, full=full)))

    async def list_jobs(self, request: ListJobsRequest, _span: ServerSpan) -> ListJobsResponse:
        """Read a page of jobs, newest first."""
        chosen, page, start = validate.list_jobs(request)
        await self._ask_database()

        async def read(before: UUID | None, limit: int) -> Part[Job, UUID]:
            found = await jobs.list_jobs(
                self._long_reads, chosen, full=page.full, before=before, limit=limit
            )
            return Part(found.jobs, found.looked_up_to)

        filled = await fill(
            read,
            start=start,
            size=page.size,
            full=page.full,
            convert=job_message,
            position_of=lambda job: job.id,
        )
        token = pages.jobs_token(request, filled.next_position) if filled.next_position else ""
        return ListJobsResponse(jobs=filled.items, next_page_token=token)

    async def watch_job(
        self, request: WatchJobRequest, span: ServerSpan, write: Write[WatchJobResponse]
    ) -> None:
        """Stream a job's events and progress until it is done."""
        asked = validate.watch_job(request)
        span.job(asked.job_id)
        await watch(self._hub, asked, write)

    async def cancel_job(self, request: CancelJobRequest, span: ServerSpan) -> CancelJobResponse:
        """Cancel a waiting job, ask a running one to stop."""
        job_id, reason = validate.cancel_job(request)
        span.job(job_id)
        job = await jobs.cancel(self._database, job_id, reason=reason)
        if job.state is JobState.RUNNING:
            self._hints.send(CancelHint(job_id))
        self._tell_watchers([job])
        return CancelJobResponse(job=job_message(job))

    async def list_dead_letters(
        self, request: ListDeadLettersRequest, _span: ServerSpan
    ) -> ListDeadLettersResponse:
        """Read a page of DEAD jobs, latest death first, or the largest groups of alike deaths."""
        chosen, page, start = validate.list_dead_letters(request)
        await self._ask_database()
        if request.group:
            groups = await dead_letters.group_dead(self._long_reads, chosen, limit=page.size)
            return ListDeadLettersResponse(
                groups=[dead_letter_group_message(group) for group in groups]
            )

        async def read(
            before: tuple[datetime, UUID] | None, limit: int
        ) -> Part[dead_letters.DeadLetter, tuple[datetime, UUID]]:
            return Part(
                await dead_letters.list_dead(self._long_reads, chosen, before=before, limit=limit)
            )

        filled = await fill(
            read,
            start=start,
            size=page.size,
            full=False,
            convert=dead_letter_message,
            position_of=lambda letter: (letter.dead_time, letter.job.id),
        )
        token = pages.deaths_token(request, filled.next_position) if filled.next_position else ""
        return ListDeadLettersResponse(dead_letters=filled.items, next_page_token=token)

    async def replay_dead_letter(
        self, request: ReplayDeadLetterRequest, span: ServerSpan
    ) -> ReplayDeadLetterResponse:
        """Bring DEAD jobs back."""
        replayed: dead_letters.Replayed
        match validate.replay_dead_letter(request):
            case validate.ReplayOne(job_id, dry_run):
                span.job(job_id)
                replayed = await dead_letters.replay(self._database, job_id, dry_run=dry_run)
            case validate.ReplayMatching(chosen, dry_run, jobs_max):
                replayed = await dead_letters.replay_matching(
                    self._database, chosen, limit=jobs_max, dry_run=dry_run
                )
        self._relay.dispatch(replayed.dispatches)
        self._tell_watchers(replayed.jobs)
        return ReplayDeadLetterResponse(
            jobs=_fitting(replayed.jobs), replayed_count=replayed.count, more=replayed.more
        )

    async def _ask_database(self) -> None:
        """Hear in time whether Postgres is away, before a read that may well take longer."""
        await leases.database_clock(self._database)

    def _accept(self, outcomes: Sequence[Submitted]) -> None:
        """After the commit: publish what is due, count what is new."""
        dispatches = [outcome.dispatch for outcome in outcomes]
        self._relay.dispatch([dispatch for dispatch in dispatches if dispatch is not None])
        for outcome in outcomes:
            if outcome.created:
                self._metrics.job_submitted(queue=outcome.job.queue)

    def _tell_watchers(self, changed: Sequence[Job]) -> None:
        for job in changed:
            self._hints.send(EventHint(job.id, job.sequence, job.done))


def _write(response: SubmitJobResponse, outcome: Submitted) -> None:
    response.created = outcome.created
    write_job(response.job, outcome.job)


def _fitting(replayed: Sequence[Job]) -> list[JobMessage]:
    """The jobs' messages, as many as an answer may hold; the count tells of the others."""
    messages = [job_message(job) for job in replayed]
    sizes = accumulate(message.ByteSize() for message in messages)
    return messages[: sum(1 for size in sizes if size <= PAGE_BYTES_MAX)]
