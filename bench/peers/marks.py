"""When the first job of a run has started: a file, so that any process of a worker can say it."""

import os
import time
from pathlib import Path

_path = Path(os.environ["BENCH_STARTED_FILE"])
_said = False


def started() -> None:
    """Note the Unix time, if nobody has yet. Costs next to nothing from the second time on."""
    global _said  # noqa: PLW0603 - peers want plain functions as tasks
    if not _said:
        _said = True
        try:
            with _path.open("x") as file:
                file.write(repr(time.time()))
        except FileExistsError:
            pass


def first_start() -> float:
    """The Unix time of the first start."""
    return float(_path.read_text())
