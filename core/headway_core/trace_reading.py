"""Read spans back from the local trace files of all processes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from headway_core.spans import JOB_ID
from headway_core.trace_files import FILE_SUFFIX

SPANS_MAX: Final = 10_000
"""Of one trace; what is beyond is not shown."""

STATUS_ERROR: Final = 2
KINDS: Final = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}


@dataclass(frozen=True, slots=True)
class ReadSpan:
    """A span as its process wrote it. Times are nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    service: str
    process_id: str
    start: int
    end: int
    error: str | None
    """The status text of a failed one."""
    attributes: Mapping[str, str]
    links: tuple[str, ...]
    """The IDs of the spans it links to."""

    @property
    def job_id(self) -> str | None:
        """The job it is about."""
        return self.attributes.get(JOB_ID)


def find_trace_ids(directory: Path, job_id: str) -> list[str]:
    """Find the traces that name a job, the earliest first.

    Its own is one; a traced call about it, a CancelJob say, stands in its caller's.
    """
    spans = [span for span in _containing(directory, job_id) if span.job_id == job_id]
    return list(dict.fromkeys(span.trace_id for span in sorted(spans, key=_begin)))


def read_trace(directory: Path, trace_id: str) -> list[ReadSpan]:
    """Read the spans of a trace in the order they began, SPANS_MAX at most."""
    found: dict[str, ReadSpan] = {}
    for span in _containing(directory, trace_id):
        if span.trace_id == trace_id:
            found[span.span_id] = span
        if len(found) >= SPANS_MAX:
            break
    return sorted(found.values(), key=_begin)


def _begin(span: ReadSpan) -> tuple[int, int]:
    # Of those that began together, the longest holds the others.
    return span.start, -span.end


def _containing(directory: Path, text: str) -> Iterator[ReadSpan]:
    """Yield the spans of every line that holds the text; most lines need not be parsed."""
    needle = text.encode()
    for path in sorted(directory.glob(f"*{FILE_SUFFIX}*")):
        with path.open("rb") as lines:
            for line in lines:
                if needle in line:
                    yield from _spans(line)


def _spans(line: bytes) -> Iterator[ReadSpan]:
    try:
        exported = orjson.loads(line)
    except orjson.JSONDecodeError:
        # The last line of a process that was killed while writing.
        return
    for resource_spans in exported.get("resourceSpans", ()):
        resource = _attributes(resource_spans.get("resource", {}))
        for scope_spans in resource_spans.get("scopeSpans", ()):
            for span in scope_spans.get("spans", ()):
                yield _span(span, resource)


def _span(span: dict[str, Any], resource: Mapping[str, str]) -> ReadSpan:
    status = span.get("status", {})
    return ReadSpan(
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        name=span.get("name", ""),
        kind=KINDS.get(span.get("kind", 0), ""),
        service=resource.get("service.name", "?"),
        process_id=resource.get("process.pid", "?"),
        start=int(span.get("startTimeUnixNano", 0)),
        end=int(span.get("endTimeUnixNano", 0)),
        error=status.get("message", "") if status.get("code") == STATUS_ERROR else None,
        attributes=_attributes(span),
        links=tuple(link["spanId"] for link in span.get("links", ())),
    )


def _attributes(holder: dict[str, Any]) -> dict[str, str]:
    """Read attributes as text: {"key": k, "value": {"stringValue": v}} and its kin."""
    return {
        attribute["key"]: str(next(iter(attribute.get("value", {}).values()), ""))
        for attribute in holder.get("attributes", ())
    }
