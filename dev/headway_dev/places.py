"""Where private services and their binaries live, and under which account."""

import hashlib
import os
import pwd
import stat
import tempfile
from pathlib import Path

from headway_dev.errors import DevError
from headway_dev.processes import Account


def cache_directory() -> Path:
    """Return the user's cache, made if absent: HEADWAY_DEV_CACHE_DIR, else one in ~/.cache."""
    explicit = os.environ.get("HEADWAY_DEV_CACHE_DIR")
    if explicit:
        wanted = Path(explicit).absolute()
    elif os.environ.get("XDG_CACHE_HOME"):
        wanted = Path(os.environ["XDG_CACHE_HOME"]).absolute() / "headway"
    else:
        wanted = Path("~/.cache/headway").expanduser()
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        if os.access(wanted, os.W_OK):
            return wanted
    except OSError:
        pass
    # Accounts such as `nobody` have no home.
    return owned_directory(shared_temporary() / f"headway-cache-{os.getuid()}", mode=0o755)


def shared_temporary() -> Path:
    """Return the temporary directory that survives a reboot, where there is one."""
    lasting = Path("/var/tmp")  # noqa: S108 - names in it are checked by owned_directory
    return lasting if lasting.is_dir() else Path(tempfile.gettempdir())


def owned_directory(path: Path, *, mode: int) -> Path:
    """Make a directory in a place that others may write to, or check that it is ours already."""
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise DevError(f"{path} belongs to somebody else; remove it") from None
    path.chmod(mode)
    return path


def unprivileged_account() -> Account | None:
    """Return whom to run PostgreSQL as: ourselves, or if we are root `postgres` or `nobody`."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(uid=entry.pw_uid, gid=entry.pw_gid)
    return Account(uid=65534, gid=65534)


def is_reachable_by_others(path: Path) -> bool:
    """Say whether an account that owns none of it can walk down to this directory."""
    path = path.resolve()
    return all(
        directory.stat().st_mode & stat.S_IXOTH
        for directory in [path, *path.parents]
        if directory.exists()
    )


def short_hash(path: Path) -> str:
    """Return 8 hex digits that stand for a directory."""
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
