"""One trace follows a job, its names are the designed ones, and what is not sampled is not made."""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from headway_core import trace_context
from headway_core.job import Dispatch
from headway_core.sampling import OVERFLOW_RATIO, TraceBudget
from headway_core.settings import CoreSettings, load
from headway_core.spans import ServerSpan
from headway_core.telemetry import Telemetry
from headway_core.trace_context import TraceContext
from tests.broker.conftest import dispatch

SUBMIT = "headway.v1.JobService/SubmitJob"
BATCH = "headway.v1.JobService/BatchSubmitJobs"
GET = "headway.v1.JobService/GetJob"
CALLER = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1")
UNSAMPLED = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
URLS = {"HEADWAY_DATABASE_URL": "postgresql://h/d", "HEADWAY_AMQP_URL": "amqp://h/"}


@dataclass(frozen=True)
class Run:
    """What a claim says."""

    context: TraceContext
    job_id: UUID = field(default_factory=uuid4)
    type: str = "report.pdf"
    queue: str = "mail"
    attempt: int = 2
    run_epoch: int = 5

    @property
    def traceparent(self) -> str:
        return self.context.traceparent

    @property
    def tracestate(self) -> str:
        return self.context.tracestate


class Recorder:
    """A telemetry that keeps its spans."""

    def __init__(self, traces_per_second: float = 1000) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.telemetry = Telemetry(provider, traces_per_second=traces_per_second)
        self.provider = provider

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def metadata(context: TraceContext) -> list[tuple[str, str | bytes]]:
    pairs: list[tuple[str, str | bytes]] = [
        ("user-agent", "grpc"),
        ("traceparent", context.traceparent),
        ("some-bin", b"\x00"),
    ]
    return pairs + ([("tracestate", context.tracestate)] if context.tracestate else [])


def stored(context: TraceContext, **given: Any) -> Dispatch:
    return dispatch(traceparent=context.traceparent, tracestate=context.tracestate, **given)


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def span_id(span: ReadableSpan) -> str:
    assert span.context
    return f"{span.context.span_id:016x}"


@contextmanager
def request_span(
    telemetry: Telemetry, method: str, metadata: Iterable[tuple[str, str | bytes]] | None
) -> Iterator[ServerSpan]:
    """What the server does around a call."""
    span = telemetry.server_span(method, metadata)
    try:
        yield span
    except BaseException as error:
        span.end(error)
        raise
    span.end()


def parent_id(span: ReadableSpan) -> str | None:
    return f"{span.parent.span_id:016x}" if span.parent else None


def test_one_trace_follows_a_job_from_submission_to_settlement(recorder: Recorder) -> None:
    """P13: submit, publish, process each attempt, settle, across a retry."""
    telemetry = recorder.telemetry
    job_id = uuid4()
    with request_span(telemetry, SUBMIT, None) as request:
        request.job(job_id)
    context = request.context
    for number in (1, 2):
        publish = telemetry.publish_span(stored(context, job_id=job_id, dispatch_no=number))
        publish.end()
        run = Run(context, job_id, attempt=number, run_epoch=number)
        with telemetry.process_span(run, link=publish.context) as span:
            with telemetry.step_span("fetch", job_id):
                pass
            span.outcome("failed" if number == 1 else "succeeded", failed=number == 1)
            with telemetry.settle_span(job_id, "mail"):
                pass
    spans = recorder.spans
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context} == {context.trace_id}
    assert all(attributes(span)["headway.job.id"] == str(job_id) for span in spans)
    submit = recorder.named(SUBMIT)
    assert (submit.kind, submit.parent) == (SpanKind.SERVER, None)
    assert span_id(submit) == context.span_id
    tree = [(span.name, span.kind, parent_id(span)) for span in spans if span is not submit]
    first, second = [span for span in spans if span.name == "process mail"]
    assert tree == [
        ("publish headway.jobs", SpanKind.PRODUCER, context.span_id),
        ("step fetch", SpanKind.INTERNAL, span_id(first)),
        ("settle mail", SpanKind.CLIENT, span_id(first)),
        ("process mail", SpanKind.CONSUMER, context.span_id),
        ("publish headway.jobs", SpanKind.PRODUCER, context.span_id),
        ("step fetch", SpanKind.INTERNAL, span_id(second)),
        ("settle mail", SpanKind.CLIENT, span_id(second)),
        ("process mail", SpanKind.CONSUMER, context.span_id),
    ]
    publishes = [span for span in spans if span.name == "publish headway.jobs"]
    for publish_span, process in zip(publishes, (first, second), strict=True):
        assert [f"{link.context.span_id:016x}" for link in process.links] == [span_id(publish_span)]


