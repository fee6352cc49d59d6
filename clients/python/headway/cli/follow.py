"""`watch`, `wait`, `result`: commands that stay until jobs are done."""

import asyncio
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from headway import Client, SyncClient
from headway.cli import documents
from headway.cli.exits import Exit, describe, worst
from headway.cli.following import Ending, follow
from headway.cli.options import DEFAULTS, Common, duration
from headway.cli.output import say, took, write_all, write_result, write_table
from headway.cli.views import JsonLines, View
from headway.errors import HeadwayError
from headway.jobs import Job

Ids = Annotated[tuple[str, ...], Parameter(name="ID")]


def watch(job_ids: Ids, /, *, common: Common = DEFAULTS) -> int:
    """Watch jobs live until all are done: bars on a terminal, else one line for each change.

    With -o jsonl one object for each event, with -o json the jobs as they ended.

    Parameters
    ----------
    job_ids
        The jobs.
    """
    return follow_jobs(job_ids, common)


def follow_jobs(job_ids: Sequence[str], common: Common) -> int:
    """Show jobs until they are done. Ctrl-C lets go of them, and says how to take them up again."""
    try:
        endings = asyncio.run(_follow(job_ids, common))
    except KeyboardInterrupt:
        return _detached("watch", job_ids, common)
    if common.output == "json":
        write_all((documents.job(item.job) for item in endings if item.job), common.output)
    dead = [item.job_id for item in endings if item.code is Exit.DIED]
    if len(dead) == 1 and sys.stderr.isatty():
        say(f"headway: bring it back with: {command('replay', dead, common)}")
    return worst(item.code for item in endings)


def wait(
    job_ids: Ids,
    /,
    *,
    timeout: str | None = None,
    common: Common = DEFAULTS,
) -> int:
    """Wait quietly until jobs are done, then show them.

    Parameters
    ----------
    job_ids
        The jobs.
    timeout
        At most so long, as 90, 10s, 5m; exit code 124 then.
    """
    seconds = None if timeout is None else duration(timeout).total_seconds()
    try:
        endings = asyncio.run(_wait(job_ids, common, seconds))
    except KeyboardInterrupt:
        return _detached("wait", job_ids, common)
    jobs = [ending.job for ending in endings if ending.job is not None]
    if common.output != "table":
        write_all(map(documents.job, jobs), common.output)
    elif jobs:
        write_table(("ID", "TYPE", "STATE", "TOOK", "ERROR"), map(_row, jobs))
    return worst(ending.code for ending in endings)


def result(
    job_id: Annotated[str, Parameter(name="ID")],
    /,
    *,
    timeout: str | None = None,
    common: Common = DEFAULTS,
) -> int:
    """Wait for a job and print what it returned: JSON as JSON, bytes as they are.

    With -o json in the shape of headway.v1.Payload, which tells JSON, bytes and messages apart.

    Parameters
    ----------
    job_id
        The job.
    timeout
        At most so long, as 90, 10s, 5m; exit code 124 then.
    """
    seconds = None if timeout is None else duration(timeout).total_seconds()
    try:
        with SyncClient(common.target) as client:
            write_result(client.result(job_id, timeout=seconds), common.output)
    except KeyboardInterrupt:
        return _detached("result", (job_id,), common)
    return Exit.COMPLETED


def command(verb: str, job_ids: Sequence[str], common: Common) -> str:
    """A command line that can be pasted into a shell."""
    target = () if common.target is None else ("--target", common.target)
    return shlex.join(("headway", verb, *job_ids, *target))


async def _follow(job_ids: Sequence[str], common: Common) -> tuple[Ending, ...]:
    async with Client(common.target) as client:
        if common.output == "jsonl":
            endings = await follow(client, job_ids, JsonLines())
        elif common.output == "json" and not sys.stderr.isatty():
            endings = await follow(client, job_ids, View())
        else:
            from rich.console import Console

            from headway.cli.bars import watch_jobs

            console = Console(stderr=common.output == "json", highlight=False)
            endings = await watch_jobs(client, job_ids, console=console)
    for ending in endings:
        if ending.error is not None:
            say(f"headway: {describe(ending.error, client.target)}")
    return endings


async def _wait(job_ids: Sequence[str], common: Common, seconds: float | None) -> list[Ending]:
    async def one(job_id: str) -> Ending:
        try:
            return Ending(job_id, await client.wait(job_id, timeout=seconds), None)
        except HeadwayError as error:
            say(f"headway: {describe(error, client.target)}")
            return Ending(job_id, None, error)

    async with Client(common.target) as client:
        return await asyncio.gather(*map(one, dict.fromkeys(job_ids)))


def _detached(verb: str, job_ids: Sequence[str], common: Common) -> int:
    goes = "the job goes on" if len(job_ids) == 1 else "the jobs go on"
    say(f"\nheadway: detached, {goes}; come back with: {command(verb, job_ids, common)}")
    return Exit.INTERRUPTED


def _row(job: Job) -> tuple[str, ...]:
    run = took(job.end_time - job.start_time) if job.start_time and job.end_time else ""
    return (job.id, job.type, job.state, run, str(job.error or ""))
