"""`headway trace ID`: draw what happened to one job, from the trace files of all processes."""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import orjson

from headway_core import spans as names
from headway_core.trace_reading import ReadSpan, find_trace_ids, read_trace

WIDTH_MAX: Final = 100
WIDTH_MIN: Final = 72
"""Columns of a drawing: as many as the terminal has, within these; WIDTH_MAX when piped."""
TIMES_WIDTH: Final = 25
"""Begin, duration and a mark."""

EXIT_FOUND: Final = 0
EXIT_USAGE: Final = 2
EXIT_NOT_FOUND: Final = 4

SHOWN: Final = {
    names.JOB_TYPE: "type",
    names.JOB_DISPATCH: "dispatch",
    names.JOB_ATTEMPT: "attempt",
    names.JOB_EPOCH: "epoch",
    names.JOB_OUTCOME: "outcome",
    names.RPC_STATUS: "code",
}
"""The attributes that are drawn, and as what."""


def main(arguments: Sequence[str]) -> int:
    """Run the command. Prints on stdout what was found, on stderr why nothing was."""
    parser = argparse.ArgumentParser(
        prog="headway trace", description="Draw what happened to one job, across all processes."
    )
    parser.add_argument("id", help="a job's ID, or a trace ID of 32 hex digits")
    parser.add_argument(
        "--dir",
        type=Path,
        default=os.environ.get("HEADWAY_TRACE_DIR") or None,
        help="where the trace files are (HEADWAY_TRACE_DIR)",
    )
    parser.add_argument("--json", action="store_true", help="one span a line, as JSON")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as exit_:
        return EXIT_FOUND if exit_.code == 0 else EXIT_USAGE
    try:
        job_id, trace_id = _identify(options.id)
    except ValueError:
        return _complain(f"{options.id} is neither a job's ID nor a trace ID", EXIT_USAGE)
    if options.dir is None:
        return _complain("say where the trace files are: --dir, or HEADWAY_TRACE_DIR", EXIT_USAGE)
    if not options.dir.is_dir():
        return _complain(f"there is no directory {options.dir}", EXIT_NOT_FOUND)
    return _show(options.dir, job_id, trace_id, as_json=options.json)


@dataclass(frozen=True, slots=True)
class Line:
    """A span in its place in the tree."""

    span: ReadSpan
    branch: str
    """What stands before its name: `│  ├─ `."""
    below: str
    """What stands before the lines of its own below it."""


def tree(spans: Sequence[ReadSpan]) -> Iterator[Line]:
    """Put spans below their parents, in the order they began.

    A span whose parent is not among them stands at the top: the caller's, or not yet written.
    """
    known = {span.span_id for span in spans}
    children: dict[str, list[ReadSpan]] = {}
    for span in spans:
        parent = span.parent_id if span.parent_id in known else ""
        children.setdefault(parent, []).append(span)
    # On a stack of its own: a trace may be deeper than Python's.
    todo = [Line(span, "", _rail("", span, children)) for span in reversed(children.get("", []))]
    while todo:
        line = todo.pop()
        yield line
        below = children.get(line.span.span_id, [])
        for span in reversed(below):
            last = span is below[-1]
            stem = line.branch.replace("├─ ", "│  ").replace("└─ ", "   ")
            branch = stem + ("└─ " if last else "├─ ")
            rail = stem + ("   " if last else "│  ")
            todo.append(Line(span, branch, _rail(rail, span, children)))


def of_job(spans: Sequence[ReadSpan], job_id: str) -> list[ReadSpan]:
    """Leave out what belongs to other jobs of the same trace, with all that is below it."""
    others = {span.span_id for span in spans if span.job_id not in {None, job_id}}
    kept = []
    for span in spans:  # parents come first: they began earlier
        if span.span_id in others or span.parent_id in others:
            others.add(span.span_id)
        else:
            kept.append(span)
    return kept


def draw(spans: Sequence[ReadSpan], *, width: int = WIDTH_MAX) -> Iterator[str]:
    """Draw a trace in so many columns: name, process, begin, duration; details below."""
    process_width = width * 22 // 100
    name_width = width - TIMES_WIDTH - 1 - process_width
    begin = min(span.start for span in spans)
    end = max(span.end for span in spans)
    when = datetime.fromtimestamp(begin / 1e9, UTC)
    title = f"trace {spans[0].trace_id} · {len(spans)} spans · {_duration(end - begin)}"
    yield _cut(f"{title} · {when:%Y-%m-%d %H:%M:%S}Z", width)
    span_names = {span.span_id: span.name for span in spans}
    for line in tree(spans):
        span = line.span
        name = _cut(f"{line.branch}{span.name}", name_width)
        process = _cut(f"{span.service.removeprefix('headway-')} {span.process_id}", process_width)
        mark = "  ✗" if span.error is not None else ""
        yield (
            f"{name:<{name_width}} {process:<{process_width}}"
            f"{'+' + _duration(span.start - begin):>11}{_duration(span.end - span.start):>11}{mark}"
        )
        for detail in _details(span, span_names):
            yield _cut(f"{line.below}{detail}", width)


def _show(directory: Path, job_id: str | None, trace_id: str | None, *, as_json: bool) -> int:
    traces = [trace_id] if trace_id else find_trace_ids(directory, job_id or "")
    shown = 0
    for trace in traces:
        spans = read_trace(directory, trace)
        if job_id:
            spans = of_job(spans, job_id)
        if not spans:
            continue
        if as_json:
            for span in spans:
                print(orjson.dumps(asdict(span)).decode())
        else:
            print(*([""] if shown else []), *draw(spans, width=_width()), sep="\n")
        shown += 1
    if shown:
        return EXIT_FOUND
    reason = "not sampled, not yet written (half a second), or traced elsewhere"
    return _complain(f"no spans of {job_id or trace_id} in {directory}: {reason}", EXIT_NOT_FOUND)


def _width() -> int:
    if not sys.stdout.isatty():
        return WIDTH_MAX
    return max(WIDTH_MIN, min(WIDTH_MAX, shutil.get_terminal_size().columns))


def _identify(text: str) -> tuple[str | None, str | None]:
    """Tell a job's ID from a trace's. Raises ValueError."""
    if re.fullmatch(r"[0-9a-fA-F]{32}", text):
        return None, text.lower()
    return str(UUID(text)), None


def _details(span: ReadSpan, span_names: dict[str, str]) -> Iterator[str]:
    facts = [
        f"{label} {span.attributes[name]}"
        for name, label in SHOWN.items()
        if name in span.attributes and (name, span.attributes[name]) != (names.RPC_STATUS, "OK")
    ]
    if facts:
        yield ", ".join(facts)
    if span.error is not None:
        yield "error: " + " ".join((span.error or "(no message)").split())
    for link in span.links:
        yield f"linked to {span_names.get(link, 'span')} {link}"


def _rail(rail: str, span: ReadSpan, children: dict[str, list[ReadSpan]]) -> str:
    return rail + ("│    " if span.span_id in children else "     ")


def _duration(nanoseconds: int) -> str:
    seconds = max(0, nanoseconds) / 1e9
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {seconds:02} s"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _complain(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
