"""Bounds: every field of every request, refused with its path and without any change."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from headway.v1 import (
    BatchSubmitJobsRequest,
    CancelJobRequest,
    DeadLetterFilter,
    GetJobRequest,
    JobState,
    JobView,
    ListDeadLettersRequest,
    ListJobsRequest,
    Payload,
    ReplayDeadLetterRequest,
    RetryPolicy,
    SubmitJobRequest,
    WatchJobRequest,
)
from headway_core import trace_context
from headway_core.database import Database
from headway_server import validate
from headway_server.errors import FilterRequired, RequestInvalid
from tests.service.serving import Served, refusal

ID = "01919191-0000-7000-8000-000000000000"
NAN, INFINITY = float("nan"), float("inf")


def duration(seconds: int = 0, nanos: int = 0) -> Duration:
    return Duration(seconds=seconds, nanos=nanos)


def submit(**fields: Any) -> SubmitJobRequest:
    return SubmitJobRequest(**{"type": "t", **fields})


def policy(**fields: Any) -> SubmitJobRequest:
    return submit(retry_policy=RetryPolicy(**fields))


def filtered(**fields: Any) -> ListDeadLettersRequest:
    return ListDeadLettersRequest(filter=DeadLetterFilter(**fields))


def fields_of(request: Message) -> set[str]:
    """What is found wrong with a request; the empty set if it is taken."""
    read: Callable[[Any], object]
    match request:
        case SubmitJobRequest():
            read = partial(validate.submission, context=trace_context.new(sampled=False))
        case GetJobRequest():
            read = validate.get_job
        case ListJobsRequest():
            read = validate.list_jobs
        case WatchJobRequest():
            read = validate.watch_job
        case CancelJobRequest():
            read = validate.cancel_job
        case ListDeadLettersRequest():
            read = validate.list_dead_letters
        case ReplayDeadLetterRequest():
            read = validate.replay_dead_letter
        case _:
            raise AssertionError(request)
    try:
        read(request)
    except RequestInvalid as error:
        return {violation.field for violation in error.violations}
    return set()


@pytest.mark.parametrize(
    "request_",
    [
        submit(type="a" * 128),
        submit(type="report.pdf-2_x"),
        submit(queue="q" * 64),
        submit(idempotency_key="ü" * 256),
        submit(priority=0),
        submit(priority=9),
        submit(delay=duration(365 * 86_400)),
        submit(delay=duration(0)),
        submit(run_time=Timestamp(seconds=-62_135_596_800)),
        submit(timeout=duration(nanos=1000)),
        submit(timeout=duration(30 * 86_400)),
        submit(labels={"k" * 64: "v" * 256, "empty": ""}),
        submit(labels={str(n): "" for n in range(32)}),
        submit(payload=Payload(data=b"", content_type="c" * 256)),
        policy(max_attempts=1, multiplier=1, initial_backoff=duration(0)),
        policy(max_attempts=1000, multiplier=100, max_backoff=duration(7 * 86_400)),
        GetJobRequest(job_id=ID, view=JobView.JOB_VIEW_FULL),
        GetJobRequest(job_id=ID.upper()),
        ListJobsRequest(page_size=10**9, states=JobState.values()[1:]),
        WatchJobRequest(job_id=ID, after_sequence=0, min_progress_interval=duration(3600)),
        WatchJobRequest(job_id=ID, after_sequence=2**63 - 1),
        CancelJobRequest(job_id=ID, reason="ü" * 1024),
        ListDeadLettersRequest(group=True),
        filtered(type="t", queue="q", fingerprint="0123456789abcdef"),
        ReplayDeadLetterRequest(job_id=ID, dry_run=True),
        ReplayDeadLetterRequest(allow_all=True, max_jobs=1000),
        ReplayDeadLetterRequest(filter=DeadLetterFilter(type="t"), max_jobs=1),
    ],
)
def test_what_the_contract_allows_is_taken(request_: Message) -> None:
    """The bounds themselves are inside."""
    assert fields_of(request_) == set()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (SubmitJobRequest(), "type"),
        (submit(type="a" * 129), "type"),
        (submit(type="Report"), "type"),
        (submit(type="a b"), "type"),
        (submit(type="a\n"), "type"),
        (submit(type="ä"), "type"),
        (submit(type="a\x00"), "type"),
        (submit(queue="q" * 65), "queue"),
        (submit(queue="a.b"), "queue"),
        (submit(idempotency_key="k" * 257), "idempotency_key"),
        (submit(idempotency_key="a\x00b"), "idempotency_key"),
        (submit(priority=-1), "priority"),
        (submit(priority=10), "priority"),
        (submit(delay=duration(-1)), "delay"),
        (submit(delay=duration(365 * 86_400, 1000)), "delay"),
        (submit(delay=duration(1, -1)), "delay"),
        (submit(delay=duration(0, 10**9)), "delay"),
        (submit(delay=duration(2**62)), "delay"),
        (submit(run_time=Timestamp(seconds=2**62)), "run_time"),
        (submit(run_time=Timestamp(nanos=-1)), "run_time"),
        (submit(run_time=Timestamp(seconds=-62_135_596_801)), "run_time"),
        (submit(timeout=duration(0)), "timeout"),
        (submit(timeout=duration(-1)), "timeout"),
        (submit(timeout=duration(30 * 86_400, 1000)), "timeout"),
        (submit(labels={str(n): "" for n in range(33)}), "labels"),
        (submit(labels={"": "x"}), "labels"),
        (submit(labels={"k" * 65: "x"}), "labels"),
        (submit(labels={"a\x00": "x"}), "labels"),
        (submit(labels={"a": "v" * 257}), "labels.a"),
        (submit(labels={"a": "\x00"}), "labels.a"),
        (submit(payload=Payload(data=b"x" * 262_145)), "payload.data"),
        (submit(payload=Payload(content_type="c" * 257)), "payload.content_type"),
        (submit(payload=Payload(content_type="\x00")), "payload.content_type"),
        (policy(max_attempts=0), "retry_policy.max_attempts"),
        (policy(max_attempts=1001), "retry_policy.max_attempts"),
        (policy(multiplier=0.99), "retry_policy.multiplier"),
        (policy(multiplier=100.1), "retry_policy.multiplier"),
        (policy(multiplier=NAN), "retry_policy.multiplier"),
        (policy(multiplier=INFINITY), "retry_policy.multiplier"),
        (policy(initial_backoff=duration(-1)), "retry_policy.initial_backoff"),
        (policy(initial_backoff=duration(7 * 86_400 + 1)), "retry_policy.initial_backoff"),
        (policy(max_backoff=duration(7 * 86_400 + 1)), "retry_policy.max_backoff"),
        (GetJobRequest(), "job_id"),
        (GetJobRequest(job_id="7"), "job_id"),
        (GetJobRequest(job_id=ID.replace("-", "")), "job_id"),
        (GetJobRequest(job_id=f"{{{ID}}}"), "job_id"),
        (GetJobRequest(job_id=f"urn:uuid:{ID}"), "job_id"),
        (GetJobRequest(job_id=ID + "\n"), "job_id"),
        (GetJobRequest(job_id=ID, view=7), "view"),  # type: ignore[arg-type]
        (ListJobsRequest(page_size=-1), "page_size"),
        (ListJobsRequest(page_token="x"), "page_token"),
        (ListJobsRequest(page_token="é" * 300), "page_token"),
        (ListJobsRequest(states=[JobState.JOB_STATE_UNSPECIFIED]), "states[0]"),
        (ListJobsRequest(states=[1, 99]), "states[1]"),  # type: ignore[list-item]
        (ListJobsRequest(states=[1] * 17), "states"),  # type: ignore[list-item]
        (ListJobsRequest(type="A"), "type"),
        (ListJobsRequest(queue="A"), "queue"),
        (ListJobsRequest(labels={"": "x"}), "labels"),
        (ListJobsRequest(create_time_from=Timestamp(nanos=-1)), "create_time_from"),
        (ListJobsRequest(create_time_to=Timestamp(nanos=10**9)), "create_time_to"),
        (ListJobsRequest(view=9), "view"),  # type: ignore[arg-type]
        (WatchJobRequest(job_id="x"), "job_id"),
        (WatchJobRequest(job_id=ID, after_sequence=-1), "after_sequence"),
        (
            WatchJobRequest(job_id=ID, min_progress_interval=duration(3601)),
            "min_progress_interval",
        ),
        (
            WatchJobRequest(job_id=ID, min_progress_interval=duration(-1)),
            "min_progress_interval",
        ),
        (CancelJobRequest(), "job_id"),
        (CancelJobRequest(job_id=ID, reason="x" * 1025), "reason"),
        (CancelJobRequest(job_id=ID, reason="\x00"), "reason"),
        (ListDeadLettersRequest(page_size=-1), "page_size"),
        (ListDeadLettersRequest(page_token="x"), "page_token"),
        (filtered(type="A"), "filter.type"),
        (filtered(queue="A"), "filter.queue"),
        (filtered(fingerprint="\x00"), "filter.fingerprint"),
        (filtered(dead_time_from=Timestamp(nanos=-1)), "filter.dead_time_from"),
        (filtered(dead_time_to=Timestamp(seconds=2**62)), "filter.dead_time_to"),
        (ReplayDeadLetterRequest(job_id="x"), "job_id"),
        (ReplayDeadLetterRequest(job_id=ID, allow_all=True), "allow_all"),
        (
            ReplayDeadLetterRequest(job_id=ID, filter=DeadLetterFilter(type="t")),
            "filter",
        ),
        (ReplayDeadLetterRequest(allow_all=True, max_jobs=1001), "max_jobs"),
        (ReplayDeadLetterRequest(allow_all=True, max_jobs=-1), "max_jobs"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_the_path_of_its_field(
    request_: Message, field: str
) -> None:
    """One wrong field is one violation."""
    assert fields_of(request_) == {field}


def test_a_run_time_is_at_most_a_year_ahead() -> None:
    """From the server's own now."""
    ahead = Timestamp()
    ahead.FromDatetime(datetime.now(UTC) + timedelta(days=364))
    assert fields_of(submit(run_time=ahead)) == set()
    ahead.FromDatetime(datetime.now(UTC) + timedelta(days=366))
    assert fields_of(submit(run_time=ahead)) == {"run_time"}