def test_attributes_follow_the_conventions(recorder: Recorder) -> None:
    run = Run(CALLER)
    recorder.telemetry.publish_span(stored(CALLER, job_id=run.job_id, dispatch_no=7)).end()
    recorder.telemetry.publish_span(stored(CALLER, dead=True, queue="mail")).end("lost")
    with recorder.telemetry.process_span(run, link=None) as span:
        span.outcome("timed_out", failed=True, message="took longer than 5 s")
    with request_span(recorder.telemetry, GET, metadata(CALLER)) as request:
        request.status("NOT_FOUND")
    assert attributes(recorder.named("publish headway.jobs")) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "headway.jobs",
        "messaging.rabbitmq.destination.routing_key": "default",
        "headway.job.id": str(run.job_id),
        "headway.job.type": "noop",
        "headway.job.dispatch_no": 7,
    }
    lost = recorder.named("publish headway.dead")
    assert attributes(lost)["error.type"] == "lost"
    assert lost.status.status_code is StatusCode.ERROR
    process = recorder.named("process mail")
    assert attributes(process) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "headway.v1.mail",
        "headway.job.id": str(run.job_id),
        "headway.job.type": "report.pdf",
        "headway.job.attempt": 2,
        "headway.job.epoch": 5,
        "headway.job.outcome": "timed_out",
        "error.type": "timed_out",
    }
    assert process.status.status_code is StatusCode.ERROR
    assert process.status.description == "took longer than 5 s"
    assert attributes(recorder.named(GET)) == {
        "rpc.system.name": "grpc",
        "rpc.method": GET,
        "rpc.response.status_code": "NOT_FOUND",
    }


@pytest.mark.parametrize(
    ("code", "is_error"),
    [("OK", False), ("NOT_FOUND", False), ("CANCELLED", False), ("UNAVAILABLE", True)],
)
def test_only_the_servers_own_failures_are_errors(
    recorder: Recorder, code: str, *, is_error: bool
) -> None:
    with request_span(recorder.telemetry, SUBMIT, None) as span:
        span.status(code)
    assert (recorder.named(SUBMIT).status.status_code is StatusCode.ERROR) is is_error


@pytest.mark.parametrize(
    ("error", "code"),
    [(LookupError("payload-canary"), "INTERNAL"), (asyncio.CancelledError(), "CANCELLED")],
)
def test_an_exception_ends_the_request_span_and_its_text_is_kept_out(
    recorder: Recorder, error: BaseException, code: str
) -> None:
    with pytest.raises(type(error)), request_span(recorder.telemetry, SUBMIT, None):
        raise error
    span = recorder.named(SUBMIT)
    assert attributes(span)["rpc.response.status_code"] == code
    assert "canary" not in span.to_json()


def test_an_exception_in_a_run_is_told_by_its_type_alone(recorder: Recorder) -> None:
    with pytest.raises(LookupError):
        with recorder.telemetry.process_span(Run(CALLER), link=None):
            raise LookupError("payload-canary")
    span = recorder.named("process mail")
    assert attributes(span)["error.type"] == "LookupError"
    assert "canary" not in span.to_json()


def test_a_callers_trace_is_continued(recorder: Recorder) -> None:
    with request_span(recorder.telemetry, SUBMIT, metadata(CALLER)) as span:
        pass
    assert span.context.trace_id == CALLER.trace_id
    assert span.context.tracestate == "vendor=1"
    assert span.context.sampled
    assert parent_id(recorder.named(SUBMIT)) == CALLER.span_id


