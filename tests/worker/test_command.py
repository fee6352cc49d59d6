"""What the process of a supervisor does not load."""

import subprocess
import sys

LOADS = """
import contextlib, sys
from headway_worker.command import main
with contextlib.suppress(SystemExit):
    main(["--help"])
print(*{name.partition(".")[0] for name, module in sys.modules.items() if module})
"""


def test_a_supervisor_leaves_out_what_only_others_need() -> None:
    """Each is some MiB, and a machine has as many supervisors as workers."""
    done = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"headway_worker", "structlog", "aio_pika", "asyncpg"} <= loaded
    assert not loaded & {"rich", "opentelemetry", "prometheus_client", "uvloop", "grpc", "difflib"}
