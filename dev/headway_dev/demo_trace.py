"""The trace of one job, as `headway demo` shows it and checks it."""

import os
from collections.abc import Iterator
from pathlib import Path

from headway import Job
from headway_core import trace_view
from headway_core.trace_destination import COLLECTOR_VARIABLES
from headway_core.trace_reading import ReadSpan, read_trace
from headway_dev.demo_report import Report, as_typed

SERVICES = {"headway-server", "headway-worker"}


def show_trace(directory: Path, job: Job, report: Report, *, runs: int) -> list[str]:
    """Draw it, and say what is missing in it. `runs` is how often the job started."""
    report.chapter(f"The trace of {job.type}: one job, {runs} attempts, all processes")
    collector = next((name for name in COLLECTOR_VARIABLES if os.environ.get(name)), None)
    if collector:
        report.literal(f"  {job.trace_id}, at the collector that {collector} names")
        return []
    report.console.file.flush()
    trace_view.main([job.id, "--dir", str(directory)])
    report.literal(f"again: headway trace {job.id} --dir {as_typed(directory)}", style="dim")
    return list(_problems(read_trace(directory, job.trace_id), runs=runs))


def _problems(spans: list[ReadSpan], *, runs: int) -> Iterator[str]:
    known = {span.span_id for span in spans}
    roots = [span for span in spans if span.parent_id not in known]
    processed = sum(span.name.startswith("process ") for span in spans)
    if len(roots) != 1:
        yield f"the trace should have one root and has {len(roots)}"
    if processed != runs:
        yield f"the trace should have {runs} process spans and has {processed}"
    if missing := SERVICES - {span.service for span in spans}:
        yield f"the trace has no span of {', '.join(sorted(missing))}"