def test_a_caller_who_does_not_sample_is_obeyed_by_all(recorder: Recorder) -> None:
    telemetry = recorder.telemetry
    with request_span(telemetry, SUBMIT, metadata(UNSAMPLED)) as request:
        pass
    assert request.context == UNSAMPLED
    publish = telemetry.publish_span(stored(request.context))
    assert publish.context == UNSAMPLED
    publish.end()
    with telemetry.process_span(Run(request.context), link=publish.context) as span:
        with telemetry.step_span("a", uuid4()), telemetry.settle_span(uuid4(), "mail"):
            pass
        assert span.context == UNSAMPLED
        assert f"{get_current_span().get_span_context().trace_id:032x}" == UNSAMPLED.trace_id
    assert not recorder.spans


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ],
)
def test_what_is_no_trace_context_begins_a_new_trace(
    recorder: Recorder, value: str | bytes
) -> None:
    with request_span(recorder.telemetry, SUBMIT, [("traceparent", value)]) as span:
        pass
    assert span.context.trace_id != CALLER.trace_id
    assert trace_context.read(*span.context) == span.context


def test_a_later_version_of_the_header_is_understood() -> None:
    later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-more"
    read = trace_context.read(later)
    assert read is not None
    assert read.sampled
    assert read.span_id == CALLER.span_id


def test_a_child_of_a_later_version_has_only_what_we_know(recorder: Recorder) -> None:
    """Of version 00 and with its flags: a new one may mean something else by the others (W3C)."""
    later = TraceContext("cc" + CALLER.traceparent[2:53] + "ff", CALLER.tracestate)
    with request_span(recorder.telemetry, SUBMIT, metadata(later)) as span:
        pass
    context = span.context
    assert (context.trace_id, context.tracestate) == (CALLER.trace_id, CALLER.tracestate)
    assert context.span_id != CALLER.span_id
    assert (context.traceparent[:3], context.traceparent[52:]) == ("00-", "-03")


def test_a_malformed_tracestate_goes_no_further(recorder: Recorder) -> None:
    """Else every reader of the job's row would complain of it anew."""
    broken = TraceContext(CALLER.traceparent, "vendor=1,garbage")
    with request_span(recorder.telemetry, SUBMIT, metadata(broken)) as span:
        pass
    assert "garbage" not in span.context.tracestate


def test_a_request_is_exported_as_the_sdk_would(recorder: Recorder) -> None:
    """Though it is not the SDK that made its span."""
    given = {
        "rpc.system.name": "grpc",
        "rpc.method": SUBMIT,
        "rpc.response.status_code": "INTERNAL",
    }
    tracer = recorder.provider.get_tracer("headway")
    expected = tracer.start_span(
        SUBMIT, context=CALLER.attachable(), kind=SpanKind.SERVER, attributes=given
    )
    expected.set_attribute("error.type", "INTERNAL")
    expected.set_status(StatusCode.ERROR, "INTERNAL")
    expected.end()
    span = recorder.telemetry.server_span(SUBMIT, metadata(CALLER))
    span.status("INTERNAL")
    span.end()
    span.end()  # counts once
    ours, sdks = (exported(span) for span in reversed(recorder.spans))
    assert ours == sdks


def exported(span: ReadableSpan) -> dict[str, Any]:
    """What goes to a file, but for the span's own ID and its times."""
    (resource,) = encode_spans([span]).to_dict()["resourceSpans"]
    (encoded,) = resource["scopeSpans"][0]["spans"]
    for name in ("spanId", "startTimeUnixNano", "endTimeUnixNano"):
        assert encoded.pop(name)
    return resource


def test_a_request_is_timed_while_it_runs(recorder: Recorder) -> None:
    """Though its span is made at its end."""
    begun = time.time_ns()
    with request_span(recorder.telemetry, SUBMIT, None):
        time.sleep(0.002)
    ended = time.time_ns()
    span = recorder.named(SUBMIT)
    assert span.start_time is not None
    assert span.end_time is not None
    assert begun <= span.start_time <= span.end_time - 2_000_000 <= ended - 2_000_000


