"""`headway worker`: the entry point of a process that runs no user code."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run a worker; see `headway_worker.app`."""
    # structlog loads it where it is installed, for tracebacks in colours: 4 MiB.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    from headway_worker.app import main as run

    return run(arguments)
