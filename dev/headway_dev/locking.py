"""One owner at a time for a directory of private services."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from headway_dev.errors import DirectoryBusy, DirectoryUnusable
from headway_dev.processes import is_alive

LOCK_FILE = "lock"
# How long the guardian of a dead owner may need to end its services.
GUARDIAN_SECONDS = 60.0


@contextlib.contextmanager
def directory_lock(directory: Path, *, patience_seconds: float = GUARDIAN_SECONDS) -> Iterator[int]:
    """Own a directory, which is made if absent; yields the lock's descriptor.

    The lock is `flock`, so it ends with its last holder, however that dies. A dead owner's guardian
    holds it too until all is cleaned up: that is waited for. Raises DirectoryBusy when the owner
    lives, DirectoryUnusable when there is no such directory to be had.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DirectoryUnusable(
            f"{directory} cannot be used: {error.strerror}; choose another directory"
        ) from error
    try:
        _acquire(descriptor, directory, patience_seconds=patience_seconds)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, directory: Path, *, patience_seconds: float) -> None:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
        alive = owner.isdigit() and _lives(int(owner))
        if alive or time.monotonic() > deadline:
            raise DirectoryBusy(
                f"{directory} is in use by process {owner or 'unknown'};"
                " stop that one, or choose another directory"
            )
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False
