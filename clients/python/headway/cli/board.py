"""What is known of the jobs on show, and which of them fit on the screen. Draws nothing."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from headway.errors import HeadwayError
from headway.jobs import Job, JobState, Progress
from headway.updates import Bookmark, Event, EventType, Snapshot, Update


@dataclass(slots=True)
class Row:
    """One job."""

    job_id: str
    job: Job | None = None
    progress: Progress | None = None
    progress_at: float = 0.0
    """By the board's clock: what the server's estimate is counted down from."""
    message: str = ""
    """Of the last event."""
    error: HeadwayError | None = None
    """Why it cannot be watched."""
    lost: bool = False
    """Its stream broke and is being resumed."""

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.error is not None or (self.job is not None and self.job.done)

    @property
    def rank(self) -> int:
        """Lower is shown first when there is not room for all."""
        if self.job is None:
            return 3 if self.error is None else 0
        return _RANKS.get(self.job.state, 3)


_RANKS = {
    JobState.RUNNING: 1,
    JobState.FAILED: 2,
    JobState.QUEUED: 3,
    JobState.PENDING: 3,
    JobState.DEAD: 4,
    JobState.CANCELLED: 5,
    JobState.COMPLETED: 6,
}


class Board:
    """Rows in the order in which the jobs were named."""

    def __init__(self, job_ids: Iterable[str] = ()) -> None:
        self.rows = {job_id: Row(job_id) for job_id in job_ids}

    def add(self, job_id: str) -> Row:
        """The row of a job, which is new if it was not on the board."""
        return self.rows.setdefault(job_id, Row(job_id))

    def update(self, job_id: str, update: Update, *, now: float) -> None:
        """Take in what a watch yields."""
        row = self.add(job_id)
        row.lost = False
        match update:
            case Snapshot(job=job):
                row.job = job
                row.progress, row.progress_at = job.progress, now
            case Event(type=kind, job=job, message=message):
                row.job, row.message = job, message
                # A run begins from nothing; the stored progress may still be the last run's.
                row.progress = None if kind is EventType.STARTED else job.progress or row.progress
                row.progress_at = now
            case Progress():
                row.progress, row.progress_at = update, now
            case Bookmark():
                pass

    def lose(self, job_id: str) -> None:
        """A stream broke."""
        self.add(job_id).lost = True

    def fail(self, job_id: str, error: HeadwayError) -> None:
        """A job cannot be watched."""
        self.add(job_id).error = error

    def visible(self, room: int) -> tuple[list[Row], int]:
        """The rows to show in `room` lines, and how many are left out.

        The most active are chosen, and shown in their own order, so that lines do not jump about.
        """
        rows = list(self.rows.values())
        if len(rows) <= room:
            return rows, 0
        chosen = {id(row) for row in sorted(rows, key=lambda row: row.rank)[: max(room, 0)]}
        shown = [row for row in rows if id(row) in chosen]
        return shown, len(rows) - len(shown)

    def counts(self) -> Counter[str]:
        """How many rows are in each state; `?` for those of which nothing is known yet."""
        return Counter(
            "not watched" if row.error else str(row.job.state).lower() if row.job else "?"
            for row in self.rows.values()
        )

    @property
    def lost(self) -> bool:
        """Whether any stream is being resumed."""
        return any(row.lost and not row.over for row in self.rows.values())
