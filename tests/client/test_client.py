"""What the clients send, return and raise."""

import asyncio
import inspect
import sys
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from headway import (
    Client,
    Data,
    DeadLetterFilter,
    IdempotencyKeyReused,
    InvalidRequest,
    JobCancelled,
    JobDied,
    JobNotDead,
    JobState,
    RetryPolicy,
    Submission,
    SyncClient,
    WaitTimeout,
    v1,
)
from tests.client.scripted_job import ScriptedJob
from tests.client.scripted_server import Fault, ScriptedServer, ScriptedService

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def submitted(service: ScriptedService) -> v1.SubmitJobRequest:
    request = service.requests("SubmitJob")[-1]
    assert isinstance(request, v1.SubmitJobRequest)
    return request


async def test_submit_sends_every_field(client: Client, service: ScriptedService) -> None:
    job = await client.submit(
        "report.pdf",
        {"country": "FR", "pages": 3, "nested": [1, 2.5, None, True, {"x": ()}]},
        queue="bulk",
        priority=0,
        idempotency_key="k1",
        delay=timedelta(seconds=90),
        retry_policy=RetryPolicy(max_attempts=2, initial_backoff=0.5, multiplier=3),
        timeout=600,
        labels={"team": "billing"},
    )
    request = submitted(service)
    assert (request.type, request.queue, request.idempotency_key) == ("report.pdf", "bulk", "k1")
    assert request.HasField("priority")
    assert request.priority == 0
    assert request.delay.ToTimedelta() == timedelta(seconds=90)
    assert request.retry_policy.max_attempts == 2
    assert request.retry_policy.initial_backoff.ToMilliseconds() == 500
    assert not request.retry_policy.HasField("max_backoff")
    assert request.timeout.seconds == 600
    assert request.labels == {"team": "billing"}
    assert (job.queue, job.labels, job.created) == ("bulk", {"team": "billing"}, True)
    full = await client.get(job.id, full=True)
    assert full.payload == {
        "country": "FR",
        "pages": 3,
        "nested": [1, 2.5, None, True, {"x": []}],
    }


async def test_submit_leaves_unset_what_is_not_given(
    client: Client, service: ScriptedService
) -> None:
    """The handler's values stand then."""
    await client.submit("report.pdf")
    request = submitted(service)
    fields = {descriptor.name for descriptor, _ in request.ListFields()}
    assert fields == {"type", "idempotency_key"}


async def test_run_time_and_naive_times(client: Client, service: ScriptedService) -> None:
    due = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
    await client.submit("a", run_time=due)
    assert submitted(service).run_time.ToDatetime(UTC) == due
    with pytest.raises(ValueError, match="no time zone"):
        await client.submit("a", run_time=due.replace(tzinfo=None))
    with pytest.raises(ValueError, match="not both"):
        await client.submit("a", run_time=due, delay=1)


async def test_a_lost_answer_makes_no_second_job(client: Client, service: ScriptedService) -> None:
    """The commit happened, the answer did not come: gRPC's own retry carries the same key."""
    service.faults.append(Fault("SubmitJob", UNAVAILABLE, after_commit=True, times=2))
    job = await client.submit("report.pdf")
    assert len(service.jobs) == 1
    assert len({request.idempotency_key for request in service.requests("SubmitJob")}) == 1
    assert len(service.requests("SubmitJob")) == 3
    assert job.created


async def test_the_same_key_gives_the_same_job(client: Client) -> None:
    first = await client.submit("report.pdf", idempotency_key="k")
    second = await client.submit("report.pdf", idempotency_key="k")
    assert (first.created, second.created) == (True, False)
    assert first.id == second.id
    with pytest.raises(IdempotencyKeyReused) as caught:
        await client.submit("other", idempotency_key="k")
    assert caught.value.job_id == first.id
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_submit_many_keeps_the_order(client: Client, service: ScriptedService) -> None:
    jobs = await client.submit_many(
        Submission("a", {"n": n}, idempotency_key=f"k{n % 3}") for n in range(4)
    )
    assert [job.created for job in jobs] == [True, True, True, False]
    assert jobs[0].id == jobs[3].id


