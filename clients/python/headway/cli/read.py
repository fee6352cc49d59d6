"""`get`, `list`, `dead list`."""

from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from headway import SyncClient
from headway.cli import documents
from headway.cli.options import Common, labels, states
from headway.cli.output import (
    ago,
    span,
    write_all,
    write_fields,
    write_json,
    write_result,
    write_table,
)
from headway.jobs import DeadLetter, DeadLetterFilter, DeadLetterGroup, Job
from headway.updates import Event

LIMIT = 100


def get(
    job_id: Annotated[str, Parameter(name="ID")],
    /,
    *,
    full: bool = False,
    events: bool = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Show a job.

    Parameters
    ----------
    job_id
        The job.
    full
        With payload and result.
    events
        Its history instead.
    """
    with SyncClient(common.target) as client:
        found = client.get(job_id, full=full)
        if events:
            _write_events(_history(client, found), common)
        elif common.output == "table":
            write_fields(_fields(found))
            for name, value in (("payload", found.payload), ("result", found.result)):
                if value is not None:
                    print(f"\n{name}")
                    write_result(value, "table")
        else:
            write_json(documents.job(found), common.output)


def list_jobs(
    *,
    state: tuple[str, ...] = (),
    type: str | None = None,  # noqa: A002 - the option's name
    queue: str | None = None,
    label: tuple[str, ...] = (),
    limit: int = LIMIT,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List jobs, newest first.

    Parameters
    ----------
    state
        Only in this state: pending, queued, running, completed, failed, dead or cancelled; may be
        given several times.
    type
        Only of this type.
    queue
        Only in this queue.
    label
        Only with this label, key=value; may be given several times.
    limit
        At most so many; 0 lists all.
    """
    with SyncClient(common.target) as client:
        found = client.list(
            states=states(state),
            type=type,
            queue=queue,
            labels=labels(label),
            limit=limit or None,
        )
        if common.output == "table":
            write_table(_JOB_COLUMNS, map(_job_row, found))
        else:
            write_all(map(documents.job, found), common.output)


def dead_list(
    *,
    type: str | None = None,  # noqa: A002 - the option's name
    queue: str | None = None,
    fingerprint: str | None = None,
    group: bool = False,
    limit: int = LIMIT,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List dead letters, latest death first, or groups of alike deaths.

    Parameters
    ----------
    type
        Only of this type.
    queue
        Only of this queue.
    fingerprint
        Only deaths with this fingerprint.
    group
        Group alike deaths and count them.
    limit
        At most so many; 0 lists all.
    """
    chosen = DeadLetterFilter(type=type, queue=queue, fingerprint=fingerprint)
    with SyncClient(common.target) as client:
        if group:
            groups = client.dead_letter_groups(chosen, limit=limit or 1000)
            if common.output == "table":
                write_table(_GROUP_COLUMNS, map(_group_row, groups))
            else:
                write_all(map(documents.dead_letter_group, groups), common.output)
            return
        letters = client.dead_letters(chosen, limit=limit or None)
        if common.output == "table":
            write_table(_LETTER_COLUMNS, map(_letter_row, letters))
        else:
            write_all(map(documents.dead_letter, letters), common.output)


def _history(client: SyncClient, found: Job) -> list[Event]:
    """The events up to the one that `found` shows; the job may go on."""
    with closing(client.watch(found.id, after_sequence=0)) as updates:
        events: list[Event] = []
        for update in updates:
            if isinstance(update, Event):
                events.append(update)
            if events and events[-1].sequence >= found.sequence:
                break
        return events


def _write_events(events: list[Event], common: Common) -> None:
    if common.output != "table":
        write_all((documents.update(event.job.id, event) or {} for event in events), common.output)
        return
    rows = (
        (
            str(event.sequence),
            documents.time(event.event_time) or "",
            event.type,
            str(event.attempt),
            str(event.job.error) if event.job.error and not event.message else event.message,
        )
        for event in events
    )
    write_table(("#", "TIME", "EVENT", "ATTEMPT", "MESSAGE"), rows)


_JOB_COLUMNS = ("ID", "TYPE", "QUEUE", "PRI", "STATE", "ATTEMPT", "PROGRESS", "AGE")


def _job_row(job: Job) -> tuple[str, ...]:
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


_LETTER_COLUMNS = ("ID", "TYPE", "QUEUE", "DIED", "ATTEMPTS", "FINGERPRINT", "ERROR")


def _letter_row(letter: DeadLetter) -> tuple[str, ...]:
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


_GROUP_COLUMNS = ("COUNT", "TYPE", "QUEUE", "FIRST", "LAST", "FINGERPRINT", "LATEST ERROR")


def _group_row(group: DeadLetterGroup) -> tuple[str, ...]:
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


def _fields(job: Job) -> dict[str, str]:
    """A job for people; what is not set is left out."""
    fraction = job.progress.fraction if job.progress else None
    running = job.start_time and job.end_time and span(job.end_time - job.start_time)
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
        "took": running or "",
        "due": documents.time(job.next_attempt_time) or "",
        "events": str(job.sequence),
        "trace": job.trace_id,
    }
    return {name: value for name, value in fields.items() if value}
