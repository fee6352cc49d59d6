"""Processes of ours are ended with all that they started, and those that nobody noted too."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from headway_dev import processes
from headway_dev.services import private_services

FORKERS = """\
import subprocess, sys, time
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "fork"])
    time.sleep(60)
while True:
    subprocess.Popen(["sleep", "61"])
    time.sleep(0.0005)
"""
# What `epmd -daemon` does: a family of its own.
DAEMON = """\
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
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


def test_a_killed_process_takes_children_of_that_moment_with_it(tmp_path: Path) -> None:
    """One below it starts others all the time, as a node that boots does."""
    program = tmp_path / "forkers.py"
    program.write_text(FORKERS)
    for _ in range(ROUNDS):
        child = processes.start(
            [sys.executable, program], environment={}, log=tmp_path / "log", owner=tmp_path
        )
        record = processes.describe(child, marker="forkers", stop_signal=15, stop_seconds=1)
        while len(of_owner(tmp_path)) < 5:
            time.sleep(0.01)
        processes.kill(record)
        child.wait(timeout=10)
        assert of_owner(tmp_path) == []


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
