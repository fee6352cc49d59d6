"""One trace follows a job through its runs."""

import asyncio
from collections.abc import Iterator, MutableMapping
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from headway_core import logs
from headway_core.states import JobState
from headway_core.telemetry import Telemetry
from headway_worker import Context, Jobs
from tests.worker.stage import TRACEPARENT, Stage, eventually

Payload = dict[str, Any]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def telemetry(exporter: InMemorySpanExporter) -> Iterator[Telemetry]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Telemetry(provider)
    provider.shutdown()


def named(spans: tuple[ReadableSpan, ...], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


async def test_each_run_is_a_span_with_its_steps_and_its_settlement_inside(
    stage: Stage, telemetry: Telemetry, exporter: InMemorySpanExporter
) -> None:
    jobs = Jobs()

    @jobs.handler("work", initial_backoff=timedelta(milliseconds=20))
    async def work(ctx: Context, payload: Payload) -> None:
        await ctx.step("fetch", lambda: 1)
        with trace.get_tracer("user", tracer_provider=telemetry.provider).start_span("own"):
            pass
        if ctx.attempt == 1:
            raise ValueError("a secret payload")

    async with stage.engine(jobs, telemetry=telemetry):
        await stage.wait(await stage.submit("work"), JobState.COMPLETED)
        await eventually(lambda: len(named(exporter.get_finished_spans(), "process default")) == 2)
    spans = exporter.get_finished_spans()
    runs = named(spans, "process default")
    for run in runs:
        assert run.parent is not None
        assert format(run.parent.span_id, "016x") == TRACEPARENT[36:52]
        assert run.context is not None
        assert format(run.context.trace_id, "032x") == TRACEPARENT[3:35]
        inside = {
            span.name
            for span in spans
            if span.parent and span.parent.span_id == run.context.span_id
        }
        assert inside >= {"settle default", "own"}
    assert len(named(spans, "step fetch")) == 1, "a step that is recalled has no span"
    outcomes = [run.attributes and run.attributes["headway.job.outcome"] for run in runs]
    assert sorted(map(str, outcomes)) == ["failed", "succeeded"]
    assert "a secret payload" not in "".join(span.to_json() for span in spans)


async def test_a_users_stack_goes_to_the_log_with_the_jobs_facts_and_its_text_to_the_job(
    stage: Stage,
) -> None:
    jobs = Jobs()

    @jobs.handler("work", max_attempts=1)
    def work(ctx: Context, payload: Payload) -> None:
        ctx.logger.info("halfway", part=1)
        raise ValueError("because of that")

    with capture_logs() as lines:
        async with stage.engine(jobs):
            job_id = await stage.submit("work", {"token": "s3cret"})
            job = await stage.wait(job_id)
    assert job.error is not None
    assert (job.error.type, job.error.message) == ("ValueError", "because of that")
    (raised,) = [line for line in lines if line["event"] == "handler_raised"]
    assert isinstance(raised["exc_info"], ValueError)
    assert raised["exc_info"].__traceback__ is not None
    assert any(line["event"] == "halfway" for line in lines)
    assert "s3cret" not in str(lines)


async def test_the_lines_of_a_run_carry_its_job(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, MutableMapping[str, Any]] = {}
    jobs = Jobs()

    @jobs.handler("thread")
    def in_thread(ctx: Context, payload: Payload) -> None:
        seen["thread"] = logs.add_job(None, "info", {})

    @jobs.handler("loop")
    async def on_loop(ctx: Context, payload: Payload) -> None:
        seen["loop"] = logs.add_job(None, "info", {})
        await ctx.step("part", lambda: seen.update(step=logs.add_job(None, "info", {})))

    async with stage.engine(jobs):
        ids = {name: await stage.submit(name) for name in ("thread", "loop")}
        for job_id in ids.values():
            await stage.wait(job_id, JobState.COMPLETED)
    for name, facts in seen.items():
        kind = "loop" if name == "step" else name
        assert facts == {
            "job_id": str(ids[kind]),
            "type": kind,
            "attempt": 1,
            "trace_id": TRACEPARENT[3:35],
        }
    await asyncio.sleep(0)
