"""The part of `headway demo` that is a client of Headway: submit, watch, replay, check."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import aio_pika
from aio_pika.exceptions import AMQPError

from headway import DeadLetter, DeadLetterFilter, Event, Job
from headway.cli.bars import watch_jobs
from headway.client import Client
from headway_core.topology import dead_queue
from headway_dev.demo_checks import Finding, check
from headway_dev.demo_jobs import Planned, Shown, plan
from headway_dev.demo_report import Report, as_typed

LIVE_SECONDS_MAX = 60.0
REPLAY_SECONDS_MAX = 15.0
LOOK_SECONDS = 0.2
BROKER_SECONDS = 5.0
RETRIED = "demo.flaky"
POISON = "demo.poison"
POISON_QUEUE = "default"


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the story plays. `look` raises when one of the processes behind it has ended."""

    target: str
    database_url: str
    amqp_url: str
    output: Path
    missing_file: Path
    report: Report
    look: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Told:
    """What came of it."""

    jobs: tuple[Shown, ...]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is not as it should be."""
        return tuple(problem for finding in self.findings for problem in finding.problems)

    def job(self, type_: str) -> Shown:
        """The job of this type."""
        return next(shown for shown in self.jobs if shown.planned.type == type_)


async def tell(stage: Stage) -> Told:
    """Play it all. Raises what `look` raises, and HeadwayErrors if the server does not answer."""
    async with _as_long_as_all_runs(stage), Client(stage.target) as client:
        planned = plan(stage.missing_file.name)
        stage.report.chapter(f"{len(planned)} real jobs, live")
        jobs = await _submit(client, planned)
        await _watch(client, jobs, stage, seconds=LIVE_SECONDS_MAX)
        of_type = {job.type: (plan_, job) for plan_, job in zip(planned, jobs, strict=True)}
        stage.report.chapter(f"What happened to {RETRIED}")
        stage.report.history(await _look_back(client, *of_type[RETRIED]))
        dead = await _bury_and_replay(client, of_type[POISON][1], stage)
        shown = [await _look_back(client, *pair) for pair in of_type.values()]
    findings = [dead, *await check(shown, database_url=stage.database_url)]
    _show(stage, shown, findings)
    return Told(tuple(shown), tuple(findings))


async def _submit(client: Client, planned: list[Planned]) -> list[Job]:
    """All at once, as independent callers would."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.submit(plan_.type, plan_.payload)) for plan_ in planned]
    return [task.result() for task in tasks]


async def _watch(client: Client, jobs: list[Job], stage: Stage, *, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await watch_jobs(client, [job.id for job in jobs], console=stage.report.console)
    except TimeoutError:
        stage.report.line(f"not all were done within {seconds:.0f} s", style="red")


async def _bury_and_replay(client: Client, job: Job, stage: Stage) -> Finding:
    """Show the dead letter, mend its cause, bring it back."""
    report = stage.report
    report.chapter("A dead letter: found, mended, replayed")
    claim = "the poison job was a dead letter, of the broker too"
    letter = await _dead_letter(client, job)
    if letter is None:
        problem = f"{POISON} {job.id} should be among the dead letters and is not"
        return Finding(claim, (problem,))
    queue = dead_queue(POISON_QUEUE)
    messages = await _messages(stage.amqp_url, queue)
    report.dead_letter(letter, queue=queue, messages=messages)
    report.line()
    stage.missing_file.parent.mkdir(parents=True, exist_ok=True)
    stage.missing_file.write_text("item,price\ncoffee,2.40\n")
    report.literal(f"  The cause is mended: {as_typed(stage.missing_file)} is there now.")
    replay = await client.replay(job.id)
    report.literal(f"  Replayed: {replay.replayed_count} job, under the same ID.")
    await _watch(client, [job], stage, seconds=REPLAY_SECONDS_MAX)
    return Finding(claim, () if messages else (f"the broker's queue {queue} is empty",))


async def _dead_letter(client: Client, job: Job) -> DeadLetter | None:
    async with contextlib.aclosing(client.dead_letters(DeadLetterFilter(type=POISON))) as letters:
        async for letter in letters:
            if letter.job.id == job.id:
                return letter
    return None


async def _messages(amqp_url: str, queue: str) -> int:
    """How many messages lie in a queue; waits a little for the first one."""
    with contextlib.suppress(TimeoutError, AMQPError, OSError):
        async with asyncio.timeout(BROKER_SECONDS), await aio_pika.connect(amqp_url) as connection:
            channel = await connection.channel()
            while True:
                declared = await channel.declare_queue(queue, passive=True)
                if count := declared.declaration_result.message_count:
                    return count
                await asyncio.sleep(LOOK_SECONDS)
    return 0


async def _look_back(client: Client, planned: Planned, job: Job) -> Shown:
    """The job as it stands, and its events up to there; it may still go on."""
    job = await client.get(job.id, full=True)
    events: list[Event] = []
    async with contextlib.aclosing(client.watch(job.id, after_sequence=0)) as updates:
        async for update in updates:
            if isinstance(update, Event):
                events.append(update)
            if events and events[-1].sequence >= job.sequence:
                break
    return Shown(planned, job, tuple(events))


def _show(stage: Stage, shown: list[Shown], findings: list[Finding]) -> None:
    report = stage.report
    report.chapter("The jobs")
    report.table(shown)
    report.chapter("Their files")
    report.literal(f"in {as_typed(stage.output)}, a directory for each job")
    report.files(shown)
    report.chapter("Checked")
    report.findings(findings)


@contextlib.asynccontextmanager
async def _as_long_as_all_runs(stage: Stage) -> AsyncIterator[None]:
    """End the block with what `look` raises, if it raises."""

    async def look() -> None:
        while True:
            stage.look()
            await asyncio.sleep(LOOK_SECONDS)

    try:
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(look())
            yield
            looking.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