def test_reading_a_job_costs_no_trace(recorder: Recorder) -> None:
    with request_span(recorder.telemetry, GET, None) as span:
        pass
    assert not span.context.sampled
    assert not recorder.spans


def test_every_job_has_a_trace_id_sampled_or_not() -> None:
    for telemetry in (Telemetry.off(), Recorder(0).telemetry):
        seen = set()
        for _ in range(100):
            with request_span(telemetry, SUBMIT, None) as span:
                seen.add(span.context.trace_id)
            assert trace_context.read(*span.context) == span.context
            assert not span.context.sampled
        assert len(seen) == 100


def test_the_decision_travels_even_from_a_process_that_exports_nothing() -> None:
    """A server without a collector still decides for workers that have one."""
    with request_span(Telemetry(None, traces_per_second=100), SUBMIT, None) as span:
        pass
    assert span.context.sampled


def test_each_job_of_a_batch_has_a_trace_of_its_own(recorder: Recorder) -> None:
    job_ids = [uuid4() for _ in range(3)]
    with request_span(recorder.telemetry, BATCH, None) as request:
        contexts = request.contexts(3)
        request.jobs([(job_id, True) for job_id in job_ids])
    assert len({context.trace_id for context in contexts} | {request.context.trace_id}) == 4
    created = [span for span in recorder.spans if span.name == "create headway.jobs"]
    assert [span_id(span) for span in created] == [context.span_id for context in contexts]
    assert [attributes(span)["headway.job.id"] for span in created] == list(map(str, job_ids))
    for span in created:
        assert span.kind is SpanKind.PRODUCER
        assert span.parent is None
        assert [f"{link.context.span_id:016x}" for link in span.links] == [request.context.span_id]


def test_a_batchs_trace_tells_of_no_job_that_it_did_not_make(recorder: Recorder) -> None:
    """One that its key has found has a trace of its own, which began elsewhere."""
    made, found = uuid4(), uuid4()
    with request_span(recorder.telemetry, BATCH, None) as request:
        request.contexts(2)
        request.jobs([(found, False), (made, True)])
    created = recorder.named("create headway.jobs")
    assert attributes(created)["headway.job.id"] == str(made)


def test_a_batch_of_one_is_about_its_job(recorder: Recorder) -> None:
    job_id = uuid4()
    with request_span(recorder.telemetry, BATCH, None) as request:
        contexts = request.contexts(1)
        request.jobs([(job_id, True)])
    assert contexts == [request.context]
    (span,) = recorder.spans
    assert attributes(span)["headway.job.id"] == str(job_id)


def test_the_jobs_of_a_batch_stay_within_the_budget() -> None:
    recorder = Recorder(traces_per_second=10)
    with request_span(recorder.telemetry, BATCH, None) as request:
        contexts = request.contexts(1000)
    sampled = sum(context.sampled for context in contexts)
    assert 9 <= sampled <= 30
    assert len(recorder.spans) == sampled + 1


def test_the_jobs_of_a_tracing_callers_batch_are_in_the_callers_trace(recorder: Recorder) -> None:
    with request_span(recorder.telemetry, BATCH, metadata(CALLER)) as request:
        contexts = request.contexts(3)
        request.jobs([(uuid4(), True)] * 3)
    assert contexts == [request.context] * 3


def test_a_link_is_left_out_where_it_would_say_nothing(recorder: Recorder) -> None:
    with recorder.telemetry.process_span(Run(CALLER), link=CALLER):
        pass
    with recorder.telemetry.process_span(Run(CALLER), link=None):
        pass
    assert [span.links for span in recorder.spans] == [(), ()]


async def test_spans_of_user_code_nest_in_tasks_and_in_threads(recorder: Recorder) -> None:
    tracer = recorder.provider.get_tracer("users.own")

    def in_thread() -> None:
        with tracer.start_as_current_span("in thread"):
            pass

    job_id = uuid4()
    with recorder.telemetry.process_span(Run(CALLER), link=None):
        with recorder.telemetry.step_span("fetch", job_id):
            await asyncio.to_thread(in_thread)
    assert parent_id(recorder.named("in thread")) == span_id(recorder.named("step fetch"))
    assert not get_current_span().get_span_context().is_valid


