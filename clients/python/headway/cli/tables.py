"""Jobs, dead letters and events as rows of a table."""

from datetime import UTC, datetime

from headway.cli import documents
from headway.cli.output import ago, took
from headway.jobs import DeadLetter, DeadLetterGroup, Job
from headway.updates import Event

JOB_COLUMNS = ("ID", "TYPE", "QUEUE", "PRI", "STATE", "ATTEMPT", "PROGRESS", "AGE")


def job_row(job: Job) -> tuple[str, ...]:
    """For `list`."""
    fraction = job.progress.fraction if job.progress else None
    return (
        job.id,
        job.type,
        job.queue,
        str(job.priority),
        job.state,
        f"{job.attempt}/{job.max_attempts}",
        "" if fraction is None else f"{fraction:.0%}",
        ago(job.create_time, datetime.now(UTC)),
    )


LETTER_COLUMNS = ("ID", "TYPE", "QUEUE", "DIED", "ATTEMPTS", "FINGERPRINT", "ERROR")


def letter_row(letter: DeadLetter) -> tuple[str, ...]:
    """For `dead list`."""
    job = letter.job
    return (
        job.id,
        job.type,
        job.queue,
        ago(letter.dead_time, datetime.now(UTC)),
        str(job.attempt),
        letter.fingerprint,
        str(job.error or letter.reason),
    )


GROUP_COLUMNS = ("COUNT", "TYPE", "QUEUE", "FIRST", "LAST", "FINGERPRINT", "LATEST ERROR")


def group_row(group: DeadLetterGroup) -> tuple[str, ...]:
    """For `dead list --group`."""
    now = datetime.now(UTC)
    return (
        str(group.count),
        group.type,
        group.queue,
        ago(group.first_dead_time, now),
        ago(group.last_dead_time, now),
        group.fingerprint,
        str(group.error or ""),
    )


EVENT_COLUMNS = ("#", "TIME", "EVENT", "ATTEMPT", "MESSAGE")


def event_row(event: Event) -> tuple[str, ...]:
    """For `get --events`."""
    error = event.job.error
    return (
        str(event.sequence),
        documents.time(event.event_time) or "",
        event.type,
        str(event.attempt),
        str(error) if error and not event.message else event.message,
    )


def job_fields(job: Job) -> dict[str, str]:
    """A job for people; what is not set is left out."""
    fraction = job.progress.fraction if job.progress else None
    run = took(job.end_time - job.start_time) if job.start_time and job.end_time else ""
    fields = {
        "id": job.id,
        "type": job.type,
        "queue": f"{job.queue} (priority {job.priority})",
        "state": job.state,
        "attempt": f"{job.attempt} of {job.max_attempts}",
        "progress": "" if fraction is None else f"{fraction:.0%}",
        "step": job.progress.step if job.progress else "",
        "message": job.progress.message if job.progress else "",
        "error": str(job.error or ""),
        "labels": " ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
        "created": documents.time(job.create_time) or "",
        "started": documents.time(job.start_time) or "",
        "ended": documents.time(job.end_time) or "",
        "took": run,
        "due": documents.time(job.next_attempt_time) or "",
        "events": str(job.sequence),
        "trace": job.trace_id,
    }
    return {name: value for name, value in fields.items() if value}
