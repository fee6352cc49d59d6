"""Watching many jobs side by side, whoever is told of it."""

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass

from headway import Client
from headway.cli.exits import Exit, of_error, of_job
from headway.cli.views import View
from headway.errors import HeadwayError
from headway.jobs import Job
from headway.updates import Event, Snapshot

PROGRESS_SECONDS = 0.1
"""News of progress at most so often from each job."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How following one job ended: with the job as it stands, or an error."""

    job_id: str
    job: Job | None
    error: HeadwayError | None

    @property
    def code(self) -> Exit:
        """For the shell."""
        if self.error is not None:
            return of_error(self.error)
        return Exit.COMPLETED if self.job is None else of_job(self.job)


async def follow(client: Client, job_ids: Iterable[str], view: View) -> tuple[Ending, ...]:
    """Watch jobs and tell `view`; ends when all are done or cannot be watched.

    An error of a job is in its Ending. Raises what the view raises, as BrokenPipeError.
    """
    names = tuple(dict.fromkeys(job_ids))
    try:
        async with asyncio.TaskGroup() as group:
            showing = group.create_task(view.show())
            tasks = [group.create_task(_follow_one(client, name, view)) for name in names]
            await asyncio.wait(tasks)
            showing.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return tuple(task.result() for task in tasks)


async def _follow_one(client: Client, job_id: str, view: View) -> Ending:
    job: Job | None = None
    watching = client.watch(
        job_id,
        min_progress_interval=PROGRESS_SECONDS,
        on_reconnect=lambda error, _: view.lost(job_id, error),
    )
    try:
        async with aclosing(watching) as updates:
            async for update in updates:
                if isinstance(update, Snapshot | Event):
                    job = update.job
                view.update(job_id, update)
    except HeadwayError as error:
        view.fail(job_id, error)
        return Ending(job_id, job, error)
    return Ending(job_id, job, None)
