"""Bring a database's schema up to date the way a user does: by running the migrations."""

import os
import subprocess
import sys

from headway_dev.errors import DevError

MIGRATE = "import sys; from headway_core.migrate import main; sys.exit(main([]))"
MIGRATE_SECONDS = 120


def migrate(database_url: str) -> None:
    """Run every migration that this database lacks, in a process of its own (0.4 s).

    Raises DevError with what it printed.
    """
    ran = subprocess.run(
        [sys.executable, "-c", MIGRATE],
        check=False,
        env={**os.environ, "HEADWAY_DATABASE_URL": database_url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MIGRATE_SECONDS,
    )
    if ran.returncode != 0:
        raise DevError(f"the migrations failed:\n{ran.stdout[-4000:]}")
