"""What goes wrong becomes an exception with attributes, after as many tries as make sense."""

import asyncio
from datetime import timedelta

import grpc
import pytest

from headway import (
    Client,
    DeadLetterFilter,
    HeadwayError,
    IdempotencyKeyReused,
    InvalidRequest,
    JobNotDead,
    JobNotFound,
    NotPermitted,
    QueueFull,
    Refused,
    ServerDefect,
    SyncClient,
    TooManyQueues,
    Unavailable,
    Unsupported,
    Violation,
)
from tests.client.refusals import error_info, retry_info
from tests.client.scripted_server import Fault, ScriptedServer, ScriptedService

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_retries_end(client: Client, service: ScriptedService) -> None:
    service.faults.append(Fault("GetJob", UNAVAILABLE, times=99))
    with pytest.raises(Unavailable):
        await client.get("x")
    assert len(service.requests("GetJob")) == 4


async def test_a_replay_by_filter_is_not_sent_twice(
    client: Client, service: ScriptedService
) -> None:
    """A second one would go on to further jobs."""
    service.faults.append(Fault("ReplayDeadLetter", UNAVAILABLE, times=99))
    with pytest.raises(Unavailable):
        await client.replay(DeadLetterFilter(type="a"))
    assert len(service.requests("ReplayDeadLetter")) == 1


async def test_a_hung_call_ends_in_time(server: ScriptedServer) -> None:
    server.service.hanging.add("GetJob")
    async with Client(server.target, call_timeout=0.3) as client:
        with pytest.raises(Unavailable, match="did not answer in time"):
            await client.get("x")


ERRORS = [
    (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", {"job_id": "j"}, JobNotFound, {"job_id": "j"}),
    (
        grpc.StatusCode.ALREADY_EXISTS,
        "IDEMPOTENCY_KEY_REUSED",
        {"job_id": "j"},
        IdempotencyKeyReused,
        {"job_id": "j"},
    ),
    (
        grpc.StatusCode.FAILED_PRECONDITION,
        "JOB_NOT_DEAD",
        {"job_id": "j", "state": "RUNNING"},
        JobNotDead,
        {"job_id": "j", "state": "RUNNING"},
    ),
    (
        grpc.StatusCode.FAILED_PRECONDITION,
        "TOO_MANY_QUEUES",
        {"queue": "q", "limit": "256"},
        TooManyQueues,
        {"queue": "q", "limit": 256},
    ),
    (grpc.StatusCode.INTERNAL, "INTERNAL", {"error_id": "e"}, ServerDefect, {"error_id": "e"}),
    (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", {}, Unavailable, {}),
    (grpc.StatusCode.INVALID_ARGUMENT, "FILTER_REQUIRED", {}, InvalidRequest, {}),
    (grpc.StatusCode.INVALID_ARGUMENT, "A_NEWER_REASON", {}, InvalidRequest, {}),
    (grpc.StatusCode.FAILED_PRECONDITION, "A_NEWER_REASON", {}, Refused, {}),
    (grpc.StatusCode.PERMISSION_DENIED, "", {}, NotPermitted, {}),
    (grpc.StatusCode.UNAUTHENTICATED, "", {}, NotPermitted, {}),
    (grpc.StatusCode.UNIMPLEMENTED, "", {}, Unsupported, {}),
    (grpc.StatusCode.NOT_FOUND, "", {}, JobNotFound, {}),
    (grpc.StatusCode.DATA_LOSS, "", {}, ServerDefect, {}),
]


@pytest.mark.parametrize(("code", "reason", "metadata", "expected", "attributes"), ERRORS)
async def test_reasons_become_exceptions(
    client: Client,
    blocking: SyncClient,
    service: ScriptedService,
    code: grpc.StatusCode,
    reason: str,
    metadata: dict[str, str],
    expected: type[HeadwayError],
    attributes: dict[str, object],
) -> None:
    details = (error_info(reason, **metadata),) if reason else ()
    fault = Fault("CancelJob", code, details, "words of the server", times=99)
    service.faults.append(fault)
    for cancel in (client.cancel("j"), asyncio.to_thread(blocking.cancel, "j")):
        with pytest.raises(expected, match="words of the server") as caught:
            await cancel
        assert type(caught.value) is expected
        assert caught.value.reason == reason
        assert {name: getattr(caught.value, name) for name in attributes} == attributes
        assert isinstance(caught.value.__cause__, grpc.RpcError)


async def test_all_violations_are_named(client: Client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await client.submit("NOT A TYPE", priority=10)
    assert caught.value.violations == (
        Violation("type", "must match [a-z0-9._-]{1,128}"),
        Violation("priority", "must be 0 to 9"),
    )
    assert "priority: must be 0 to 9" in str(caught.value)


async def test_a_full_queue_says_how_full_and_when(
    client: Client, service: ScriptedService
) -> None:
    full = error_info("QUEUE_FULL", queue="bulk", limit="100", depth="101")
    service.faults.append(
        Fault("SubmitJob", grpc.StatusCode.RESOURCE_EXHAUSTED, (full, retry_info(7)))
    )
    with pytest.raises(QueueFull) as caught:
        await client.submit("a")
    error = caught.value
    assert (error.queue, error.limit, error.depth) == ("bulk", 100, 101)
    assert error.retry_after == timedelta(seconds=7)


async def test_a_payload_that_grpc_refuses_is_the_callers_fault(
    client: Client, service: ScriptedService
) -> None:
    """Nothing is gained by sending it again."""
    with pytest.raises(InvalidRequest, match="larger than max"):
        await client.submit("a", b"x" * (5 * 2**20))
