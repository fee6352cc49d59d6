"""Start, recognise, freeze and end processes of our own, by recorded pid and never by name."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

OWNER_VARIABLE = "HEADWAY_DEV_OWNER"
LOG_BYTES_MAX = 8 * 1024 * 1024
# A changed system clock moves the start times that the kernel reports; a pid that comes round
# again, for a process with the same marker, within this time is not to be expected.
START_TIME_TOLERANCE_SECONDS = 120.0
STOP_SECONDS_MAX = 2.0
STRAY_PASSES_MAX = 20
"""One finds what another started while it was being looked for."""
# Changing the account in Popen makes it fork where it would vfork, and a fork in a process whose
# other threads are inside gRPC crashes the child more often than not (its handlers run there).
AS_ACCOUNT = """\
import os, sys
uid, gid, *command = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.execv(command[0], command)
"""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """Enough to find a process again, after a restart of our own, and to end it as it wants to be.

    marker is a part of its command line; stop_signal asks it to end; started is Unix time.
    """

    pid: int
    started: float
    marker: str
    stop_signal: int
    stop_seconds: float

    def find(self) -> psutil.Process | None:
        """Return the living process, or None if it ended (or its pid is another process's now)."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            same_start = abs(process.create_time() - self.started) < START_TIME_TOLERANCE_SECONDS
            return process if same_start and self.marker in " ".join(process.cmdline()) else None
        except psutil.NoSuchProcess:
            return None
        except psutil.AccessDenied:  # another user's, hence not ours
            return None


@dataclass(frozen=True, slots=True)
class Account:
    """The system account a process runs under; None stands for our own everywhere."""

    uid: int
    gid: int


def start(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    log: Path,
    owner: Path,
    account: Account | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in its own session (a Ctrl-C is ours alone); its output goes to `log`.

    owner is the directory of services it belongs to, and is told it in its environment.
    """
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.unlink()
    with log.open("ab") as output:
        return subprocess.Popen(
            _under(account, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment, OWNER_VARIABLE: str(owner)},
            start_new_session=True,
        )


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    account: Account | None = None,
    timeout_seconds: float = 60,
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a short command to its end and return its output; any exit code is an answer."""
    return subprocess.run(
        _under(account, command),
        check=False,
        input="" if text is None else text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=dict(environment),
        cwd="/" if account else None,
        timeout=timeout_seconds,
    )


def _under(account: Account | None, command: Sequence[str | Path]) -> list[str]:
    words = [str(part) for part in command]
    if account is None:
        return words
    python = [sys.executable, "-I", "-S", "-c", AS_ACCOUNT]
    return [*python, str(account.uid), str(account.gid), *words]


def describe(
    process: subprocess.Popen[bytes], *, marker: str, stop_signal: int, stop_seconds: float
) -> ProcessRecord:
    """Make the record of a process that was just started."""
    try:
        started = psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:  # it ended at once: its starter will notice
        started = time.time()
    return ProcessRecord(
        pid=process.pid,
        started=started,
        marker=marker,
        stop_signal=stop_signal,
        stop_seconds=stop_seconds,
    )


def stop(record: ProcessRecord) -> None:
    """End a process and all below it: politely, and by SIGKILL once its time is over."""
    process = record.find()
    if process is None:
        return
    family = _family(process)
    _signal(family, signal.SIGCONT)  # a frozen process would not hear the next one
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(record.stop_signal)
    if not _wait([process], seconds=record.stop_seconds):
        family = _family(process) or family
    # What it left behind, and itself if it would not listen.
    _signal(family, signal.SIGKILL)
    _wait(family, seconds=10)


def kill(record: ProcessRecord) -> None:
    """SIGKILL a process and all below it at once, as a crash of the machine would."""
    process = record.find()
    if process is None:
        return
    family = freeze(record)
    _signal(family, signal.SIGKILL)
    _wait(family, seconds=10)


def freeze(record: ProcessRecord) -> list[psutil.Process]:
    """SIGSTOP a process and all below it, until there is none that runs."""
    process = record.find()
    if process is None:
        return []
    family = [process]
    frozen: set[psutil.Process] = set()
    while running := [member for member in family if member not in frozen]:
        _stop(running)
        frozen.update(running)
        family = _family(process)  # one of them may have got a child just before it stood still
    return family


def thaw(record: ProcessRecord) -> None:
    """Let a frozen process go on."""
    process = record.find()
    if process is not None:
        _signal(list(reversed(_family(process))), signal.SIGCONT)


def is_alive(process: psutil.Process) -> bool:
    """Say whether it runs. A zombie does not: it waits for a parent that may be slow to look."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_strays(owner: Path) -> list[str]:
    """SIGKILL all that was started for `owner` and still runs; return what they were called.

    An exception from a signal handler may come between the start of a process and its record, and
    a daemon (the epmd that a node of Erlang starts) leaves the family that it was born into.
    """
    ended: list[str] = []
    for _ in range(STRAY_PASSES_MAX):
        strays = [
            process
            for process in psutil.process_iter(["environ", "name"])
            if (process.info["environ"] or {}).get(OWNER_VARIABLE) == str(owner)
        ]
        if not strays:
            break
        ended += [process.info["name"] for process in strays]
        _signal(strays, signal.SIGKILL)
        _wait(strays, seconds=10)
    return ended


def log_tail(path: Path, *, lines: int = 15) -> str:
    """Return the last lines of a log, for a message about a process that failed."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join("  | " + line for line in text.splitlines()[-lines:]) or "(the log is empty)"


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _stop(family: Sequence[psutil.Process]) -> None:
    """SIGSTOP, and wait: on a busy machine a process runs on until it gets to see its signal."""
    _signal(family, signal.SIGSTOP)
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while any(map(_runs, family)) and time.monotonic() < deadline:
        time.sleep(0.001)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(family: Sequence[psutil.Process], number: int) -> None:
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(number)


def _wait(family: Sequence[psutil.Process], *, seconds: float) -> bool:
    """Wait for all to end; polls, since the children of others cannot be waited for."""
    deadline = time.monotonic() + seconds
    while any(is_alive(member) for member in family):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
