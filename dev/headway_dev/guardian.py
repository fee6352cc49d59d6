"""The process that outlives us by a moment and ends our services if we could not.

`python -m headway_dev.guardian DIRECTORY` waits for the end of its standard input, a pipe whose
other end only the owner holds. However the owner dies, the pipe ends; what state.json then still
lists is stopped. It inherits the owner's lock of the directory, so that the next run starts only
when it is done. Portable, and unlike PR_SET_PDEATHSIG not tied to the thread that started a child.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from headway_dev.leftovers import stop_leftovers
from headway_dev.locking import GUARDIAN_SECONDS
from headway_dev.state import State


class Guardian:
    """The owner's handle on its guardian."""

    def __init__(self, directory: Path, *, lock: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headway_dev.guardian", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[lock],
            cwd="/",
        )

    def dismiss(self) -> None:
        """Let it go once everything is stopped; it ends what was forgotten and then itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=GUARDIAN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main(directory: str) -> None:
    """Wait for the owner's end, then for that of its services."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    stop_leftovers(State.load(Path(directory)))


if __name__ == "__main__":
    main(sys.argv[1])
