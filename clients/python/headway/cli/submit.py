"""`submit`."""

import sys
from typing import Annotated

from cyclopts import Parameter

from headway import SyncClient
from headway.cli import documents
from headway.cli.follow import command, follow_jobs
from headway.cli.options import DEFAULTS, Common, UsageError, duration, json_object, labels, read
from headway.cli.output import say, write_json
from headway.jobs import Data, Job, PayloadIn, RetryPolicy

Source = Annotated[str | None, Parameter(allow_leading_hyphen=True)]  # `-` is stdin


def submit(
    type: str,  # noqa: A002 - the argument's name
    /,
    *,
    json: Source = None,
    data: Source = None,
    content_type: str = "",
    priority: int | None = None,
    queue: str | None = None,
    key: str | None = None,
    delay: str | None = None,
    label: tuple[str, ...] = (),
    max_attempts: int | None = None,
    timeout: str | None = None,
    watch: bool = False,
    common: Common = DEFAULTS,
) -> int:
    """Submit a job and print its ID, so that ID=$(headway submit …) works.

    Parameters
    ----------
    type
        What the job is; a worker has a handler registered for it.
    json
        Payload: a JSON object, @FILE, or - for stdin.
    data
        Payload: the raw bytes of this file, or - for stdin.
    content_type
        Media type of --data, for readers.
    priority
        0 to 9, higher first. [default: the handler's, then 4]
    queue
        Where it waits. [default: the handler's, then `default`]
    key
        Idempotency key: the same key and request give the same job.
    delay
        Not before, as 90, 10s, 5m, 1h30m, 2d.
    label
        key=value; may be given several times.
    max_attempts
        Attempts in all.
    timeout
        Longest run of one attempt, as 90, 10s, 5m.
    watch
        Stay and watch it; the exit code tells how it ended.
    """
    with SyncClient(common.target) as client:
        job = client.submit(
            type,
            _payload(json, data, content_type),
            queue=queue,
            priority=priority,
            idempotency_key=key,
            delay=None if delay is None else duration(delay),
            retry_policy=None if max_attempts is None else RetryPolicy(max_attempts=max_attempts),
            timeout=None if timeout is None else duration(timeout),
            labels=labels(label),
        )
    if watch:
        # The view of the jobs owns stdout; the ID is a message then.
        say(f"{_verb(job)} {job.id}")
        return follow_jobs((job.id,), common)
    if common.output == "table":
        print(job.id, flush=True)
    else:
        write_json(documents.job(job), common.output)
    if sys.stderr.isatty() or not job.created:
        say(f"{_verb(job)}; follow it with: {command('watch', (job.id,), common)}")
    return 0


def _payload(json: str | None, data: str | None, content_type: str) -> PayloadIn:
    if json is not None and data is not None:
        raise UsageError("give --json or --data, not both")
    if json is not None:
        return json_object(json)
    if data is not None:
        return Data(read(data), content_type)
    return None


def _verb(job: Job) -> str:
    return "submitted" if job.created else "already submitted"
