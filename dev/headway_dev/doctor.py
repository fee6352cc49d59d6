"""`headway doctor`: what is wrong here, and how to mend it."""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from headway_dev.checks.broker import check_broker
from headway_dev.checks.database import check_database
from headway_dev.checks.findings import Finding, Verdict, note
from headway_dev.checks.machine import (
    check_extras,
    check_python,
    check_settings,
    check_trace_directory,
)
from headway_dev.checks.server import check_server
from headway_dev.services import AMQP_VARIABLE, DATABASE_VARIABLE
from headway_dev.state import State

DATA_DIRECTORY = Path(".headway")
TARGET = "127.0.0.1:50051"


def main(arguments: Sequence[str]) -> int:
    """Print every finding; 0 if nothing is wrong, else 1; 2 for usage."""
    try:
        options = _parse(arguments)
    except SystemExit as usage:
        return int(usage.code or 0)
    return asyncio.run(_examine(options))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="headway doctor",
        description="Look at this machine, the settings, PostgreSQL, RabbitMQ and the server, and"
        " say how to mend what is wrong. Changes nothing. Without HEADWAY_DATABASE_URL and"
        " HEADWAY_AMQP_URL it looks at the services of `headway dev`.",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        default=DATA_DIRECTORY,
        help="the directory of `headway dev` (default: %(default)s)",
    )
    parser.add_argument(
        "--target",
        metavar="HOST:PORT",
        help=f"the server (default: HEADWAY_TARGET, HEADWAY_LISTEN or {TARGET})",
    )
    return parser.parse_args(arguments)


async def _examine(options: argparse.Namespace) -> int:
    environ = dict(os.environ)
    findings = [*_adopt_dev_services(options.data, environ), *check_python(), *check_extras()]
    findings += [*check_settings(environ), *check_trace_directory(environ)]
    for finding in findings:
        _show(finding)
    async for finding in _ask_services(environ, options.target):
        _show(finding)
        findings.append(finding)
    problems = sum(finding.verdict is Verdict.WRONG for finding in findings)
    print("nothing is wrong" if problems == 0 else f"{problems} to mend")
    return 1 if problems else 0


async def _ask_services(environ: Mapping[str, str], target: str | None) -> AsyncIterator[Finding]:
    queues: list[str] = []
    if environ.get(DATABASE_VARIABLE):
        async for finding in check_database(environ[DATABASE_VARIABLE], queues):
            yield finding
    if environ.get(AMQP_VARIABLE):
        async for finding in check_broker(environ[AMQP_VARIABLE], queues):
            yield finding
    target = target or environ.get("HEADWAY_TARGET") or environ.get("HEADWAY_LISTEN") or TARGET
    async for finding in check_server(target):
        yield finding


def _adopt_dev_services(directory: Path, environ: dict[str, str]) -> list[Finding]:
    """Fill what the environment does not say from a `headway dev` that runs in this directory."""
    state = State.load(directory)
    found = []
    for variable, service in ((DATABASE_VARIABLE, "postgres"), (AMQP_VARIABLE, "rabbitmq")):
        record = state.processes.get(service)
        if environ.get(variable) or record is None or record.find() is None:
            continue
        environ[variable] = str(state.services[service]["url"])
        found.append(note("settings", f"{variable} is not set; using that of {directory}"))
    return found


def _show(finding: Finding) -> None:
    print(f"{finding.verdict:<6}{finding.subject:<10}{finding.text}")
    if finding.mend:
        print(f"{'':<16}→ {finding.mend}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
