"""`headway dev` as its user meets it, with stand-ins for server and worker.

The stand-ins print `ready`, note in a file what happens to them, and end on SIGTERM.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from headway_dev import ports
from headway_dev.processes import is_alive
from headway_dev.services import private_services
from headway_dev.state import State

DRIVER = """
import sys
from pathlib import Path
import headway_dev.children
script = Path(sys.argv.pop(1))
headway_dev.children.headway_script = lambda: script
from headway_dev.app import main
sys.exit(main(sys.argv[1:]))
"""
STAND_IN = """#!{python}
import os, signal, sys, time
role, notes = sys.argv[1], open({notes!r}, "a", buffering=1)
def on_term(*_):
    notes.write(role + " ended\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, on_term)
notes.write(role + " started " + os.environ["HEADWAY_REFLECTION"] + "\\n")
if os.environ.get("STAND_IN_FAILS") == role:
    print("the reason is this")
    sys.exit(3)
print("ready")
while True:
    time.sleep(0.05)
    if os.path.exists({notes!r} + "." + role + ".die"):
        print("it was told to die")
        sys.exit(4)
"""

StartDev = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """What the stand-ins saw, a line each."""
    return tmp_path / "notes"


@pytest.fixture
def start_dev(tmp_path: Path, notes: Path, database_url: str, amqp_url: str) -> Iterator[StartDev]:
    """Start `headway dev` on the session's services, which makes it quick."""
    script = tmp_path / "headway"
    script.write_text(STAND_IN.format(python=sys.executable, notes=str(notes)))
    script.chmod(0o755)
    (tmp_path / "handlers.py").write_text("jobs = None\n")
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", DRIVER, str(script)),
                *("--data", str(tmp_path / "data"), "--app", "handlers:jobs", *arguments),
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "HEADWAY_DATABASE_URL": database_url,
                "HEADWAY_AMQP_URL": amqp_url,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    with private_services(tmp_path / "data", start=False) as services:
        services.erase()


def await_ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready "), process.communicate()[1]
    return line


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, messages = process.communicate(timeout=60)
    return process.returncode, messages


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_ready_and_ends_with_0_workers_first(
    start_dev: StartDev, notes: Path, database_url: str, number: int
) -> None:
    """A worker that drains still needs the server's services; nobody needs the worker."""
    process = start_dev("--listen", "127.0.0.1:0", "--workers", "2")
    line = await_ready(process)
    assert " grpc=127.0.0.1:" in line
    assert " workers=2 " in line
    password = database_url.split(":")[2].partition("@")[0]
    assert password not in line
    process.send_signal(number)
    code, messages = finish(process)
    assert code == 0, messages
    assert password not in messages
    seen = notes.read_text().splitlines()
    assert seen[0] == "server started true"
    assert seen[1:3] == ["worker started true"] * 2
    assert seen[3:] == ["worker ended", "worker ended", "server ended"]


def test_ctrl_c_while_starting_ends_it_too(start_dev: StartDev, notes: Path) -> None:
    """Impatience is no error."""
    process = start_dev("--listen", "127.0.0.1:0")
    assert process.stderr is not None
    assert "starting" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    code, messages = finish(process)
    assert code == 0, messages
    assert "Traceback" not in messages


def test_a_server_that_cannot_start_is_quoted(start_dev: StartDev) -> None:
    """The reason is in the child's last lines."""
    code, messages = finish(start_dev("--listen", "127.0.0.1:0", STAND_IN_FAILS="server"))
    assert code == 1
    assert "server ended with code 3" in messages
    assert "the reason is this" in messages


def test_a_worker_that_dies_later_ends_it_and_is_quoted(start_dev: StartDev, notes: Path) -> None:
    """Half a service is worse than none: nothing would run and nobody would know."""
    process = start_dev("--listen", "127.0.0.1:0")
    await_ready(process)
    Path(f"{notes}.worker.die").touch()
    code, messages = finish(process)
    assert code == 1
    assert "worker-1 ended with code 4" in messages
    assert "it was told to die" in messages
    assert notes.read_text().splitlines()[-1] == "server ended"


def test_a_taken_port_is_said_before_anything_starts(start_dev: StartDev, notes: Path) -> None:
    """GRPC would share the port with the stray server and take half of its connections."""
    with socket.create_server((ports.LOOPBACK, 0)) as stranger:
        address = f"127.0.0.1:{stranger.getsockname()[1]}"
        code, messages = finish(start_dev("--listen", address))
    assert code == 1
    assert f"{address} cannot be listened on" in messages
    assert "--listen" in messages
    assert not notes.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--app", "nowhere:jobs"], "no module nowhere"),
        (["--app", "handlers"], "not MODULE:JOBS"),
        (["--listen", "50051"], "not HOST:PORT"),
        (["--workers", "-1"], "not a number"),
    ],
)
def test_a_wrong_argument_is_named(start_dev: StartDev, arguments: list[str], words: str) -> None:
    """Before anything starts."""
    code, messages = finish(start_dev(*arguments))
    assert code in {1, 2}
    assert words in messages


def test_killed_it_takes_everything_with_it(start_dev: StartDev, tmp_path: Path) -> None:
    """SIGKILL leaves no child behind, private service or server or worker."""
    process = start_dev("--listen", "127.0.0.1:0")
    await_ready(process)
    records = list(State.load(tmp_path / "data").processes.values())
    assert len(records) == 2
    process.kill()
    deadline = time.monotonic() + 60
    while any(record.find() for record in records):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_private_services_come_and_go_with_it(start_dev: StartDev, tmp_path: Path) -> None:
    """With no address in the environment it brings its own, as on a fresh machine."""
    process = start_dev("--listen", "127.0.0.1:0", HEADWAY_DATABASE_URL="", HEADWAY_AMQP_URL="")
    line = await_ready(process)
    assert " postgres=postgresql://127.0.0.1:" in line
    assert " rabbitmq=amqp://127.0.0.1:" in line
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    code, messages = finish(process)
    assert code == 0, messages
    assert not [child for child in children if is_alive(child)]
