"""`headway server`: the composition root."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import structlog
import uvloop

from headway_core import logs
from headway_core.errors import HeadwayError, SettingsInvalid, StoreUnavailable
from headway_core.metrics import Metrics
from headway_core.settings import load, unknown_names
from headway_core.telemetry import Telemetry
from headway_server.assembly import PROCESS_NAME, running
from headway_server.settings import ServerSettings

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
SIGNAL_EXIT: Final = 128

log = structlog.get_logger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once.

    Exit codes: 0 after a drain, 1 if the server could not start or failed, 2 for wrong settings.
    """
    parser = argparse.ArgumentParser(
        prog="headway server", description="Answer gRPC, publish due jobs, reap lost workers."
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="instead of HEADWAY_LISTEN")
    listen: str | None = parser.parse_args(arguments).listen
    environ = os.environ | ({"HEADWAY_LISTEN": listen} if listen is not None else {})
    try:
        settings = load(ServerSettings, environ)
    except SettingsInvalid as error:
        for problem in error.problems:
            print(f"headway server: {problem}", file=sys.stderr)
        return EXIT_USAGE
    logs.configure(settings, service=PROCESS_NAME)
    for sentence in unknown_names(ServerSettings, environ):
        log.warning("setting_unknown", problem=sentence)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings))
    except StoreUnavailable as error:
        place = place_of(settings.database_url.get_secret_value())
        print(f"headway server: HEADWAY_DATABASE_URL ({place}): {error}", file=sys.stderr)
        return EXIT_FAILED
    except HeadwayError as error:
        print(f"headway server: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Exception:
        log.exception("server_failed")
        return EXIT_FAILED
    return 0


async def _serve(settings: ServerSettings) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stopping, number)
    metrics = Metrics.start(settings, service=PROCESS_NAME)
    telemetry = Telemetry.start(PROCESS_NAME, settings)
    try:
        async with running(settings, telemetry=telemetry, metrics=metrics) as server:
            print(f"ready grpc={server.address}", flush=True)
            await stopping.wait()
            log.info("draining", seconds=settings.drain.total_seconds())
    finally:
        await asyncio.to_thread(telemetry.shutdown)
        metrics.shutdown()


def place_of(url: str) -> str:
    """Where a URL leads, without who goes there: `host:port/name`."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"


def _stop(stopping: asyncio.Event, number: signal.Signals) -> None:
    if stopping.is_set():
        # Whatever hangs: nothing is lost, as nothing is promised before its commit.
        os._exit(SIGNAL_EXIT + number)
    stopping.set()
