"""`headway worker MODULE:JOBS`: put a worker together and run it until a signal."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from headway_core import logs
from headway_core.database import Database
from headway_core.errors import SchemaOutdated, SettingsInvalid, TooManyQueues
from headway_core.settings import load, unknown_names
from headway_worker.loading import NotLoadable, check_target
from headway_worker.registry import QUEUE_PATTERN
from headway_worker.settings import WorkerSettings
from headway_worker.supervisor import Supervisor, WorkerBroken

CONCURRENCY_DEFAULT: Final = 10
CONCURRENCY_MAX: Final = 1_000
PROCESSES_MAX: Final = 256
BROKEN: Final = 1
USAGE: Final = 2

log = structlog.get_logger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run a worker. Returns 0 after a drain, 1 if it cannot run, 2 if it was asked wrongly."""
    options = _parser().parse_args(arguments)
    try:
        check_target(options.target)
        settings = load(WorkerSettings)
    except NotLoadable as error:
        print(f"headway worker: {error}", file=sys.stderr)
        return USAGE
    except SettingsInvalid as error:
        for problem in error.problems:
            print(f"headway worker: {problem}", file=sys.stderr)
        return USAGE
    logs.configure(settings, service="headway-worker")
    for sentence in unknown_names(WorkerSettings):
        log.warning("unknown_setting", reason=sentence)
    return asyncio.run(_run(settings, options))


async def _run(settings: WorkerSettings, options: argparse.Namespace) -> int:
    # Heartbeats must fail while there is still time for the next one.
    patience = min(5.0, settings.lease.total_seconds() / 3)
    database = await Database.connect(
        settings.database_url.get_secret_value(),
        name="headway-worker supervisor",
        size=options.processes + 2,
        timeout_seconds=patience,
    )
    supervisor = Supervisor(
        settings,
        database,
        target=options.target,
        processes=options.processes,
        slots=options.concurrency,
        queues=options.queues,
        announce=lambda line: print(line, flush=True),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.drain)
    try:
        await supervisor.run()
    except* (WorkerBroken, SchemaOutdated, TooManyQueues) as errors:
        print(f"headway worker: {_leaf(errors)}", file=sys.stderr)
        return_code = BROKEN
    else:
        return_code = 0
    finally:
        await database.close()
    return return_code


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headway worker", description="Run jobs with the handlers of MODULE:JOBS."
    )
    parser.add_argument("target", metavar="MODULE:JOBS", help="a headway_worker.Jobs in a module")
    parser.add_argument(
        "--concurrency",
        type=_bounded(CONCURRENCY_MAX),
        default=CONCURRENCY_DEFAULT,
        metavar="N",
        help=f"jobs that each process runs at a time (default {CONCURRENCY_DEFAULT})",
    )
    parser.add_argument(
        "--processes",
        type=_bounded(PROCESSES_MAX),
        default=1,
        metavar="N",
        help="processes (default 1)",
    )
    parser.add_argument(
        "--queues",
        type=_queues,
        default=(),
        metavar="A,B",
        help="queues to take jobs from (default: those of the handlers)",
    )
    return parser


def _bounded(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not 1 to {most}")
        return int(text)

    return number


def _queues(text: str) -> tuple[str, ...]:
    queues = tuple(dict.fromkeys(text.split(",")))
    for queue in queues:
        if not QUEUE_PATTERN.fullmatch(queue):
            raise argparse.ArgumentTypeError(f"{queue!r} is not {QUEUE_PATTERN.pattern}")
    return queues
