"""`headway dev`: everything on this machine with one command."""

import argparse
import contextlib
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from headway_dev import ports, processes
from headway_dev.children import Child, LogFollower, stop_all
from headway_dev.errors import DevError, ServiceFailed
from headway_dev.redaction import without_secrets
from headway_dev.schema import migrate
from headway_dev.services import Services, private_services

DATA_DIRECTORY = Path(".headway")
LISTEN = "127.0.0.1:50051"
DEFAULT_APP = "examples.app:jobs"
WORKERS_MAX = 64
DRAIN_SECONDS = 30.0
# What a process gets to end beyond its own deadline for draining.
STOP_MARGIN_SECONDS = 10.0
LOOK_SECONDS = 0.2


class Stopped(BaseException):
    """Somebody asked us to end, by Ctrl-C or SIGTERM."""


def main(arguments: Sequence[str]) -> int:
    """Run until Ctrl-C or SIGTERM, then 0; 1 with the reason when something fails; 2 for usage."""
    try:
        options = _parse(arguments)
    except SystemExit as usage:
        return int(usage.code or 0)
    # One list of all children, for the second signal.
    children: list[Child] = []
    try:
        with _signals(children):
            _run(options, children)
    except Stopped:
        pass
    except DevError as error:
        print(f"headway dev: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="headway dev",
        description="Run a server and workers here, on a private PostgreSQL and RabbitMQ that are"
        " set up, kept and stopped for you. HEADWAY_DATABASE_URL and HEADWAY_AMQP_URL name others.",
    )
    parser.add_argument(
        "--app",
        metavar="MODULE:JOBS",
        help=f"the handlers to run (default: {DEFAULT_APP}, where that can be imported)",
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_listen_address,
        default=os.environ.get("HEADWAY_LISTEN", LISTEN),
        help="where the server listens; port 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        default=DATA_DIRECTORY,
        help="where data, logs and traces are kept from run to run (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_worker_count,
        default=1,
        help="how many workers (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _listen_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError("not HOST:PORT, as in 127.0.0.1:50051")
    return f"{host}:{ports.free_port()}" if int(port) == 0 else text


def _worker_count(text: str) -> int:
    if not text.isdigit() or int(text) > WORKERS_MAX:
        raise argparse.ArgumentTypeError(f"not a number from 0 to {WORKERS_MAX}")
    return int(text)


def _run(options: argparse.Namespace, children: list[Child]) -> None:
    app = _app_to_run(options.app) if options.workers else None
    _drain_seconds()
    _refuse_taken_port(options.listen)
    data = options.data.absolute()
    _say(f"starting; data and logs are in {_shown(data)}")
    with private_services(data) as services:
        migrate(services.database_url)
        environment = _environment(services, listen=options.listen, data=data)
        with LogFollower() as follower:
            try:
                children.append(_start("server", ["server"], services, environment))
                follower.add(children[0])
                children[0].await_ready()
                for number in range(1, options.workers + 1 if app else 1):
                    worker = _start(
                        f"worker-{number}", ["worker", app or ""], services, environment
                    )
                    children.append(worker)
                    follower.add(worker)
                for worker in children[1:]:
                    worker.await_ready()
                print(_ready_line(options, services, app, data), flush=True)
                _watch(children, services)
            finally:
                _say("stopping")
                stop_all(children[1:])
                stop_all(children[:1])


def _start(
    name: str, arguments: Sequence[str], services: Services, environment: dict[str, str]
) -> Child:
    return Child(
        name,
        arguments,
        state=services.state,
        directory=services.directory,
        environment=environment,
        stop_seconds=_drain_seconds() + STOP_MARGIN_SECONDS,
    )


def _drain_seconds() -> float:
    drain = os.environ.get("HEADWAY_DRAIN_SECONDS", "")
    try:
        return float(drain or DRAIN_SECONDS)
    except ValueError:
        raise DevError(f"HEADWAY_DRAIN_SECONDS={drain} is not a number of seconds") from None


def _app_to_run(wanted: str | None) -> str | None:
    """Return MODULE:JOBS, checked only as far as its module can be found; None runs no worker."""
    sys.path.insert(0, str(Path.cwd()))
    app = wanted or DEFAULT_APP
    module, colon, name = app.partition(":")
    if not (module and colon and name):
        raise DevError(f"--app {app} is not MODULE:JOBS, as in {DEFAULT_APP}")
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if found:
        return app
    if wanted:
        raise DevError(
            f"--app {app}: there is no module {module} here or on PYTHONPATH;"
            " run this in the directory that holds it"
        )
    _say(f"no --app, and no {DEFAULT_APP} here: running no worker")
    return None


def _refuse_taken_port(listen: str) -> None:
    host, _, port = listen.rpartition(":")
    # grpc would share the port of a stray second server (SO_REUSEPORT) instead of failing.
    if ports.is_taken(int(port), host=host.strip("[]")):
        raise DevError(
            f"{listen} cannot be listened on, most likely because another process does;"
            " stop that one, or choose another port: --listen 127.0.0.1:0 takes a free one"
        )


def _environment(services: Services, *, listen: str, data: Path) -> dict[str, str]:
    return {
        "HEADWAY_LOG_FORMAT": os.environ.get("HEADWAY_LOG_FORMAT", "console"),
        "HEADWAY_REFLECTION": os.environ.get("HEADWAY_REFLECTION", "true"),
        "HEADWAY_TRACE_DIR": os.environ.get("HEADWAY_TRACE_DIR", str(data / "traces")),
        "HEADWAY_DATABASE_URL": services.database_url,
        "HEADWAY_AMQP_URL": services.amqp_url,
        "HEADWAY_LISTEN": listen,
    }


def _ready_line(
    options: argparse.Namespace, services: Services, app: str | None, data: Path
) -> str:
    parts = {
        "grpc": options.listen,
        "postgres": without_secrets(services.database_url),
        "rabbitmq": without_secrets(services.amqp_url),
        "workers": options.workers if app else 0,
        "app": app,
        "traces": _shown(Path(_environment(services, listen="", data=data)["HEADWAY_TRACE_DIR"])),
    }
    return "ready " + " ".join(f"{name}={value}" for name, value in parts.items() if value)


def _watch(children: Sequence[Child], services: Services) -> None:
    """Return never: raises what ended, or Stopped."""
    own = [
        *([services.postgres] if services.has_postgres else []),
        *([services.rabbitmq] if services.has_rabbitmq else []),
    ]
    while True:
        for child in children:
            if child.exit_code is not None:
                raise child.failure()
        for service in own:
            if not service.is_running:
                raise ServiceFailed(
                    f"the private {service.name} ended by itself; its last lines:\n"
                    + processes.log_tail(service.log)
                )
        time.sleep(LOOK_SECONDS)


@contextlib.contextmanager
def _signals(children: Sequence[Child]) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into Stopped; a second one kills the children instead."""
    asked = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            _say("killing what is still running")
            for child in children:
                processes.kill(child.record)
            return
        asked = True
        raise Stopped

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _say(text: str) -> None:
    print(f"headway dev: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
