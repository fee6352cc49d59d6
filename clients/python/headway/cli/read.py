"""`get`, `list`, `dead list`."""

from contextlib import closing
from typing import Annotated

from cyclopts import Parameter

from headway import SyncClient
from headway.cli import documents, tables
from headway.cli.options import DEFAULTS, Common, labels, states
from headway.cli.output import (
    write_all,
    write_fields,
    write_json,
    write_result,
    write_table,
)
from headway.jobs import DeadLetterFilter, Job
from headway.updates import Event

LIMIT = 100


def get(
    job_id: Annotated[str, Parameter(name="ID")],
    /,
    *,
    full: bool = False,
    events: bool = False,
    common: Common = DEFAULTS,
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
            write_fields(tables.job_fields(found))
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
    common: Common = DEFAULTS,
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
            write_table(tables.JOB_COLUMNS, map(tables.job_row, found))
        else:
            write_all(map(documents.job, found), common.output)


def dead_list(
    *,
    type: str | None = None,  # noqa: A002 - the option's name
    queue: str | None = None,
    fingerprint: str | None = None,
    group: bool = False,
    limit: int = LIMIT,
    common: Common = DEFAULTS,
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
                write_table(tables.GROUP_COLUMNS, map(tables.group_row, groups))
            else:
                write_all(map(documents.dead_letter_group, groups), common.output)
            return
        letters = client.dead_letters(chosen, limit=limit or None)
        if common.output == "table":
            write_table(tables.LETTER_COLUMNS, map(tables.letter_row, letters))
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
    write_table(tables.EVENT_COLUMNS, map(tables.event_row, events))