async def test_list_takes_all_pages_and_stops_at_the_limit(
    client: Client, blocking: SyncClient, service: ScriptedService
) -> None:
    for number in range(25):
        await service.add("even" if number % 2 == 0 else "odd", queue="q")
    assert len([job async for job in client.list()]) == 25
    assert len([job async for job in client.list(type="odd")]) == 12
    limited = [job.id async for job in client.list(limit=7)]
    assert len(limited) == 7
    assert limited == sorted(limited, reverse=True)
    assert [job async for job in client.list(limit=0)] == []
    asked = service.requests("ListJobs")
    assert [request.page_size for request in asked] == [1000, 1000, 7, 1]

    def small_pages() -> int:
        blocking._connection.settings.call_seconds = 5
        return len(list(blocking.list(states="PENDING", full=True)))

    assert await asyncio.to_thread(small_pages) == 25
    assert service.requests("ListJobs")[-1].view == v1.JobView.JOB_VIEW_FULL


async def test_list_follows_page_tokens(
    client: Client, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headway import requests

    monkeypatch.setattr(requests, "PAGE_SIZE", 10)
    for _ in range(25):
        await service.add()
    seen = [job.id async for job in client.list()]
    assert len(set(seen)) == 25
    assert [request.page_token for request in service.requests("ListJobs")][1:] == ["10", "20"]
    assert len([job async for job in client.list(limit=12)]) == 12


async def test_cancel_and_get(client: Client, service: ScriptedService) -> None:
    job = await client.submit("a")
    cancelled = await client.cancel(job.id, reason="wrong country")
    assert cancelled.state is JobState.CANCELLED
    assert cancelled.done
    assert service.requests("CancelJob")[0].reason == "wrong country"
    with pytest.raises(JobCancelled) as caught:
        await client.result(job.id)
    assert caught.value.job.id == job.id


async def test_dead_letters_and_replay(client: Client, service: ScriptedService) -> None:
    for number in range(3):
        scripted = await service.add("a" if number else "b")
        await scripted.die(f"boom {number}")
    letters = [letter async for letter in client.dead_letters(DeadLetterFilter(type="a"))]
    assert [letter.job.error.message for letter in letters] == ["boom 1", "boom 2"]
    groups = await client.dead_letter_groups()
    assert {group.type: group.count for group in groups} == {"a": 2, "b": 1}
    chosen = DeadLetterFilter(fingerprint=letters[0].fingerprint)
    trial = await client.replay(chosen, dry_run=True, max_jobs=1)
    assert (trial.replayed_count, trial.more) == (1, True)
    assert trial.jobs[0].state is JobState.DEAD
    done = await client.replay(chosen)
    assert [job.state for job in done.jobs] == [JobState.PENDING] * 2
    one = await client.replay(next(iter(service.jobs)))
    assert one.replayed_count == 1
    with pytest.raises(JobNotDead):
        await client.replay(next(iter(service.jobs)))
    with pytest.raises(InvalidRequest):
        await client.replay()
    with pytest.raises(InvalidRequest):
        await client.replay(DeadLetterFilter())
    assert (await client.replay(allow_all=True)).replayed_count == 0


async def pilot(scripted: ScriptedJob) -> None:
    await asyncio.sleep(0.05)
    await scripted.start()
    await scripted.advance(1, 2)
    await scripted.complete(pages=12)


async def fatal(scripted: ScriptedJob) -> None:
    await scripted.start()
    await scripted.die()


async def test_wait_and_result(
    client: Client, blocking: SyncClient, service: ScriptedService
) -> None:
    service.pilots = {"good": pilot, "bad": fatal}
    good = await client.submit("good", {"n": 1})
    assert await client.result(good.id) == {"pages": 12}
    done = await client.wait(good.id)
    assert (done.state, done.result, done.payload) == (
        JobState.COMPLETED,
        {"pages": 12},
        {"n": 1},
    )
    bad = await client.submit("bad")
    with pytest.raises(JobDied, match="ValueError: no luck"):
        await client.result(bad.id)
    assert (await client.wait(bad.id)).state is JobState.DEAD
    other = await client.submit("good")
    assert await asyncio.to_thread(blocking.result, other.id) == {"pages": 12}
    with pytest.raises(JobDied):
        await asyncio.to_thread(blocking.result, bad.id)


async def test_wait_gives_up_in_time(
    client: Client, blocking: SyncClient, service: ScriptedService
) -> None:
    job = await client.submit("never")
    with pytest.raises(WaitTimeout, match="it goes on"):
        await client.wait(job.id, timeout=0.2)
    with pytest.raises(TimeoutError):
        await client.wait(job.id, timeout=timedelta(0))
    with pytest.raises(WaitTimeout):
        await asyncio.to_thread(blocking.wait, job.id, timeout=0.2)
    with pytest.raises(WaitTimeout):
        await asyncio.to_thread(blocking.wait, job.id, timeout=0)


async def test_wait_survives_a_restart(
    client: Client, blocking: SyncClient, server: ScriptedServer, service: ScriptedService
) -> None:
    scripted = await service.add()
    waiting = asyncio.create_task(client.wait(scripted.job.id))
    also = asyncio.create_task(asyncio.to_thread(blocking.wait, scripted.job.id))
    async with asyncio.timeout(60):
        while service.open_streams < 2:  # noqa: ASYNC110 - the scripted server's state
            await asyncio.sleep(0.01)
        await server.stop()
        await scripted.complete(x=1)
        await asyncio.sleep(0.3)
        await server.start()
        assert (await waiting).result == {"x": 1}
        assert (await also).result == {"x": 1}


async def test_bytes_and_messages_come_back_as_they_went(
    client: Client, service: ScriptedService
) -> None:
    for given in (b"\x00\xff", Data(b"%PDF", "application/pdf"), Duration(seconds=5), {}):
        job = await client.submit("a", given)
        payload = (await client.get(job.id, full=True)).payload
        assert payload == given
        if isinstance(given, Data):
            assert isinstance(payload, Data)
            assert payload.content_type == "application/pdf"


async def test_the_clients_differ_in_await_only() -> None:
    """One description of every method stands for both."""
    names = {name for name in vars(Client) if not name.startswith("_")}
    assert names == {name for name in vars(SyncClient) if not name.startswith("_")}
    for name in names - {"target"}:
        asynchronous, blocking = getattr(Client, name), getattr(SyncClient, name)
        assert (
            inspect.signature(asynchronous).parameters == inspect.signature(blocking).parameters
        ), name
        assert asynchronous.__doc__.replace("aclosing", "closing") == blocking.__doc__, name


async def test_a_client_may_be_used_again_after_close(
    server: ScriptedServer, service: ScriptedService
) -> None:
    client = Client(server.target)
    job = await client.submit("a")
    await client.close()
    await client.close()
    assert (await client.get(job.id)).id == job.id
    await client.close()


async def test_the_callers_trace_context_is_sent(client: Client, service: ScriptedService) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    assert "opentelemetry.trace" in sys.modules
    span = trace.NonRecordingSpan(
        trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))
    )
    with trace.use_span(span):
        await client.submit("a")
    assert service.metadata[-1]["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    await client.submit("a")
    assert "traceparent" not in service.metadata[-1]


async def test_a_job_shows_itself_in_a_notebook(client: Client, service: ScriptedService) -> None:
    scripted = await service.add("report.pdf")
    scripted.job.labels["<b>"] = "&"
    await scripted.advance(1, 4, "fetch", "<script>")
    html = (await client.get(scripted.job.id))._repr_html_()
    assert 'value="0.2500"' in html
    assert "<script>" not in html
    assert "&lt;b&gt;=&amp;" in html
