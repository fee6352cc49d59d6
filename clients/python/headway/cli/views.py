"""Who is told what happens to the jobs that are followed."""

import time
from collections.abc import Callable
from datetime import datetime

from headway.cli import documents
from headway.cli.output import clean, say, span, took, write_json
from headway.errors import HeadwayError, Unavailable
from headway.jobs import Job, Progress
from headway.updates import Event, EventType, Snapshot, Update

PROGRESS_LINE_SECONDS = 10.0
"""A line of progress at most so often, unless the step changes."""


class View:
    """Says nothing, but for one word on stderr when the server is away."""

    def __init__(self) -> None:
        self._away = False

    async def show(self) -> None:
        """Runs beside the watches, and is cancelled when they have ended."""

    def update(self, job_id: str, update: Update) -> None:  # noqa: ARG002 - for others to use
        """Something happened."""
        self._away = False

    def lost(self, job_id: str, error: Unavailable) -> None:  # noqa: ARG002 - likewise
        """A stream broke and will be resumed; of many that break together the first is told."""
        if not self._away:
            self._away = True
            say(f"headway: no connection, trying again ({short(error)})")

    def fail(self, job_id: str, error: HeadwayError) -> None:
        """A job cannot be watched any more."""


class JsonLines(View):
    """One JSON object for each update."""

    def update(self, job_id: str, update: Update) -> None:
        super().update(job_id, update)
        document = documents.update(job_id, update)
        if document is not None:
            write_json(document, "jsonl")


class Lines(View):
    """One plain line for each change, to read and to grep."""

    def __init__(
        self,
        write: Callable[[str], None] = lambda line: print(line, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._write = write
        self._clock = clock
        self._told: dict[str, tuple[float, str]] = {}
        """By job, when its last line of progress was written, and its step."""

    def update(self, job_id: str, update: Update) -> None:
        super().update(job_id, update)
        match update:
            case Snapshot(job=job):
                self._line(job_id, job.type, job.state, outcome(job))
            case Event(job=job):
                moment = update.event_time and update.event_time.astimezone()
                words = event_words(update)
                self._line(job_id, job.type, update.type, words, moment=moment)
                if update.type is EventType.STARTED:
                    self._told.pop(job_id, None)
            case Progress():
                last, step = self._told.get(job_id, (-PROGRESS_LINE_SECONDS, ""))
                now = self._clock()
                if now - last >= PROGRESS_LINE_SECONDS or step != update.step:
                    self._told[job_id] = (now, update.step)
                    self._line(job_id, "", "PROGRESS", progress_words(update))

    def _line(
        self, job_id: str, type_: str, what: str, words: str, *, moment: datetime | None = None
    ) -> None:
        at = (moment or datetime.now().astimezone()).strftime("%H:%M:%S")
        self._write(clean(f"{at} {job_id} {type_} {what} {words}"))


def event_words(event: Event) -> str:
    """What people want to know of an event."""
    job = event.job
    match event.type:
        case EventType.STARTED:
            return f"attempt {event.attempt} of {job.max_attempts}"
        case EventType.RETRY_SCHEDULED:
            words = str(job.error or event.message)
            if job.next_attempt_time and event.event_time:
                words += f", again in {span(job.next_attempt_time - event.event_time)}"
            return words
        case EventType.COMPLETED | EventType.CANCELLED:
            return ": ".join(filter(None, (event.message, outcome(job))))
        case EventType.DEAD:
            return event.message or outcome(job)  # the message ends with the error
    return event.message


def outcome(job: Job) -> str:
    """How a job ended, or the little there is to say before."""
    if job.error is not None:
        return str(job.error)
    if job.done and job.start_time and job.end_time:
        return f"took {took(job.end_time - job.start_time)}"
    return progress_words(job.progress) if job.progress and not job.done else ""


def progress_words(progress: Progress) -> str:
    """`42% render: page 5 (12s left)`."""
    fraction = "" if progress.fraction is None else f"{progress.fraction:.0%}"
    remaining = progress.estimated_remaining
    left = "" if remaining is None else f"({span(remaining)} left)"
    return " ".join(filter(None, (fraction, doing(progress), left)))


def doing(progress: Progress) -> str:
    """Step and message: `render: page 5`."""
    return ": ".join(filter(None, (progress.step, progress.message)))


def short(error: HeadwayError) -> str:
    """The last, telling part of what a transport says."""
    return clean(str(error).rpartition("last error: ")[2].removeprefix("UNKNOWN: "))