def test_all_violations_come_at_once() -> None:
    """Nobody wants to learn of them one by one."""
    request = submit(
        type="A",
        queue="B",
        priority=10,
        delay=duration(-1),
        timeout=duration(-1),
        labels={"": ""},
        retry_policy=RetryPolicy(max_attempts=0, multiplier=NAN),
        payload=Payload(data=b"x" * 300_000, content_type="\x00"),
    )
    assert len(fields_of(request)) == 10


@pytest.mark.parametrize(
    "request_",
    [
        ReplayDeadLetterRequest(),
        ReplayDeadLetterRequest(dry_run=True),
        ReplayDeadLetterRequest(filter=DeadLetterFilter()),
    ],
)
def test_a_replay_has_to_name_something(request_: ReplayDeadLetterRequest) -> None:
    """An empty filter is a slip, not a wish for everything."""
    with pytest.raises(FilterRequired):
        validate.replay_dead_letter(request_)


async def test_a_refused_request_carries_bad_request_and_changes_nothing(
    served: Served, database: Database
) -> None:
    """Through the wire: code, reason, paths, and an empty table."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.SubmitJob(submit(type="A", priority=99))
    found = refusal(caught.value)
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.reason == "INVALID_FIELD"
    assert found.fields.keys() == {"type", "priority"}
    assert found.fields["priority"] == "must be 0 to 9"
    assert await database.fetchval("SELECT count(*) FROM jobs") == 0


async def test_a_value_out_of_bounds_is_not_repeated_in_the_error(served: Served) -> None:
    """It may be a secret that went into the wrong field."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.SubmitJob(submit(type="SECRET", idempotency_key="SECRET" * 100))
    assert "SECRET" not in str(caught.value)


async def test_an_error_with_thousands_of_violations_still_reaches_its_caller(
    served: Served,
) -> None:
    """Clients take 8 KiB of trailers; one byte more and all they see is RESOURCE_EXHAUSTED."""
    requests = [submit(type="A", queue="B", labels={"ü" * 64: "x" * 257})] * 1000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))
    found = refusal(caught.value)
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "requests[0].type" in found.fields
    assert found.fields["*"].endswith("more violations")
