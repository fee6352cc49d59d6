"""Trace files are bounded, and `headway trace` draws what all processes wrote into them."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headway_core.errors import SettingsInvalid
from headway_core.settings import CoreSettings, load
from headway_core.telemetry import Telemetry
from headway_core.trace_files import RotatingFile, trace_file
from headway_core.trace_reading import find_trace_ids, read_trace
from headway_core.trace_view import WIDTH_MAX, WIDTH_MIN, draw, main
from tests.unit.test_telemetry import SUBMIT, URLS, Run, stored

JOB = "0199f0a1-7c1e-7000-8000-000000000001"
OTHER = "0199f0a1-7c1e-7000-8000-000000000002"
TRACE = "0af7651916cd43dd8448eb211c80319c"
BEGIN = int(datetime(2026, 11, 22, 5, 0, tzinfo=UTC).timestamp() * 1e9)
MILLISECOND = 1_000_000

GOLDEN = f"""\
trace {TRACE} · 6 spans · 1.52 s · 2026-11-22 05:00:00Z
headway.v1.JobService/SubmitJob                      server 10                   +0 µs     2.5 ms
├─ publish headway.jobs                              server 10                 +3.0 ms     1.0 ms
│       type report.pdf, dispatch 1
└─ process default                                   worker 20                +10.0 ms     1.51 s  ✗
   │    attempt 1, epoch 1, outcome failed
   │    error: ValueError: no such country
   │    linked to publish headway.jobs 00000000000000a2
   ├─ step fetch                                     worker 20                +20.0 ms     200 µs
   │  └─ GET /countries/a/path/that/goes/on/and/on/… worker 20                +20.0 ms     100 µs
   └─ settle default                                 worker 20                 +1.51 s    10.0 ms
