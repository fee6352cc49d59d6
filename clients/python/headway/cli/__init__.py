"""The `headway` command."""

import os
import sys
from collections.abc import Sequence

from headway.cli import plugins
from headway.cli.arguments import split, target

MISSING = "the headway command needs two more packages; run: pip install 'headway[cli]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code (see `headway.cli.exits`).

    Commands of the server, the worker and the tools are found among the entry points and get their
    arguments as they are; they need neither cyclopts nor rich.
    """
    leading, rest = split(sys.argv[1:] if arguments is None else arguments)
    if rest == ["--version"]:
        from headway import __version__

        print(f"headway {__version__}")
        return 0
    if rest and rest[0] in plugins.COMMANDS:
        return plugins.run(rest[0], rest[1:], target=target(leading))
    try:
        import cyclopts  # noqa: F401 - only to see whether it is there
        import rich  # noqa: F401
    except ModuleNotFoundError:
        print(MISSING, file=sys.stderr)
        return 2
    # gRPC's own log lines would end up between the messages for people.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from headway.cli.app import run

    # Global options may stand in front of the command; the commands themselves take them.
    return run([*rest[:1], *leading, *rest[1:]] if rest else leading)
