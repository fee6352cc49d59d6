"""A small disk of PostgreSQL's own, to be filled to the last byte."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from headway_dev.places import shared_temporary

DISK = "224m"
"""A new cluster takes about 90 MiB with its log."""


def why_not() -> str:
    """Why no small disk can be had here; nothing if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux may mount a small disk"
    try:
        with small_disk():
            return ""
    except subprocess.CalledProcessError as error:
        return f"no small disk can be mounted: {error.stderr.decode().strip()}"


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """A file system in memory, of so many bytes, that everybody may walk through."""
    point = Path(tempfile.mkdtemp(prefix="headway-disk-", dir=shared_temporary()))
    options = f"size={DISK},mode=0711"
    try:
        _run("mount", "-t", "tmpfs", "-o", options, "headway-test", str(point))
        try:
            yield point
        finally:
            _run("umount", "-l", str(point))
    finally:
        point.rmdir()


def fill(disk: Path) -> Path:
    """Write a file until the kernel says that the disk is full; return it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(65_536)):
            pass
    space = os.statvfs(disk)
    assert space.f_bavail * space.f_frsize < 65_536, "the disk is not full"
    return ballast


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)