"""


def test_a_file_begins_anew_and_keeps_its_predecessor(tmp_path: Path) -> None:
    path = tmp_path / "a.otlp.jsonl"
    file = RotatingFile(path, bytes_max=100)
    assert not path.exists()
    for number in range(10):
        file.write(f"{number}" * 29 + "\n")
    file.close()
    file.close()
    assert path.read_text() == "9" * 29 + "\n"
    kept = path.with_name("a.otlp.jsonl.1").read_text()
    assert kept == "".join(f"{number}" * 29 + "\n" for number in (6, 7, 8))
    assert {found.name for found in path.parent.iterdir()} == {"a.otlp.jsonl", "a.otlp.jsonl.1"}


def test_a_file_that_is_there_is_continued_within_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "a.otlp.jsonl"
    path.write_text("x" * 90 + "\n")
    file = RotatingFile(path, bytes_max=100)
    file.write("y" * 20 + "\n")
    file.close()
    assert sum(found.stat().st_size for found in tmp_path.iterdir()) == 112
    assert path.stat().st_size <= 100


def test_only_the_owner_can_read_traces(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "a.otlp.jsonl")
    file.write("x\n")
    file.close()
    assert (tmp_path / "a.otlp.jsonl").stat().st_mode & 0o077 == 0


def test_a_service_name_cannot_lead_elsewhere(tmp_path: Path) -> None:
    path = trace_file(tmp_path, "../../etc/x y")
    assert path.parent == tmp_path
    assert str(os.getpid()) in path.name


def test_what_is_exported_is_read_back(tmp_path: Path) -> None:
    settings = load(CoreSettings, URLS | {"HEADWAY_TRACE_DIR": str(tmp_path / "traces")})
    telemetry = Telemetry.start("headway-test", settings, {})
    request, job_id = telemetry.server_span(SUBMIT, None), uuid4()
    request.job(job_id)
    request.end()
    publish = telemetry.publish_span(stored(request.context, job_id=job_id))
    publish.end()
    with telemetry.process_span(Run(request.context, job_id), link=publish.context) as run:
        run.outcome("failed", failed=True, message="no")
    telemetry.shutdown()
    assert find_trace_ids(tmp_path / "traces", str(job_id)) == [request.context.trace_id]
    submit, published, process = read_trace(tmp_path / "traces", request.context.trace_id)
    assert (submit.name, submit.kind, submit.parent_id) == (SUBMIT, "SERVER", "")
    assert (submit.service, submit.process_id) == ("headway-test", str(os.getpid()))
    assert (published.kind, published.parent_id) == ("PRODUCER", submit.span_id)
    assert process.links == (published.span_id,)
    assert process.error == "no"
    assert process.attributes["headway.job.attempt"] == "2"
    assert process.start >= published.start > 0


def test_a_directory_that_cannot_be_is_a_setting_that_cannot_be(tmp_path: Path) -> None:
    """Told at start: later it would be an error twice a second."""
    in_the_way = tmp_path / "file"
    in_the_way.write_text("x")
    settings = load(CoreSettings, URLS | {"HEADWAY_TRACE_DIR": str(in_the_way / "traces")})
    with pytest.raises(SettingsInvalid, match="HEADWAY_TRACE_DIR cannot be made"):
        Telemetry.start("headway-test", settings, {})


def span(
    number: int,
    parent: int | None,
    name: str,
    *,
    begin_ms: float,
    lasts_ms: float,
    trace: str = TRACE,
    **more: Any,
) -> dict[str, Any]:
    begin = BEGIN + int(begin_ms * MILLISECOND)
    given = more.pop("attributes", {})
    return {
        "traceId": trace,
        "spanId": f"{number:016x}",
        **({"parentSpanId": f"{parent:016x}"} if parent else {}),
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(begin),
        "endTimeUnixNano": str(begin + int(lasts_ms * MILLISECOND)),
        "attributes": [
            {
                "key": key,
                "value": {"stringValue": value}
                if isinstance(value, str)
                else {"intValue": str(value)},
            }
            for key, value in given.items()
        ],
        "status": {},
        **more,
    }


def write(path: Path, service: str, process_id: int, *spans: dict[str, Any]) -> None:
    resource = [
        {"key": "service.name", "value": {"stringValue": service}},
        {"key": "process.pid", "value": {"intValue": str(process_id)}},
    ]
    line = {
        "resourceSpans": [
            {"resource": {"attributes": resource}, "scopeSpans": [{"spans": list(spans)}]}
        ]
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """What a server and a worker wrote about a job that failed, and about others."""
    about = {"headway.job.id": JOB}
    server, worker = tmp_path / "s-10.otlp.jsonl", tmp_path / "w-20.otlp.jsonl"
    write(
        server,
        "headway-server",
        10,
        span(
            0xA1,
            None,
            SUBMIT,
            begin_ms=0,
            lasts_ms=2.5,
            attributes=about | {"rpc.response.status_code": "OK"},
        ),
    )
    write(
        server.with_name("s-10.otlp.jsonl.1"),
        "headway-server",
        10,
        span(
            0xA2,
            0xA1,
            "publish headway.jobs",
            begin_ms=3,
            lasts_ms=1,
            attributes=about | {"headway.job.type": "report.pdf", "headway.job.dispatch_no": 1},
        ),
        span(
            0xF1,
            None,
            SUBMIT,
            begin_ms=0,
            lasts_ms=1,
            trace="f" * 32,
            attributes={"headway.job.id": OTHER},
        ),
    )
    write(
        worker,
        "headway-worker",
        20,
        span(0xA5, 0xA3, "settle default", begin_ms=1506, lasts_ms=10, attributes=about),
        span(0xA4, 0xA3, "step fetch", begin_ms=20, lasts_ms=0.2, attributes=about),
        span(
            0xA6,
            0xA4,
            "GET /countries/a/path/that/goes/on/and/on/for/ever",
            begin_ms=20,
            lasts_ms=0.1,
        ),
        span(
            0xA3,
            0xA1,
            "process default",
            begin_ms=10,
            lasts_ms=1505.5,
            attributes=about
            | {"headway.job.attempt": 1, "headway.job.epoch": 1, "headway.job.outcome": "failed"},
            status={"code": 2, "message": "ValueError:\n  no such country"},
            links=[{"traceId": TRACE, "spanId": f"{0xA2:016x}"}],
        ),
    )
    with worker.open("a") as file:
        file.write('{"resourceSpans": [{"resource": {"attributes": [' + TRACE)  # killed here
    return tmp_path


@pytest.mark.parametrize("identity", [JOB, JOB.upper(), TRACE])
def test_a_trace_is_drawn(traces: Path, capsys: pytest.CaptureFixture[str], identity: str) -> None:
    assert main([identity, "--dir", str(traces)]) == 0
    drawn = capsys.readouterr().out
    assert drawn == GOLDEN
    assert max(map(len, drawn.splitlines())) <= WIDTH_MAX


def test_a_trace_is_printed_as_json(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([JOB, "--dir", str(traces), "--json"]) == 0
    spans = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["name"] for one in spans[:2]] == [SUBMIT, "publish headway.jobs"]
    assert spans[2]["links"] == [f"{0xA2:016x}"]
    assert len(spans) == 6


def test_the_directory_is_taken_from_the_environment(
    traces: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWAY_TRACE_DIR", str(traces))
    assert main([JOB]) == 0
    assert capsys.readouterr().out == GOLDEN


def test_other_jobs_of_the_same_trace_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A caller who traces may submit a thousand jobs in one trace."""
    file = tmp_path / "s.otlp.jsonl"
    write(file, "s", 1, span(1, 0xFF, "batch", begin_ms=0, lasts_ms=9))
    for number, job in enumerate((JOB, OTHER), 2):
        about = {"headway.job.id": job}
        write(
            file,
            "w",
            2,
            span(
                number * 16, 1, f"process {job[-1]}", begin_ms=number, lasts_ms=1, attributes=about
            ),
        )
        write(
            file,
            "w",
            2,
            span(number * 16 + 1, number * 16, f"users {job[-1]}", begin_ms=number, lasts_ms=0.5),
        )
    assert main([JOB, "--dir", str(tmp_path)]) == 0
    drawn = capsys.readouterr().out
    assert "process 1" in drawn
    assert "users 1" in drawn
    assert "process 2" not in drawn
    assert "users 2" not in drawn
    assert main([TRACE, "--dir", str(tmp_path)]) == 0
    assert "users 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([OTHER[:-1] + "9"], 4, "no spans of"),
        (["nonsense"], 2, "neither a job's ID nor a trace ID"),
        ([JOB, "--dir", "/no/such/directory"], 4, "there is no directory"),
        ([], 2, "usage:"),
    ],
)
def test_what_cannot_be_drawn_is_said_on_stderr(
    traces: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    where = [] if "--dir" in arguments else ["--dir", str(traces)]
    assert main([*where, *arguments]) == code
    captured = capsys.readouterr()
    assert says in captured.err
    assert not captured.out


def test_no_directory_at_all_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEADWAY_TRACE_DIR", raising=False)
    assert main([JOB]) == 2
    assert "--dir" in capsys.readouterr().err


def test_a_narrow_terminal_gets_a_narrow_drawing(traces: Path) -> None:
    for width in range(WIDTH_MIN, WIDTH_MAX + 1):
        drawn = list(draw(read_trace(traces, TRACE), width=width))
        assert max(map(len, drawn)) <= width
        assert len(drawn) == len(GOLDEN.splitlines())


def test_a_very_deep_trace_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spans = [span(n, n - 1 or None, "x", begin_ms=n, lasts_ms=1) for n in range(1, 3000)]
    write(tmp_path / "a.otlp.jsonl", "s", 1, *spans)
    assert main([TRACE, "--dir", str(tmp_path)]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= WIDTH_MAX
