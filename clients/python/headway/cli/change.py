"""`cancel` and `replay`."""

from typing import Annotated

from cyclopts import Parameter

from headway import SyncClient
from headway.cli import documents
from headway.cli.exits import Exit, describe, of_error, worst
from headway.cli.options import DEFAULTS, Common, UsageError
from headway.cli.output import say, write_all, write_json, write_table
from headway.errors import HeadwayError
from headway.jobs import DeadLetterFilter, Job


def cancel(
    job_ids: Annotated[tuple[str, ...], Parameter(name="ID")],
    /,
    *,
    reason: str = "",
    common: Common = DEFAULTS,
) -> int:
    """Cancel jobs: a waiting one now, a running one is asked to stop and may still complete.

    Parameters
    ----------
    job_ids
        The jobs.
    reason
        Kept in the job's history.
    """
    codes: list[Exit] = []
    jobs: list[Job] = []
    with SyncClient(common.target) as client:
        for job_id in job_ids:
            try:
                jobs.append(client.cancel(job_id, reason=reason))
            except HeadwayError as error:
                say(f"headway: {describe(error, client.target)}")
                codes.append(of_error(error))
    _write_jobs(jobs, common)
    return worst(codes)


def replay(
    job_id: Annotated[str | None, Parameter(name="ID")] = None,
    /,
    *,
    type: str | None = None,  # noqa: A002 - the option's name
    queue: str | None = None,
    fingerprint: str | None = None,
    all: bool = False,  # noqa: A002 - the option's name
    dry_run: bool = False,
    max: int | None = None,  # noqa: A002 - the option's name
    common: Common = DEFAULTS,
) -> None:
    """Bring dead jobs back under their own IDs, with fresh attempts; finished steps are skipped.

    Parameters
    ----------
    job_id
        One job; or choose many by the options.
    type
        Those of this type.
    queue
        Those of this queue.
    fingerprint
        Those with this fingerprint, see `headway dead list --group`.
    all
        Every dead letter.
    dry_run
        Change nothing, only say which.
    max
        At most so many, oldest death first, 1 to 1000. [default: 1000]
    """
    chosen = DeadLetterFilter(type=type, queue=queue, fingerprint=fingerprint)
    if job_id is not None and (chosen != DeadLetterFilter() or all):
        raise UsageError("replay: name one job, or a filter, or --all")
    with SyncClient(common.target) as client:
        done = client.replay(
            chosen if job_id is None else job_id, allow_all=all, dry_run=dry_run, max_jobs=max
        )
    if common.output == "json":
        write_json(documents.replay(done), common.output)
    else:
        _write_jobs(list(done.jobs), common)
    verb = "would be replayed" if dry_run else "replayed"
    more = "; more match, run it again for them" if done.more else ""
    say(f"{done.replayed_count} {verb}{more}")


def _write_jobs(jobs: list[Job], common: Common) -> None:
    if common.output != "table":
        write_all(map(documents.job, jobs), common.output)
    elif jobs:
        write_table(("ID", "TYPE", "STATE"), ((job.id, job.type, job.state) for job in jobs))