def test_a_child_process_continues_the_run(recorder: Recorder) -> None:
    with recorder.telemetry.process_span(Run(CALLER), link=None) as span:
        handed_over = span.context
    with recorder.telemetry.attached(TraceContext(*handed_over)):
        with recorder.telemetry.step_span("in child", uuid4()):
            pass
    assert parent_id(recorder.named("step in child")) == span_id(recorder.named("process mail"))


def test_a_row_without_a_sound_context_is_run_all_the_same(recorder: Recorder) -> None:
    with recorder.telemetry.process_span(Run(TraceContext("nonsense")), link=None) as span:
        assert not span.context.sampled
    assert not recorder.spans


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_budget_is_so_many_new_traces_a_second() -> None:
    clock = Clock()
    budget = TraceBudget(100, clock=clock, chance=lambda: 1.0)
    assert sum(budget.take() for _ in range(1000)) == 100
    clock.now = 0.5
    assert sum(budget.take() for _ in range(1000)) == 50
    clock.now = 60
    assert sum(budget.take() for _ in range(1000)) == 100


def test_beyond_the_budget_a_small_share_is_taken() -> None:
    chances = iter([OVERFLOW_RATIO / 2, OVERFLOW_RATIO * 2])
    budget = TraceBudget(1, clock=Clock(), chance=lambda: next(chances))
    assert [budget.take() for _ in range(3)] == [True, True, False]


def test_a_budget_of_less_than_one_a_second_is_kept_over_time() -> None:
    clock = Clock()
    budget = TraceBudget(0.1, clock=clock, chance=lambda: 1.0)
    taken = 0
    for second in range(100):
        clock.now = float(second)
        taken += sum(budget.take() for _ in range(5))
    assert taken == 10


def test_a_budget_of_nothing_takes_nothing() -> None:
    budget = TraceBudget(0, chance=lambda: 0.0)
    assert not any(budget.take() for _ in range(100))


class DeafCollector(BaseHTTPRequestHandler):
    """Takes the request and never answers."""

    release = threading.Event()
    asked = threading.Event()

    def do_POST(self) -> None:
        self.asked.set()
        self.release.wait(30)


@pytest.fixture
def deaf_collector() -> Iterator[str]:
    DeafCollector.release.clear()
    DeafCollector.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), DeafCollector)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    DeafCollector.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_shutdown_does_not_wait_for_a_deaf_collector(
    deaf_collector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", deaf_collector)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "30")
    telemetry = Telemetry.start("headway-test", load(CoreSettings, URLS))
    with request_span(telemetry, SUBMIT, None):
        pass
    begun = time.monotonic()
    telemetry.shutdown()
    assert DeafCollector.asked.is_set()
    assert time.monotonic() - begun < 15


def test_a_collector_takes_precedence_over_files(
    deaf_collector: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", deaf_collector)
    monkeypatch.setattr("headway_core.trace_files.FLUSH_SECONDS_MAX", 0.1)
    settings = load(CoreSettings, URLS | {"HEADWAY_TRACE_DIR": str(tmp_path / "traces")})
    telemetry = Telemetry.start("headway-test", settings)
    with request_span(telemetry, SUBMIT, None):
        pass
    telemetry.shutdown()
    assert not (tmp_path / "traces").exists()


@pytest.mark.parametrize("environ", [{}, {"OTEL_SDK_DISABLED": "true"}])
def test_spans_that_go_nowhere_are_not_made(environ: dict[str, str], tmp_path: Path) -> None:
    directory = {"HEADWAY_TRACE_DIR": str(tmp_path / "traces")} if environ else {}
    telemetry = Telemetry.start("headway-test", load(CoreSettings, URLS | directory), environ)
    assert telemetry.provider is None
    telemetry.shutdown()
    assert not (tmp_path / "traces").exists()
