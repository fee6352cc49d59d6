"""Live bars for many jobs: `await watch_jobs(client, ids)` draws them until all are done.

On a terminal every job has a line with its bar, drawn some times a second; more jobs than lines
are counted below. Elsewhere there is one plain line for each change.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.text import Text

from headway import Client
from headway.cli.board import Board, Row
from headway.cli.following import Ending, follow
from headway.cli.output import clean, span
from headway.cli.screen import Screen
from headway.cli.views import Lines, View, doing, outcome
from headway.errors import HeadwayError, Unavailable
from headway.jobs import Job, JobState
from headway.updates import Update

REFRESH_SECONDS = 0.125
BAR_CELLS = range(8, 25)
WORDS_CELLS = 34
"""Kept free beside the bar for percent and words, as long as the bar is not at its shortest."""
TYPE_CELLS_MAX = 24
SHORT_ID = 8
"""Last characters of an ID: the first ones of a UUIDv7 are the time, alike for many jobs."""

_STYLES = {
    JobState.RUNNING: "cyan",
    JobState.COMPLETED: "green",
    JobState.FAILED: "yellow",
    JobState.DEAD: "red",
    JobState.CANCELLED: "magenta",
}
_MARKS = {
    JobState.COMPLETED: ("✓", "+"),
    JobState.FAILED: ("↻", "~"),
    JobState.DEAD: ("✗", "x"),
    JobState.CANCELLED: ("⊘", "o"),
}
_WAITING = ("·", ".")
_SPINNER = ("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\")
_BAR = (("━", "╸"), ("=", ">"))


async def watch_jobs(
    client: Client, job_ids: Iterable[str], *, console: Console | None = None
) -> tuple[Ending, ...]:
    """Show jobs on the console (stdout unless given) until each is done or cannot be watched.

    An Ending for each job, in order; an error of one of them is in its Ending, and not raised.
    """
    names = tuple(dict.fromkeys(job_ids))
    console = console or Console(highlight=False)
    if not is_live(console):
        return await follow(
            client, names, Lines(lambda line: print(line, file=console.file, flush=True))
        )
    with Screen(console) as screen:
        return await follow(client, names, LiveBars(names, screen))


def is_live(console: Console) -> bool:
    """Whether bars can be drawn over themselves there."""
    return console.is_terminal and not console.is_dumb_terminal and not console.legacy_windows


class LiveBars(View):
    """A line with a bar for each job, and one that counts them all."""

    def __init__(
        self,
        job_ids: Iterable[str],
        screen: Screen,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.board = Board(job_ids)
        self._screen = screen
        self._clock = clock
        self._begun = clock()
        self._bar_cells = BAR_CELLS[-1]
        self._plain = not screen.console.encoding.lower().startswith("utf")

    def update(self, job_id: str, update: Update) -> None:
        self.board.update(job_id, update, now=self._clock())

    def lost(self, job_id: str, error: Unavailable) -> None:  # noqa: ARG002 - all are alike
        self.board.lose(job_id)

    def fail(self, job_id: str, error: HeadwayError) -> None:
        self.board.fail(job_id, error)

    async def show(self) -> None:
        """Draw until cancelled, and a last time then: that drawing stays."""
        try:
            while True:
                self.draw()
                await asyncio.sleep(REFRESH_SECONDS)
        finally:
            self.draw()

    def draw(self) -> None:
        """Draw what is known now."""
        rows, hidden = self.board.visible(self._screen.room - 1)
        names = (row.job.type for row in rows if row.job)
        width = min(max(map(len, names), default=0), TYPE_CELLS_MAX)
        cells = self._screen.console.width - width - SHORT_ID - 5 - WORDS_CELLS
        self._bar_cells = min(max(cells, BAR_CELLS[0]), BAR_CELLS[-1])
        lines = [self._line(row, width) for row in rows]
        self._screen.draw([*lines, self._total(hidden)])

    def _line(self, row: Row, type_width: int) -> Text:
        job = row.job
        style = _STYLES.get(job.state, "dim") if job else "dim"
        line = Text(no_wrap=True)
        line.append(self._mark(row), style)
        line.append(f" {clean(job.type if job else '')[:type_width]:<{type_width}}", "bold")
        line.append(f" {row.job_id[-SHORT_ID:]:<{SHORT_ID}} ", "dim")
        if row.error is not None:
            return line.append(clean(str(row.error)), "red")
        if job is None:
            return line.append("connecting", "dim")
        self._append_bar(line, row, style)
        return line.append(f" {self._words(row, job)}")

    def _mark(self, row: Row) -> str:
        if row.error is not None:
            return _MARKS[JobState.DEAD][self._plain]
        if row.job is not None and row.job.state is JobState.RUNNING:
            frames = _SPINNER[self._plain]
            return frames[int(self._clock() / REFRESH_SECONDS) % len(frames)]
        return _MARKS.get(row.job.state if row.job else JobState.UNKNOWN, _WAITING)[self._plain]

    def _append_bar(self, line: Text, row: Row, style: str) -> None:
        full, tip = _BAR[self._plain]
        fraction = row.progress.fraction if row.progress else None
        if row.job is not None and row.job.state is JobState.COMPLETED:
            fraction = 1.0
        halves = round(min(max(fraction or 0.0, 0.0), 1.0) * self._bar_cells * 2)
        filled = full * (halves // 2) + tip * (halves % 2)
        line.append(filled, style)
        line.append(
            (" " if self._plain else full) * (self._bar_cells - len(filled)), "bright_black"
        )
        line.append("     " if fraction is None else f" {fraction:4.0%}")

    def _words(self, row: Row, job: Job) -> str:
        match job.state:
            case JobState.RUNNING:
                parts = [doing(row.progress) if row.progress else row.message, self._remaining(row)]
                parts += [f"attempt {job.attempt}/{job.max_attempts}"] if job.attempt > 1 else []
            case JobState.FAILED:
                failed = f"attempt {job.attempt}/{job.max_attempts} failed"
                parts = [failed, _due(job), outcome(job)]
            case JobState.PENDING | JobState.QUEUED:
                parts = [job.state.lower(), _due(job)]
            case _:
                parts = [job.state.lower(), outcome(job)]
        return clean(" · ".join(filter(None, parts)))

    def _remaining(self, row: Row) -> str:
        """The server's estimate, counted down since it came."""
        estimate = row.progress.estimated_remaining if row.progress else None
        if estimate is None:
            return ""
        passed = timedelta(seconds=self._clock() - row.progress_at)
        return f"{span(max(estimate - passed, timedelta(0)))} left"

    def _total(self, hidden: int) -> Text:
        counts = self.board.counts()
        parts = [f"{count} {state}" for state, count in counts.items() if state != "?"]
        if hidden:
            parts.insert(0, f"+{hidden} more")
        parts.append(span(timedelta(seconds=self._clock() - self._begun)))
        total = Text("  " + " · ".join(parts), "dim", no_wrap=True)
        if self.board.lost:
            total.append("  no connection, trying again", "yellow")
        return total


def _due(job: Job) -> str:
    """`in 3s`, if it is due later."""
    due = job.next_attempt_time
    wait = due - datetime.now(UTC) if due else timedelta(0)
    return f"in {span(wait)}" if wait > timedelta(0) else ""
