"""What `headway demo` prints: fit for a terminal of 80 columns and for a log file."""

import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from headway import DeadLetter, Event, EventType, JobState
from headway_dev.demo_checks import Finding
from headway_dev.demo_jobs import Shown, bytes_in_words

LOG_COLUMNS = 100
ROW = "{type:<16}  {state:<9}  {attempts:>8}  {waited:>7}  {ran:>7}"
# An ID in front of such a row, and as much of it as fits where that is too wide.
WHOLE_ID = 36
SHORT_ID = 13
WHOLE_ID_COLUMNS = 94
FILES_SHOWN_MAX = 3


class PipedConsole(Console):
    """A console that lets BrokenPipeError through; rich would end the process in our stead."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 - rich calls this while it handles the error


def new_console() -> Console:
    """The console on stdout: as wide as the terminal, or LOG_COLUMNS in a file."""
    return PipedConsole(highlight=False, width=None if sys.stdout.isatty() else LOG_COLUMNS)


class Report:
    """Writes to one console, top to bottom."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._chapters = 0

    def line(self, text: str = "", *, style: str = "") -> None:
        """A line of prose, wrapped where the terminal ends."""
        self.console.print(Text(text, style=style))

    def literal(self, text: str, *, style: str = "") -> None:
        """A line to copy from, never broken: a path, an ID, a command."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def chapter(self, title: str) -> None:
        """Begin the next part."""
        self._chapters += 1
        self.line()
        self.console.rule(f"[bold]{self._chapters}  {title}", align="left", style="dim")

    def history(self, shown: Shown) -> None:
        """Every event of a job, timed from its submit."""
        self.literal(f"  {shown.job.id}  {shown.job.type}")
        begin = shown.events[0].event_time if shown.events else None
        rows = []
        for event in shown.events:
            time = event.event_time - begin if event.event_time and begin else timedelta()
            rows.append((f"+{time.total_seconds():.2f} s", event.type, _words(event)))
        self._grid(rows)

    def dead_letter(self, letter: DeadLetter, *, queue: str, messages: int | None) -> None:
        """A dead letter as its row tells it, and how many messages the broker's queue holds."""
        job = letter.job
        facts = {
            "job": f"{job.id}  {job.type}",
            "state": f"{job.state} in attempt {job.attempt} of {job.max_attempts}",
            "error": str(job.error or letter.reason),
            "fingerprint": letter.fingerprint,
            "broker": "" if messages is None else f"{queue} holds {messages} message(s)",
        }
        self._grid([(name, value) for name, value in facts.items() if value])

    def table(self, jobs: Sequence[Shown]) -> None:
        """One job a row, its result in short below it."""
        whole = self.console.width >= WHOLE_ID_COLUMNS
        cells = WHOLE_ID if whole else SHORT_ID
        heading = ROW.format(
            type="type", state="state", attempts="attempts", waited="waited", ran="ran"
        )
        self.literal(f"{'job':<{cells}}  {heading}", style="bold")
        for shown in jobs:
            job = shown.job
            row = ROW.format(
                type=job.type,
                state=job.state,
                attempts=shown.attempts,
                waited=_seconds(shown.wait_seconds),
                ran=_seconds(shown.run_seconds),
            )
            name = job.id if whole else f"…{job.id[1 - SHORT_ID :]}"
            good = job.state is JobState.COMPLETED
            self.literal(f"{name}  {row}", style="" if good else "red")
            words = shown.planned.words(shown.result) if good else str(job.error or "")
            self.literal(f"{'':<{cells}}  {words}", style="green" if good else "red")

    def _grid(self, rows: Iterable[tuple[str, ...]]) -> None:
        """Columns without lines; only the last one is wrapped."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        for row in rows:
            if not grid.columns:
                for _ in row[:-1]:
                    grid.add_column(no_wrap=True)
                grid.add_column(overflow="fold")
            grid.add_row(*map(Text, row))
        self.console.print(Padding(grid, (0, 0, 0, 2)))

    def files(self, jobs: Sequence[Shown]) -> None:
        """Where the files lie, a few of each job."""
        for shown in jobs:
            for path in shown.files[:FILES_SHOWN_MAX]:
                size = bytes_in_words(path.stat().st_size) if path.is_file() else "missing"
                self.literal(f"  {size:>7}  {as_typed(path)}")
            rest = len(shown.files) - FILES_SHOWN_MAX
            if rest > 0:
                self.literal(f"  {'':>7}  … and {rest} more beside it", style="dim")

    def findings(self, findings: Sequence[Finding]) -> None:
        """What was checked; the problems themselves come at the very end."""
        for finding in findings:
            mark = ("  ✗ ", "bold red") if finding.problems else ("  ✓ ", "green")
            self.console.print(Text.assemble(mark, finding.claim))


def as_typed(path: Path) -> str:
    """A path as one would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _words(event: Event) -> str:
    match event.type:
        case EventType.STARTED:
            return f"attempt {event.attempt} of {event.job.max_attempts}"
        case EventType.RETRY_SCHEDULED:
            return str(event.job.error or event.message)
    return event.message


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
