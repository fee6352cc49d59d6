"""End what a crashed run left running.

As a program, `python -m headway_dev.leftovers DIRECTORY…` does it for each directory of private
services found there or one level below, unless a living process owns it.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from headway_dev import processes
from headway_dev.errors import DirectoryBusy
from headway_dev.locking import directory_lock
from headway_dev.state import STATE_FILE, State


def stop_leftovers(state: State) -> list[str]:
    """End every recorded process that still runs, the last started first, and then the strays.

    Returns their names.
    """
    found = []
    for name, record in reversed(list(state.processes.items())):
        if record.find() is not None:
            found.append(name)
            processes.stop(record)
        state.forget(name)
    return found + processes.end_strays(state.path.parent)


def main(directories: Sequence[str]) -> int:
    """Clean up the directories; say which one is in use."""
    exit_code = 0
    for name in directories:
        directory = Path(name).absolute()  # as processes know their owner
        for path in [directory, *sorted(directory.glob("*/"))]:
            if not (path / STATE_FILE).exists():
                continue
            try:
                with directory_lock(path):
                    for ended in stop_leftovers(State.load(path)):
                        print(f"ended {ended} of {path}", file=sys.stderr)
            except DirectoryBusy as error:
                print(error, file=sys.stderr)
                exit_code = 1
    return exit_code


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
