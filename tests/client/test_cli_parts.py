"""The small parts of the command line, each by itself."""

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from headway import (
    Event,
    EventType,
    Job,
    JobError,
    JobNotFound,
    JobState,
    Progress,
    Snapshot,
)
from headway.cli.arguments import split, target
from headway.cli.bars import LiveBars
from headway.cli.board import Board
from headway.cli.exits import Exit, worst
from headway.cli.options import UsageError, duration, labels
from headway.cli.output import clean, span, took
from headway.cli.screen import Screen
from headway.cli.views import Lines


def job(number: int = 1, state: JobState = JobState.RUNNING, **fields: object) -> Job:
    return Job(
        id=f"01990000-0000-7000-8000-{number:012d}",
        type="report.pdf",
        queue="default",
        priority=4,
        state=state,
        done=state in {JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED},
        attempt=1,
        max_attempts=5,
        sequence=1,
        **fields,
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("10s", 10), ("5m", 300), ("1h30m", 5400), ("2D", 172800)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "s", "soon", "-5", "1m1h", "1.2.3", "9" * 40, "5 m x"])
def test_words_that_are_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="is no duration"):
        duration(text)


def test_labels() -> None:
    assert labels(["a=b", "c=", "d=e=f"]) == {"a": "b", "c": "", "d": "e=f"}
    for wrong in ("a", "=b"):
        with pytest.raises(UsageError):
            labels([wrong])


def test_spans_and_times_taken() -> None:
    seconds = (-1, 0, 59.9, 60, 3599, 3600, 47 * 3600, 48 * 3600)
    assert [span(timedelta(seconds=value)) for value in seconds] == [
        *("0s", "0s", "59s", "1m", "59m", "1h", "47h", "2d")
    ]
    assert took(timedelta(milliseconds=1250)) == "1.2s"
    assert took(timedelta(minutes=61)) == "1h"


def test_control_characters_do_not_pass() -> None:
    assert clean("a\x1b[31m\nb\x00\x9bc\u202ed") == "a [31m b c d"


def test_global_options_are_found_in_front_of_the_command() -> None:
    assert split(["--target", "a", "-o=json", "list", "-o", "x"]) == (
        ["--target", "a", "-o=json"],
        ["list", "-o", "x"],
    )
    assert target(["watch", "x", "--target=b"]) == "b"
    assert target(["--target"]) is None


def test_the_worst_of_several_ends() -> None:
    assert worst([]) is Exit.COMPLETED
    assert worst([Exit.CANCELLED, Exit.DIED, Exit.COMPLETED]) is Exit.DIED
    assert worst(Exit) is Exit.UNREACHABLE


def test_the_board_shows_the_active_in_their_own_order() -> None:
    states = [JobState.COMPLETED, JobState.PENDING, JobState.RUNNING, JobState.DEAD]
    board = Board(f"j{number}" for number in range(5))
    for number, state in enumerate(states):
        board.update(f"j{number}", Snapshot(sequence=1, job=job(number, state)), now=0)
    board.fail("j4", JobNotFound("gone"))
    rows, hidden = board.visible(3)
    assert [row.job_id for row in rows] == ["j1", "j2", "j4"]
    assert hidden == 2
    assert board.visible(0) == ([], 5)
    assert len(board.visible(5)[0]) == 5


def test_a_new_attempt_begins_without_the_progress_of_the_last() -> None:
    old = Progress(fraction=0.9)
    board = Board()
    board.update("j", Snapshot(sequence=3, job=job(progress=old)), now=0)
    started = Event(
        sequence=4,
        event_time=None,
        type=EventType.STARTED,
        attempt=2,
        message="",
        job=job(progress=old),
    )
    board.update("j", started, now=0)
    assert board.rows["j"].progress is None


def bars(**console: object) -> tuple[LiveBars, Console]:
    made = Console(force_terminal=True, color_system=None, record=False, **console)
    return LiveBars((), Screen(made), clock=lambda: 100.0), made


def test_bars_are_plain_where_the_encoding_is(capsys: pytest.CaptureFixture[str]) -> None:
    class Ascii(Console):
        encoding = "ascii"

    console = Ascii(force_terminal=True, color_system=None, width=70, height=5)
    shown = LiveBars((), Screen(console), clock=lambda: 100.0)
    shown.update("j", Snapshot(sequence=1, job=job(progress=Progress(fraction=0.5))))
    shown.update("k", Snapshot(sequence=1, job=job(2, JobState.COMPLETED)))
    shown.draw()
    assert capsys.readouterr().out.isascii()


def test_an_estimate_is_counted_down(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    console = Console(force_terminal=True, color_system=None, width=100, height=5)
    shown = LiveBars((), Screen(console), clock=lambda: now[0])
    estimate = Progress(fraction=0.5, estimated_remaining=timedelta(seconds=30))
    shown.update("j", Snapshot(sequence=1, job=job(progress=estimate)))
    for passed, left in ((0, "30s left"), (12, "18s left"), (99, "0s left")):
        now[0] = 100.0 + passed
        shown.draw()
        assert left in capsys.readouterr().out


def test_a_job_that_is_due_later_says_when(capsys: pytest.CaptureFixture[str]) -> None:
    shown, _ = bars(width=120, height=5)
    due = datetime.now(UTC) + timedelta(minutes=5, seconds=30)
    failed = job(
        state=JobState.FAILED,
        next_attempt_time=due,
        error=JobError(type="ValueError", message="no luck", retryable=True),
    )
    shown.update("j", Snapshot(sequence=1, job=failed))
    shown.draw()
    assert "attempt 1/5 failed · in 5m · ValueError: no luck" in capsys.readouterr().out


def test_lines_tell_progress_now_and_then() -> None:
    now = [0.0]
    written: list[str] = []
    lines = Lines(written.append, clock=lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        step = "fetch" if second < 5 else "render"
        lines.update("j", Progress(fraction=second / 25, step=step))
    assert [line.split(" ", 1)[1] for line in written] == [
        "j PROGRESS 0% fetch",
        "j PROGRESS 20% render",
        "j PROGRESS 60% render",
    ]
