"""What every call goes through: malformed bytes, defects, spans, and no text that leaks."""

import asyncio
from types import ModuleType
from typing import Any, Never
from uuid import UUID

import grpc
import pytest
from google.protobuf.message import Message
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from headway.v1 import (
    BatchSubmitJobsRequest,
    CancelJobRequest,
    GetJobRequest,
    ListDeadLettersRequest,
    ListJobsRequest,
    ReplayDeadLetterRequest,
    SubmitJobRequest,
    WatchJobRequest,
)
from headway.v1.job_service_pb2 import DESCRIPTOR
from headway_core import dead_letters, events, jobs, submissions
from headway_core.database import Database
from headway_core.metrics import Metrics
from headway_core.telemetry import Telemetry
from headway_server.bookkeeper import Bookkeeper
from headway_server.service import NAME, JobService
from tests.service.serving import Served, refusal, serving

METHODS = [method.name for method in DESCRIPTOR.services_by_name["JobService"].methods]
SECRET = "postgres://admin:hunter2@db/headway"  # what an exception's text may hold


async def call_raw(served: Served, method: str, raw: bytes) -> bytes:
    channel: Any = served.channel
    path = f"/{NAME}/{method}"
    if method != "WatchJob":
        response: bytes = await channel.unary_unary(path)(raw, timeout=10)
    else:
        response = await channel.unary_stream(path)(raw, timeout=10).read()
    return response


def deep(levels: int) -> bytes:
    """A SubmitJobRequest whose payload is nested so deep, written byte by byte."""
    value = b"\x1a\x00"  # Value.string_value = ""
    for _ in range(levels):
        struct = _field(1, _field(1, b"a") + _field(2, value))
        value = _field(5, struct)
    return _field(1, b"t") + _field(3, _field(1, _field(1, _field(1, b"a") + _field(2, value))))


def _field(number: int, content: bytes) -> bytes:
    length, size = b"", len(content)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@pytest.mark.parametrize("method", METHODS)
async def test_malformed_bytes_are_an_invalid_argument(served: Served, method: str) -> None:
    """By itself grpc.aio answers UNKNOWN with the parser's text."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_raw(served, method, b"\xff\xff\xff")
    found = refusal(caught.value)
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert found.reason == "MALFORMED_REQUEST"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x0a\x05ab", id="cut short"),
        pytest.param(b"\x0a\x02\xff\xfe", id="not UTF-8"),
        pytest.param(b"\x0a\x03\xed\xa0\x80", id="a lone surrogate"),
    ],
)
async def test_text_that_is_none_is_malformed(served: Served, raw: bytes) -> None:
    """Protobuf strings are UTF-8, so surrogates never get further than here."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_raw(served, "SubmitJob", raw)
    assert refusal(caught.value).reason == "MALFORMED_REQUEST"


async def test_nesting_too_deep_for_the_parser_is_malformed(served: Served) -> None:
    """Ten thousand levels cost neither the process nor a stack trace."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_raw(served, "SubmitJob", deep(10_000))
    assert refusal(caught.value).reason == "MALFORMED_REQUEST"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_raw(served, "SubmitJob", deep(30))
    found = refusal(caught.value)
    assert found.reason == "INVALID_FIELD"
    assert "28 levels" in found.message


async def test_unknown_fields_are_no_error(served: Served) -> None:
    """A newer client may say more than we understand."""
    raw = SubmitJobRequest(type="t").SerializeToString() + b"\xf8\x07\x01"
    assert await call_raw(served, "SubmitJob", raw)


async def test_an_unknown_method_is_unimplemented(served: Served) -> None:
    """As gRPC has it."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_raw(served, "Nothing", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_every_method_of_the_contract_is_served() -> None:
    """One that is forgotten would be UNIMPLEMENTED."""
    assert {method.name for method in JobService.methods(_AnyService())} == set(METHODS)  # type: ignore[arg-type]


class _AnyService:
    def __getattr__(self, name: str) -> object:
        return name


JOB_ID = str(UUID(int=7))
DEFECTS: dict[str, tuple[ModuleType, str, Message]] = {
    "SubmitJob": (submissions, "_store", SubmitJobRequest(type="t")),
    "BatchSubmitJobs": (
        submissions,
        "submit_all",
        BatchSubmitJobsRequest(requests=[SubmitJobRequest(type="t")]),
    ),
    "GetJob": (jobs, "get", GetJobRequest(job_id=JOB_ID)),
    "ListJobs": (jobs, "list_jobs", ListJobsRequest()),
    "WatchJob": (jobs, "get_many", WatchJobRequest(job_id=JOB_ID)),
    "CancelJob": (jobs, "cancel", CancelJobRequest(job_id=JOB_ID)),
    "ListDeadLetters": (dead_letters, "list_dead", ListDeadLettersRequest()),
    "ReplayDeadLetter": (dead_letters, "replay", ReplayDeadLetterRequest(job_id=JOB_ID)),
}
"""By method: what of the core it calls, and with what request."""


