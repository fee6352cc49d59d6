"""Get a RabbitMQ where there is none: `python -m headway_dev.rabbitmq_install`.

Debian and Ubuntu packages are unpacked into our own cache, which needs no root, and starts no
system service as installing them would. Only where that cannot work is a package installed: by
apt or dnf as root, or by brew.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from headway_dev.errors import DevError, ToolMissing
from headway_dev.rabbitmq_binaries import find_rabbitmq, unpacked_directory

PACKAGE = "rabbitmq-server"
DOWNLOAD_SECONDS = 600
POLICY = Path("/usr/sbin/policy-rc.d")


def ensure_rabbitmq() -> None:
    """Return at once if a RabbitMQ is found; otherwise get one. Raises ToolMissing."""
    with contextlib.suppress(ToolMissing):
        find_rabbitmq()
        return
    problems = []
    for name, is_possible, get in (
        ("unpacking Debian packages", shutil.which("apt-get") and shutil.which("dpkg-deb"), unpack),
        ("apt-get install", _is_root() and shutil.which("apt-get"), install_with_apt),
        ("dnf install", _is_root() and shutil.which("dnf"), install_with_dnf),
        ("brew install", shutil.which("brew"), install_with_brew),
    ):
        if not is_possible:
            continue
        _say(f"no RabbitMQ here; getting one by {name} (once, about 35 MB)")
        try:
            get()
            find_rabbitmq()
            return
        except (subprocess.SubprocessError, OSError, DevError) as error:
            problems.append(f"{name}: {_reason(error)}")
    raise ToolMissing(
        "no RabbitMQ server was found and none could be had"
        + "".join(f"\n  {problem}" for problem in problems)
        + "\ninstall rabbitmq-server, or set HEADWAY_AMQP_URL to one that runs"
    )


def unpack() -> None:
    """Download Debian's packages of RabbitMQ and Erlang and unpack them side by side.

    The result appears as a whole or not at all, and is tried before it is kept.
    """
    target = unpacked_directory()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(target.with_name("rabbitmq.lock")):
        if (target / "root").exists():
            try:
                find_rabbitmq()
                return  # another process was faster
            except ToolMissing:
                shutil.rmtree(target)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="rabbitmq-") as scratch:
            debs = Path(scratch) / "deb"
            root = Path(scratch) / "new" / "root"
            debs.mkdir()
            root.mkdir(parents=True)
            _download(debs, private_lists=Path(scratch) / "apt")
            for deb in sorted(debs.glob("*.deb")):
                _run(["dpkg-deb", "-x", str(deb), str(root)])
            _set_erlang_root(root, target / "root")
            shutil.rmtree(target, ignore_errors=True)
            root.parent.rename(target)
        try:
            _try_erlang(target / "root")
        except subprocess.SubprocessError:
            shutil.rmtree(target)
            raise


def install_with_apt() -> None:
    """Install the package as root, without letting it start a broker of its own."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_service_start():
        _run(["apt-get", "-qq", "update"], environment=environment)
        _run(
            ["apt-get", "-qq", "install", "-y", "--no-install-recommends", PACKAGE],
            environment=environment,
        )


def install_with_dnf() -> None:
    """Install Fedora's package as root; Fedora starts no service by itself."""
    _run(["dnf", "install", "-y", "-q", PACKAGE])


def install_with_brew() -> None:
    """Install Homebrew's package, which starts nothing."""
    _run(["brew", "install", "--quiet", "rabbitmq"])


def main() -> int:
    """Make sure that there is a RabbitMQ; 1 with the reasons if that is impossible."""
    try:
        ensure_rabbitmq()
    except DevError as error:
        _say(str(error))
        return 1
    return 0


def _download(debs: Path, *, private_lists: Path) -> None:
    """Fetch RabbitMQ and every Erlang package it depends on.

    First with the system's package lists; if there are none or they are outdated, with lists of
    our own, which takes a moment more.
    """
    lists = Path("/var/lib/apt/lists")
    if lists.is_dir() and any(lists.glob("*Packages*")):
        with contextlib.suppress(subprocess.SubprocessError, ToolMissing):
            _download_with((), debs)
            return
    state, cache = private_lists / "state", private_lists / "cache"
    (state / "lists" / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    options = (
        *("-o", f"Dir::State={state}", "-o", f"Dir::State::lists={state / 'lists'}"),
        *("-o", f"Dir::Cache={cache}", "-o", "Dir::State::status=/var/lib/dpkg/status"),
        *("-o", "APT::Sandbox::User=", "-o", "Acquire::Languages=none"),
    )
    _run(["apt-get", *options, "-qq", "update"])
    _download_with(options, debs)


def _download_with(options: Sequence[str], debs: Path) -> None:
    unwanted = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    depends = _run(
        [
            *("apt-cache", *options, "depends", "--recurse"),
            *(*(f"--no-{kind}" for kind in unwanted), PACKAGE),
        ]
    )
    # hipe is a dead compiler that some releases still name.
    erlang = sorted(
        {
            line
            for line in depends.splitlines()
            if re.fullmatch(r"erlang-[a-z0-9-]+", line) and "hipe" not in line
        }
    )
    if not erlang:
        raise ToolMissing(f"the package lists know no {PACKAGE}")
    # As root apt would fetch as the user _apt, who may not write here.
    sandbox = ("-o", "APT::Sandbox::User=")
    _run(["apt-get", *sandbox, *options, "-qq", "download", PACKAGE, *erlang], directory=debs)


def _set_erlang_root(root: Path, final: Path) -> None:
    """Correct the one absolute path that Erlang's start scripts have in them."""
    erlang = root / "usr" / "lib" / "erlang"
    for script in (
        *(erlang / "bin").glob("*erl"),
        *erlang.glob("erts-*/bin/erl"),
        *erlang.glob("erts-*/bin/start_erl"),
    ):
        if script.is_file() and not script.is_symlink():
            text = script.read_text(errors="surrogateescape")
            script.write_text(
                text.replace("=/usr/lib/erlang", f"={final}/usr/lib/erlang"),
                errors="surrogateescape",
            )


def _try_erlang(root: Path) -> None:
    """Start it once: that shows missing shared libraries. crypto is the one with most needs."""
    erl = root / "usr" / "lib" / "erlang" / "bin" / "erl"
    _run([str(erl), "-noinput", "-eval", "ok = crypto:start(), halt(0)."])


@contextlib.contextmanager
def _no_service_start() -> Iterator[None]:
    """Debian's way to install without starting: a policy that says no (exit code 101)."""
    if POLICY.exists():
        yield  # the administrator has a policy already
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(
    command: Sequence[str],
    *,
    directory: Path | None = None,
    environment: dict[str, str] | None = None,
) -> str:
    ran = subprocess.run(
        list(command),
        check=True,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DOWNLOAD_SECONDS,
    )
    return ran.stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        return f"{error.cmd[0]} failed with code {error.returncode}: {' '.join(lines[-3:])}"
    return str(error)


def _is_root() -> bool:
    return os.getuid() == 0


def _say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
