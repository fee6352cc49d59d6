"""What the processes of a worker say to each other arrives as it was said."""

from datetime import UTC, datetime, timedelta

import pytest

from headway_core import ids
from headway_core.content import Content, ContentKind
from headway_core.errors import Defect
from headway_core.job import JobError, Progress, RetryPolicy
from headway_core.leases import HandlerType
from headway_core.outcomes import Failed, Snoozed, Succeeded
from headway_worker import child_messages, control
from headway_worker.executor_options import Options

JOB = ids.read_id("01935c7e-0000-7000-8000-000000000001")
CONTENT = Content(ContentKind.DATA, b"\x00\xff" * 1_000, "image/png")


@pytest.mark.parametrize(
    "message",
    [
        control.LeaseConfirmed(12.5),
        control.CancelRun(JOB),
        control.Drain(99.0),
        control.Hello(
            (
                HandlerType("a", "default", RetryPolicy(), None),
                HandlerType(
                    "b.c",
                    "slow",
                    RetryPolicy(5, timedelta(seconds=1.5), timedelta(minutes=1), 2.5),
                    timedelta(hours=1),
                ),
            )
        ),
        control.Broken("Traceback …\nImportError: nix\n"),
        control.Ready(),
        control.Trouble("headway.v1.default exists with other properties"),
        control.Pulse(1.0, 2.0),
        control.Pulse(1.0, 2.0, (JOB, 3)),
        control.Stuck("code went on", {JOB: 7}),
        control.Stuck("code went on", {}),
    ],
)
def test_the_control_pipe(message: control.ToExecutor | control.ToSupervisor) -> None:
    line = control.encode(message)
    assert line.count(b"\n") == 1
    assert control.decode(line) == message


@pytest.mark.parametrize("line", [b"", b"{}\n", b'{"kind":"Pulse"}\n', b"\xff\n", b"[]\n"])
def test_nonsense_on_the_control_pipe_is_a_defect(line: bytes) -> None:
    with pytest.raises(Defect):
        control.decode(line)


@pytest.mark.parametrize(
    "message",
    [
        child_messages.Start(
            target="m:jobs",
            type="t",
            job_id=JOB,
            attempt=2,
            labels={"a": "b"},
            traceparent="00-…",
            tracestate="",
            traced=True,
            memory_bytes_max=None,
            payload=CONTENT,
        ),
        child_messages.StopRun(),
        child_messages.StepAnswer(3, None),
        child_messages.StepAnswer(3, CONTENT),
        child_messages.StepRefused(4),
        child_messages.StepAsked(5, "fetch – ä"),
        child_messages.StepDone(6, "fetch", Content(ContentKind.JSON, b"null")),
        child_messages.Progressed(
            Progress(datetime(2026, 11, 22, tzinfo=UTC), 1, 2, 0.5, "s", "m", timedelta(seconds=3))
        ),
        child_messages.Ended(Succeeded(None)),
        child_messages.Ended(Succeeded(CONTENT)),
        child_messages.Ended(Failed(JobError("E", "text", retryable=False))),
        child_messages.Ended(Snoozed(timedelta(seconds=90))),
    ],
)
def test_the_pipe_of_a_child(message: child_messages.Message) -> None:
    frame = child_messages.encode(message)
    size = child_messages.LENGTHS.size
    header, body = child_messages.lengths(frame[:size])
    assert len(frame) == size + header + body
    assert child_messages.decode(frame[size : size + header], frame[size + header :]) == message


def test_nonsense_on_the_pipe_of_a_child_is_a_defect() -> None:
    with pytest.raises(Defect):
        child_messages.lengths(b"\xff" * 8)
    with pytest.raises(Defect):
        child_messages.decode(b'{"kind":"Nothing"}', b"")
    with pytest.raises(Defect):
        child_messages.decode(b"[", b"")


def test_the_command_line_of_an_executor() -> None:
    options = Options(
        target="m:jobs", worker_id=JOB, number=1, slots=5, queues=("a", "b"), pipe=7, parent=8
    )
    assert Options.parse(options.arguments()) == options
