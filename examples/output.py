"""Where the examples put their files: a directory per job, each file whole or not there.

`HEADWAY_EXAMPLES_OUTPUT` (default `./output`) should be a directory that all workers share: a job
may go on elsewhere after a crash, and its result names the files by their absolute path.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headway_worker import Context


def output_directory() -> Path:
    """The directory of all jobs' files, absolute; it may not be there yet."""
    return Path(os.environ.get("HEADWAY_EXAMPLES_OUTPUT", "output")).absolute()


def job_directory(ctx: Context) -> Path:
    """The directory of this job's files, made if missing; the same in every run of the job."""
    directory = output_directory() / str(ctx.job_id)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Lend a path beside `path` to write to; renamed to `path` at the end, removed on an error.

    The name is a new one each time, because a run that was taken for dead may still be writing
    while the next one begins; whichever renames last leaves a whole file. A killed process leaves
    its unfinished file behind, hidden by the leading dot.
    """
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # a completed job's file survives a power cut, like the job
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
