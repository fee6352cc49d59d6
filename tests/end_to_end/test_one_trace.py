"""P13: one trace for each job, from the submit to its end, over processes and retries."""

from collections.abc import Iterator

import pytest

from headway import JobState
from tests.end_to_end.conftest import MakeStack
from tests.end_to_end.otlp import Collector, collecting
from tests.end_to_end.stack import Gate, Stack, eventually, journal, reaches

CONSUMER = 5


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def stack(new_stack: MakeStack, collector: Collector) -> Stack:
    return new_stack(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf"
    )


async def test_a_collector_receives_one_complete_trace_over_a_retry_on_another_worker(
    stack: Stack, collector: Collector, gate: Gate
) -> None:
    """The first attempt fails on one worker, the second ends on another: SubmitJob, two publishes,
    two process spans and their settles, one root, no parent unknown.
    """
    path = stack.path("journal")
    children = stack.start()
    async with stack.client() as client:
        job = await client.submit(
            "e2e.work", {"journal": str(path), "until": str(gate), "failures": 1}
        )
        await eventually(lambda: journal(path), what="the first attempt runs")
        second = stack.start_worker()
        second.await_ready()
        # The first worker drains: it ends this attempt, and takes no other.
        stop = children[1].record.find()
        assert stop is not None
        stop.terminate()
        gate.open()
        done = await reaches(client, job.id, JobState.COMPLETED)
        assert done.attempt == 2
    stack.stop()  # so that all has been exported

    spans = collector.trace(done.trace_id)
    known = {span.span_id for _, _, span in spans}
    roots = [span for _, _, span in spans if not span.parent_span_id]
    assert [root.name for root in roots] == ["headway.v1.JobService/SubmitJob"]
    assert all(span.parent_span_id in known for _, _, span in spans if span.parent_span_id)
    assert len(known) == len(spans)

    names = sorted(span.name for _, _, span in spans)
    assert names.count("publish headway.jobs") == 2
    assert names.count("process default") == 2
    assert names.count("settle default") == 2
    runs = [(process, span) for _, process, span in spans if span.kind == CONSUMER]
    assert len({process for process, _ in runs}) == 2
    assert {service for service, _, _ in spans} == {"headway-server", "headway-worker"}
    publishes = {span.span_id for _, _, span in spans if span.name == "publish headway.jobs"}
    assert {link.span_id for _, span in runs for link in span.links} == publishes
