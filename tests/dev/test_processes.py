"""Processes of ours are ended with all that they started, and those that nobody noted too."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from headway_dev import leftovers, processes
from headway_dev.services import private_services

FORKERS = """\
import subprocess, sys, time
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "fork"])
    time.sleep(60)
for _ in range(2000):
    subprocess.Popen(["sleep", "61"])
    time.sleep(0.0005)
"""
# What `epmd -daemon` does: a family of its own.
DAEMON = """\
import os, time
middle = os.fork()
if middle == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
else:
    os.waitpid(middle, 0)
"""
ROUNDS = 10


def of_owner(owner: Path) -> list[psutil.Process]:
    """All that was started for it and runs."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(processes.OWNER_VARIABLE) == str(owner):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if processes.is_alive(process)]


@pytest.fixture
def forkers(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start a process with one below it that starts others all the time, as a node that boots does.

    The return is delayed until some are there.
    """
    program = tmp_path / "forkers.py"
    program.write_text(FORKERS)

    def start() -> subprocess.Popen[bytes]:
        child = processes.start(
            [sys.executable, program], environment={}, log=tmp_path / "log", owner=tmp_path
        )
        deadline = time.monotonic() + 20
        while len(of_owner(tmp_path)) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return child

    yield start
    processes.end_strays(tmp_path)


Start = Callable[[], subprocess.Popen[bytes]]


def test_a_killed_process_takes_children_of_that_moment_with_it(
    forkers: Start, tmp_path: Path
) -> None:
    for _ in range(ROUNDS):
        child = forkers()
        processes.kill(processes.describe(child, marker="forkers", stop_signal=15, stop_seconds=1))
        child.wait(timeout=10)
        assert of_owner(tmp_path) == []


def test_no_stray_escapes_while_another_is_ended(forkers: Start, tmp_path: Path) -> None:
    for _ in range(ROUNDS):
        child = forkers()
        assert processes.end_strays(tmp_path)
        child.wait(timeout=10)
        assert of_owner(tmp_path) == []


def test_strays_are_found_however_their_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make clean` names it from where it stands."""
    directory = tmp_path / "data"
    with private_services(directory, start=False) as services:
        services.state.save()
    child = processes.start(
        ["/bin/sleep", "60"], environment={}, log=tmp_path / "log", owner=directory
    )
    monkeypatch.chdir(tmp_path)
    assert leftovers.main(["data"]) == 0
    assert child.wait(timeout=10) == -signal.SIGKILL


def test_a_daemon_that_left_its_family_ends_with_the_services(directory: Path) -> None:
    with private_services(directory, start=False):
        starter = processes.start(
            [sys.executable, "-c", DAEMON],
            environment={},
            log=directory / "log",
            owner=directory,
        )
        assert starter.wait(timeout=10) == 0
        assert len(of_owner(directory)) == 1
    assert of_owner(directory) == []


def test_an_interrupt_between_a_start_and_its_record_leaves_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits for the end of a process that was not told to end."""

    def interrupted(*_: object, **__: object) -> None:
        assert of_owner(directory)
        raise KeyboardInterrupt

    began = time.monotonic()
    monkeypatch.setattr(processes, "describe", interrupted)
    with pytest.raises(KeyboardInterrupt), private_services(directory):
        pass
    assert of_owner(directory) == []
    assert time.monotonic() - began < 8
