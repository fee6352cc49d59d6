"""Commands that other parts of Headway bring: entry points of the group `headway.commands`.

Each is `main(arguments) -> int`. The client package imports none of those parts, and an extra that
is not installed is told apart from a defect inside one that is.
"""

import os
import re
import sys

GROUP = "headway.commands"

COMMANDS = {
    "dev": "Run everything on this machine: private services, server, workers.",
    "demo": "See Headway at work, with live progress and a crash or two.",
    "server": "Serve the gRPC API.",
    "worker": "Run handlers: headway worker MODULE:JOBS.",
    "migrate": "Bring the database schema up to date.",
    "doctor": "Check settings, services and connections.",
    "trace": "Draw the trace of a job.",
}
"""By name, what a command does; a name may be without an entry point."""
EXTRAS = {
    "dev": "demo",
    "demo": "demo",
    "server": "server",
    "worker": "worker",
    "migrate": "server",
    "doctor": "demo",
    "trace": "cli",
}
"""By command, the extra that brings what it needs."""


def run(name: str, arguments: list[str], *, target: str | None = None) -> int:
    """Run the command called `name`; exit code 2 if it is not installed."""
    from importlib.metadata import entry_points

    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None:
        return _refuse(f"this installation has no `headway {name}`")
    try:
        command = found.load()
    except ModuleNotFoundError as error:
        missing = missing_packages(EXTRAS[name])
        if not missing:
            raise  # everything is installed: the import fails by a defect
        extra = EXTRAS[name]
        return _refuse(
            f"`headway {name}` needs {', '.join(missing)} (no module {error.name!r} here); "
            f"run: pip install 'headway[{extra}]'"
        )
    if target is not None:
        os.environ["HEADWAY_TARGET"] = target
    code = command(arguments)
    return int(code or 0)


def missing_packages(extra: str) -> list[str]:
    """Distributions that an extra of ours asks for and that are not installed."""
    return [name for name in required_packages(extra) if not _is_installed(name)]


def required_packages(extra: str) -> list[str]:
    """Distributions that an extra asks for; `headway[other]` among them is followed."""
    from importlib.metadata import distribution

    requirements = distribution("headway").requires or []
    names: list[str] = []
    waiting, seen = [extra], {extra}
    while waiting:
        marker = re.compile(rf"""extra\s*==\s*['"]{re.escape(waiting.pop())}['"]""")
        for requirement in requirements:
            if not marker.search(requirement):
                continue
            matched = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?", requirement)
            assert matched is not None
            name, extras = matched.groups()
            if name != "headway":
                names.append(name)
                continue
            more = {item.strip() for item in extras.split(",")} - seen
            seen |= more
            waiting += sorted(more)
    return sorted(set(names))


def _is_installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _refuse(message: str) -> int:
    print(f"headway: {message}", file=sys.stderr)
    return 2