async def defect(*_: object, **__: object) -> Never:
    raise ValueError(SECRET)


def check_internal(error: grpc.aio.AioRpcError, written: str) -> None:
    found = refusal(error)
    assert found.code is grpc.StatusCode.INTERNAL
    assert found.reason == "INTERNAL"
    assert found.metadata.keys() == {"error_id"}
    assert "hunter2" not in str(error) + str(error.trailing_metadata())
    assert found.metadata["error_id"] in written, "the log has it"
    assert "ValueError" in written


@pytest.mark.parametrize("method", METHODS)
async def test_a_defect_is_internal_with_an_id_and_nothing_else(
    served: Served,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """grpc.aio would send the exception's text, and such texts hold URLs with passwords."""
    module, name, request = DEFECTS[method]
    monkeypatch.setattr(module, name, defect)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_raw(served, method, request.SerializeToString())
    check_internal(caught.value, "".join(capfd.readouterr()))


async def test_a_defect_in_the_middle_of_a_stream_is_internal_too(
    served: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    request = SubmitJobRequest(type="t")
    request.delay.FromSeconds(3_600)
    job_id = (await served.stub.SubmitJob(request)).job.id
    watch = served.stub.WatchJob(WatchJobRequest(job_id=job_id), timeout=20)
    assert (await watch.read()).HasField("snapshot")
    monkeypatch.setattr(events, "after", defect)
    await served.stub.CancelJob(CancelJobRequest(job_id=job_id))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    check_internal(caught.value, "".join(capfd.readouterr()))


async def test_the_death_of_a_loop_ends_the_server(
    database_url: str, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server whose flusher is dead would accept calls and answer none."""

    async def run(_: Bookkeeper) -> Never:
        raise ArithmeticError("defect")

    monkeypatch.setattr(Bookkeeper, "run", run)
    with pytest.RaisesGroup(ArithmeticError):
        async with serving(database_url, amqp_url):
            await asyncio.Event().wait()


async def test_calls_are_spans_with_the_callers_trace(
    database_url: str, amqp_url: str, database: Database
) -> None:
    """SERVER spans by the conventions' names; a job is stored under its own submit's span."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(provider, traces_per_second=100)
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    metadata = (("traceparent", caller),)
    async with serving(database_url, amqp_url, telemetry=telemetry) as served:
        job = (await served.stub.SubmitJob(SubmitJobRequest(type="t"), metadata=metadata)).job
        with pytest.raises(grpc.aio.AioRpcError):
            await served.stub.GetJob(GetJobRequest(job_id=str(UUID(int=7))), metadata=metadata)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    submitted = spans[f"{NAME}/SubmitJob"]
    assert submitted.kind is SpanKind.SERVER
    assert submitted.parent is not None
    assert f"{submitted.parent.span_id:016x}" == "b7ad6b7169203331"
    assert submitted.attributes is not None
    assert submitted.attributes["headway.job.id"] == job.id
    stored = await database.fetchval("SELECT traceparent FROM jobs")
    assert stored[36:52] == f"{submitted.context.span_id:016x}"
    missing = spans[f"{NAME}/GetJob"]
    assert missing.attributes is not None
    assert missing.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert missing.status.status_code is not StatusCode.ERROR, "the caller's error, not ours"


async def test_the_trace_of_a_batchs_job_names_it(database_url: str, amqp_url: str) -> None:
    """Each job of a batch begins a trace of its own, to be found by its ID."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(provider, traces_per_second=100)
    request = BatchSubmitJobsRequest(requests=[SubmitJobRequest(type="t")] * 3)
    async with serving(database_url, amqp_url, telemetry=telemetry) as served:
        responses = (await served.stub.BatchSubmitJobs(request)).responses
    named = {
        f"{span.context.trace_id:032x}": span.attributes["headway.job.id"]
        for span in exporter.get_finished_spans()
        if span.name == "create headway.jobs" and span.attributes and span.context
    }
    assert named == {response.job.trace_id: response.job.id for response in responses}
    assert len(named) == 3


async def test_calls_are_counted_by_method_and_code(database_url: str, amqp_url: str) -> None:
    """Aborted ones under the code that their callers saw."""
    counted: list[tuple[str, str]] = []
    metrics = Metrics.off()
    metrics.rpc = lambda *, method, code, seconds: counted.append((method, code))  # type: ignore[method-assign]
    async with serving(database_url, amqp_url, metrics=metrics) as served:
        await served.stub.SubmitJob(SubmitJobRequest(type="t"))
        with pytest.raises(grpc.aio.AioRpcError):
            await served.stub.SubmitJob(SubmitJobRequest())
    assert counted == [
        (f"{NAME}/SubmitJob", "OK"),
        (f"{NAME}/SubmitJob", "INVALID_ARGUMENT"),
    ]
