"""Find RabbitMQ's own scripts and the Erlang that runs them."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headway_dev.errors import ToolMissing
from headway_dev.places import cache_directory

SCRIPTS_VARIABLE = "HEADWAY_DEV_RABBITMQ_SBIN"
# Not Debian's /usr/sbin/rabbitmq-server: that wrapper wants to be root or rabbitmq.
SYSTEM_PATTERNS = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "/usr/lib/rabbitmq/bin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/opt/rabbitmq/sbin",
)
ERLANG_PATHS = ("/usr/local/bin", "/usr/bin", "/bin", "/opt/homebrew/bin", "/opt/erlang/bin")


@dataclass(frozen=True, slots=True)
class RabbitMqBinaries:
    """The `sbin` directory of a RabbitMQ, the PATH with its Erlang in front, and its epmd."""

    scripts: Path
    path: str
    epmd: Path


def unpacked_directory() -> Path:
    """Return where packages unpacked without root live, whether or not they are there."""
    return cache_directory() / "rabbitmq"


def find_rabbitmq() -> RabbitMqBinaries:
    """Return a RabbitMQ: HEADWAY_DEV_RABBITMQ_SBIN, the system's, or one unpacked into our cache.

    Raises ToolMissing, which says how to get one.
    """
    explicit = os.environ.get(SCRIPTS_VARIABLE)
    if explicit:
        found = _complete(Path(explicit), ERLANG_PATHS)
        if found is None:
            raise ToolMissing(
                f"{SCRIPTS_VARIABLE}={explicit} holds no rabbitmq-server, or there is no Erlang on"
                " PATH; correct or unset it"
            )
        return found
    for scripts, erlang_paths in _candidates():
        found = _complete(scripts, erlang_paths)
        if found is not None:
            return found
    raise ToolMissing(
        "no RabbitMQ server was found: run `make setup`, or install it (apt-get install"
        " rabbitmq-server, brew install rabbitmq, dnf install rabbitmq-server), or set"
        " HEADWAY_AMQP_URL"
    )


def _candidates() -> Iterator[tuple[Path, tuple[str, ...]]]:
    for pattern in SYSTEM_PATTERNS:
        for scripts in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True):
            yield scripts, ERLANG_PATHS
    unpacked = unpacked_directory() / "root" / "usr" / "lib"
    for scripts in sorted(unpacked.glob("rabbitmq/lib/rabbitmq_server-*/sbin"), reverse=True):
        yield scripts, (str(unpacked / "erlang" / "bin"), *ERLANG_PATHS)


def _complete(scripts: Path, erlang_paths: tuple[str, ...]) -> RabbitMqBinaries | None:
    # Ours in front of PATH only if unpacked; else what the user has on PATH wins.
    inherited = os.environ.get("PATH", os.defpath).split(os.pathsep)
    own = [entry for entry in erlang_paths if entry not in ERLANG_PATHS]
    path = os.pathsep.join(dict.fromkeys([*own, *inherited, *ERLANG_PATHS]))
    erl = shutil.which("erl", path=path)
    if not (scripts / "rabbitmq-server").exists() or erl is None:
        return None
    epmd = _find_epmd(Path(erl), path)
    return RabbitMqBinaries(scripts=scripts, path=path, epmd=epmd) if epmd else None


def _find_epmd(erl: Path, path: str) -> Path | None:
    home = erl.resolve().parent.parent
    for candidate in (home / "bin" / "epmd", *sorted(home.glob("erts-*/bin/epmd"), reverse=True)):
        if candidate.exists() and os.access(candidate, os.X_OK):
            return candidate
    found = shutil.which("epmd", path=path)
    return Path(found) if found else None
