"""`headway server`: the composition root."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import structlog
import uvloop

from headway_core import logs
from headway_core.errors import HeadwayError, SettingsInvalid, StoreUnavailable
from headway_core.garbage import look_seldom
from headway_core.metrics import Metrics
from headway_core.settings import Address, load, unknown_names
from headway_core.telemetry import Telemetry
from headway_server.assembly import PROCESS_NAME, running
from headway_server.processes import CHILD_OPTION, PROCESSES_MAX, serve_by_several
from headway_server.settings import ServerSettings

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_SIGNAL: Final = 128

log = structlog.get_logger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once.

    Exit codes: 0 after a drain, 1 if the server could not start or failed, 2 for wrong settings.
    """
    options = _parser().parse_args(arguments)
    listen = {} if options.listen is None else {"HEADWAY_LISTEN": options.listen}
    environ = {**os.environ, **listen}
    try:
        settings = load(ServerSettings, environ)
    except SettingsInvalid as error:
        for problem in error.problems:
            print(f"headway server: {problem}", file=sys.stderr)
        return EXIT_USAGE
    logs.configure(settings, service=PROCESS_NAME)
    if not options.child:
        for sentence in unknown_names(ServerSettings, environ):
            log.warning("setting_unknown", problem=sentence)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if options.processes > 1:
                runner.run(_serve_by_several(options.processes, settings, environ))
            else:
                runner.run(_serve(settings, child=options.child))
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


def place_of(url: str) -> str:
    """Where a URL leads, without who goes there: `host:port/name`."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"


async def _serve(settings: ServerSettings, *, child: bool) -> None:
    signals = _Signals()
    if child:
        signals.follow_standard_input()
    metrics = Metrics.start(settings, service=PROCESS_NAME)
    telemetry = Telemetry.start(PROCESS_NAME, settings)
    try:
        async with running(
            settings, telemetry=telemetry, metrics=metrics, reuse_port=child
        ) as server:
            look_seldom()
            _say_ready(server.address)
            await signals.stopping.wait()
            log.info("draining", seconds=settings.drain.total_seconds())
    finally:
        await asyncio.to_thread(telemetry.shutdown)
        metrics.shutdown()


async def _serve_by_several(
    count: int, settings: ServerSettings, environ: Mapping[str, str]
) -> None:
    signals = _Signals(exits=False)
    await serve_by_several(
        count,
        settings,
        environ=environ,
        stopping=signals.stopping,
        at_once=signals.at_once,
        announce=_say_ready,
    )


class _Signals:
    """SIGTERM and SIGINT of this process: the first to drain, the second to end at once."""

    def __init__(self, *, exits: bool = True) -> None:
        self.stopping = asyncio.Event()
        self.at_once = asyncio.Event()
        self._exits = exits
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._arrived, number)

    def follow_standard_input(self) -> None:
        """Drain at its end: the parent is gone."""
        self._loop.add_reader(sys.stdin.fileno(), self._readable)

    def _arrived(self, number: signal.Signals) -> None:
        if self.stopping.is_set():
            self.at_once.set()
            if self._exits:
                # Whatever hangs: nothing is lost, as nothing is promised before its commit.
                os._exit(EXIT_SIGNAL + number)
        self.stopping.set()

    def _readable(self) -> None:
        if not os.read(sys.stdin.fileno(), 1024):
            self._loop.remove_reader(sys.stdin.fileno())
            self.stopping.set()


def _say_ready(address: Address) -> None:
    print(f"ready grpc={address}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headway server", description="Answer gRPC, publish due jobs, reap lost workers."
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="instead of HEADWAY_LISTEN")
    parser.add_argument(
        "--processes",
        metavar="N",
        type=int,
        default=1,
        choices=range(1, PROCESSES_MAX + 1),
        help=f"share the address among N processes, 1 to {PROCESSES_MAX} (default 1)",
    )
    parser.add_argument(CHILD_OPTION, action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
