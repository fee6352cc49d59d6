"""A JobService in memory that keeps the rules of a watch, or breaks them when told to.

It stands in for the server while client and command line are tested by themselves: what the real
one does is tested with the real one. Tests drive it from the same event loop.
"""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest

from headway import v1
from tests.client.refusals import error_info, refuse
from tests.client.scripted_job import ScriptedJob

Context = grpc.aio.ServicerContext
Pilot = Callable[[ScriptedJob], Coroutine[object, object, None]]


@dataclass
class Fault:
    """Makes the next `times` calls of a method fail."""

    method: str
    code: grpc.StatusCode
    details: tuple[Message, ...] = ()
    message: str = "scripted failure"
    times: int = 1
    after_commit: bool = False
    """Do the work first, then fail: the answer is lost, not the request."""


class ScriptedService(v1.JobServiceServicer):
    """Answers by the rules; `faults`, `tamper` and `pilot` change that."""

    def __init__(self) -> None:
        self.jobs: dict[str, ScriptedJob] = {}
        self.keys: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.calls: list[tuple[str, Message]] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.tamper: Callable[[int, v1.WatchJobResponse], list[v1.WatchJobResponse]] | None = None
        """Called with the number of the stream and each message; returns what to send instead."""
        self.pilots: dict[str, Pilot] = {}
        """By job type: what becomes of a submitted job."""
        self.speaking = asyncio.Event()
        """Cleared: streams say nothing and never end."""
        self.speaking.set()
        self.bookmarks = False
        """Idle streams get one every 50 ms."""
        self.hanging: set[str] = set()
        """Methods that never answer."""
        self.early_endings = 0
        """So many streams end with OK after their first message, or after none is due."""
        self.streams = 0
        self.open_streams = 0
        self.draining = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, type_: str = "demo.job", **fields: object) -> ScriptedJob:
        """A PENDING job with its first event."""
        number = f"{len(self.jobs) + 1:012d}"
        job = v1.Job(
            id=f"01990000-0000-7000-8000-{number}",
            type=type_,
            queue="default",
            priority=4,
            max_attempts=5,
            trace_id=uuid.uuid4().hex,
        )
        job.create_time.GetCurrentTime()
        scripted = ScriptedJob(job)
        self.jobs[job.id] = scripted
        await scripted.event("SUBMITTED", "PENDING", **fields)
        return scripted

    def requests(self, method: str) -> list[Message]:
        """What was asked of a method so far."""
        return [request for name, request in self.calls if name == method]

    async def SubmitJob(
        self, request: v1.SubmitJobRequest, context: Context
    ) -> v1.SubmitJobResponse:
        fault = await self._called("SubmitJob", request, context)
        response = await self._submit(request, context)
        await self._fail(fault, context)
        return response

    async def BatchSubmitJobs(
        self, request: v1.BatchSubmitJobsRequest, context: Context
    ) -> v1.BatchSubmitJobsResponse:
        await self._called("BatchSubmitJobs", request, context)
        return v1.BatchSubmitJobsResponse(
            responses=[await self._submit(item, context) for item in request.requests]
        )

    async def GetJob(self, request: v1.GetJobRequest, context: Context) -> v1.GetJobResponse:
        await self._called("GetJob", request, context)
        scripted = await self._find(request.job_id, context)
        return v1.GetJobResponse(job=view(scripted.job, request.view))

    async def ListJobs(self, request: v1.ListJobsRequest, context: Context) -> v1.ListJobsResponse:
        await self._called("ListJobs", request, context)
        found = [
            view(scripted.job, request.view)
            for scripted in reversed(self.jobs.values())
            if (not request.states or scripted.job.state in request.states)
            and request.type in ("", scripted.job.type)
            and request.queue in ("", scripted.job.queue)
            and all(scripted.job.labels.get(k) == v for k, v in request.labels.items())
        ]
        page, token = paged(found, request.page_size, request.page_token)
        return v1.ListJobsResponse(jobs=page, next_page_token=token)

    async def CancelJob(
        self, request: v1.CancelJobRequest, context: Context
    ) -> v1.CancelJobResponse:
        await self._called("CancelJob", request, context)
        scripted = await self._find(request.job_id, context)
        if not scripted.job.done:
            await scripted.event("CANCELLED", "CANCELLED", request.reason)
        return v1.CancelJobResponse(job=view(scripted.job))

    async def ListDeadLetters(
        self, request: v1.ListDeadLettersRequest, context: Context
    ) -> v1.ListDeadLettersResponse:
        await self._called("ListDeadLetters", request, context)
        dead = self._dead(request.filter)
        if request.group:
            groups = itertools.groupby(sorted(dead, key=fingerprint), key=fingerprint)
            return v1.ListDeadLettersResponse(
                groups=[
                    v1.DeadLetterGroup(
                        fingerprint=key,
                        type=jobs[0].type,
                        queue="default",
                        error=jobs[0].error,
                        count=len(jobs),
                    )
                    for key, group in groups
                    if (jobs := list(group))
                ]
            )
        letters = [
            v1.DeadLetter(
                job=view(job), fingerprint=fingerprint(job), reason="attempts are used up"
            )
            for job in dead
        ]
        page, token = paged(letters, request.page_size, request.page_token)
        return v1.ListDeadLettersResponse(dead_letters=page, next_page_token=token)

    async def ReplayDeadLetter(
        self, request: v1.ReplayDeadLetterRequest, context: Context
    ) -> v1.ReplayDeadLetterResponse:
        await self._called("ReplayDeadLetter", request, context)
        if request.job_id:
            job = (await self._find(request.job_id, context)).job
            if job.state != v1.JobState.JOB_STATE_DEAD:
                state = v1.JobState.Name(job.state).removeprefix("JOB_STATE_")
                info = error_info("JOB_NOT_DEAD", job_id=job.id, state=state)
                await refuse(
                    context,
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"job {job.id} is {state}; only DEAD jobs can be replayed",
                    info,
                )
            chosen = [job]
        elif request.HasField("filter") or request.allow_all:
            chosen = self._dead(request.filter)
        else:
            chosen = []
            await refuse(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "name a job, a filter or allow_all",
                error_info("FILTER_REQUIRED"),
            )
        taken = chosen[: request.max_jobs or 1000]
        if not request.dry_run:
            for job in taken:
                await self.jobs[job.id].event("REPLAYED", "PENDING")
        return v1.ReplayDeadLetterResponse(
            jobs=map(view, taken), replayed_count=len(taken), more=len(taken) < len(chosen)
        )

    async def WatchJob(self, request: v1.WatchJobRequest, context: Context) -> None:
        await self._called("WatchJob", request, context)
        scripted = await self._find(request.job_id, context)
        self.streams += 1
        self.open_streams += 1
        stream = self.streams
        try:
            async for response in self._updates(scripted, request):
                changed = self.tamper(stream, response) if self.tamper else [response]
                for message in changed:
                    await context.write(message)
                if self.early_endings:
                    self.early_endings -= 1
                    return
            if self.draining.is_set():
                info = error_info("SERVER_DRAINING")
                await refuse(context, grpc.StatusCode.UNAVAILABLE, "going away", info)
        finally:
            self.open_streams -= 1

    async def _updates(
        self, scripted: ScriptedJob, request: v1.WatchJobRequest
    ) -> AsyncIterator[v1.WatchJobResponse]:
        """DESIGN §5.7: snapshot or the events after, then every event, until done or draining."""
        sent = request.after_sequence
        forgotten = request.HasField("after_sequence") and sent < scripted.forgotten
        if not request.HasField("after_sequence") or forgotten:
            sent = scripted.job.sequence
            snapshot = view(scripted.job)
            yield v1.WatchJobResponse(sequence=sent, snapshot=snapshot, reset=forgotten)
        progress_seen = scripted.progress_count
        while True:
            await self.speaking.wait()
            for event in scripted.events[sent:]:
                sent = event.sequence
                yield v1.WatchJobResponse(sequence=sent, event=event)
            if scripted.job.done or self.draining.is_set():
                return
            if scripted.progress_count > progress_seen:
                progress_seen = scripted.progress_count
                yield v1.WatchJobResponse(sequence=sent, progress=scripted.job.progress)
            bookmark = False
            async with scripted.changed:
                if scripted.job.sequence == sent and scripted.progress_count == progress_seen:
                    try:
                        async with asyncio.timeout(0.05):
                            await scripted.changed.wait()
                    except TimeoutError:
                        bookmark = self.bookmarks
            if bookmark:
                yield v1.WatchJobResponse(sequence=sent, bookmark=v1.Bookmark())

    async def _submit(self, request: v1.SubmitJobRequest, context: Context) -> v1.SubmitJobResponse:
        if not request.type.replace(".", "").isalnum():
            bad = BadRequest()
            bad.field_violations.add(field="type", description="must match [a-z0-9._-]{1,128}")
            bad.field_violations.add(field="priority", description="must be 0 to 9")
            await refuse(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "2 fields are out of bounds",
                error_info("INVALID_FIELD"),
                bad,
            )
        if request.idempotency_key in self.keys:
            scripted = self.jobs[self.keys[request.idempotency_key]]
            if scripted.job.type != request.type:
                await refuse(
                    context,
                    grpc.StatusCode.ALREADY_EXISTS,
                    "the key belongs to another request",
                    error_info("IDEMPOTENCY_KEY_REUSED", job_id=scripted.job.id),
                )
            return v1.SubmitJobResponse(job=view(scripted.job), created=False)
        scripted = await self.add(request.type, payload=request.payload)
        scripted.job.labels.update(request.labels)
        if request.queue:
            scripted.job.queue = request.queue
        if request.HasField("priority"):
            scripted.job.priority = request.priority
        if request.idempotency_key:
            self.keys[request.idempotency_key] = scripted.job.id
        if pilot := self.pilots.get(request.type):
            task = asyncio.get_running_loop().create_task(pilot(scripted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return v1.SubmitJobResponse(job=view(scripted.job), created=True)

    async def close(self) -> None:
        """End the pilots that still run."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _dead(self, chosen: v1.DeadLetterFilter) -> list[v1.Job]:
        return [
            scripted.job
            for scripted in self.jobs.values()
            if scripted.job.state == v1.JobState.JOB_STATE_DEAD
            and chosen.type in ("", scripted.job.type)
            and chosen.queue in ("", scripted.job.queue)
            and chosen.fingerprint in ("", fingerprint(scripted.job))
        ]

    async def _find(self, job_id: str, context: Context) -> ScriptedJob:
        if job_id not in self.jobs:
            await refuse(
                context,
                grpc.StatusCode.NOT_FOUND,
                f"no job has the ID {job_id}",
                error_info("JOB_NOT_FOUND", job_id=job_id),
            )
        return self.jobs[job_id]

    async def _called(self, method: str, request: Message, context: Context) -> Fault | None:
        self.calls.append((method, request))
        self.metadata.append(dict(context.invocation_metadata() or ()))
        if method in self.hanging:
            await asyncio.Event().wait()
        fault = next((item for item in self.faults if item.method == method and item.times), None)
        if fault is not None:
            fault.times -= 1
            if not fault.after_commit:
                await self._fail(fault, context)
        return fault

    async def _fail(self, fault: Fault | None, context: Context) -> None:
        if fault is not None:
            await refuse(context, fault.code, fault.message, *fault.details)


class ScriptedServer:
    """The service on a port of its own, which it keeps over restarts."""

    def __init__(self, service: ScriptedService) -> None:
        self.service = service
        self.port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ]
        self._server = grpc.aio.server(options=options)
        v1.add_JobServiceServicer_to_server(self.service, self._server)
        self.port = self._server.add_insecure_port(self.target)
        self.service.draining.clear()
        await self._server.start()

    async def stop(self, *, drain: bool = False) -> None:
        """With `drain` streams end with UNAVAILABLE; without, they are cut off."""
        if self._server is None:
            return
        server, self._server = self._server, None
        if drain:
            self.service.draining.set()
        await server.stop(1.0 if drain else None)
        await server.wait_for_termination()


@asynccontextmanager
async def serving() -> AsyncIterator[ScriptedServer]:
    """A running server with an empty service."""
    server = ScriptedServer(ScriptedService())
    await server.start()
    try:
        yield server
    finally:
        await server.service.close()
        await server.stop()


def view(job: v1.Job, chosen: int = v1.JobView.JOB_VIEW_BASIC) -> v1.Job:
    copy = v1.Job()
    copy.CopyFrom(job)
    if chosen != v1.JobView.JOB_VIEW_FULL:
        copy.ClearField("payload")
        copy.ClearField("result")
    return copy


def paged(items: list[Message], size: int, token: str) -> tuple[list[Message], str]:
    begin = int(token or 0)
    end = begin + (size or 100)
    return items[begin:end], str(end) if end < len(items) else ""


def fingerprint(job: v1.Job) -> str:
    return f"{job.type}/{job.error.type}".lower()
