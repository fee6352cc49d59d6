"""The tree of commands, and what becomes of everything that can go wrong in one."""

import os
import sys
from io import TextIOWrapper

from cyclopts import App, CycloptsError, Group, Parameter

from headway.cli import plugins
from headway.cli.arguments import target
from headway.cli.exits import Exit, describe, of_error
from headway.cli.options import UsageError
from headway.errors import HeadwayError, InvalidTarget

HELP = "Submit long jobs, watch them live, fetch what they return."
EPILOGUE = (
    "Exit codes: 0 completed, 1 died, 2 usage, 3 cancelled, 4 not found, 5 unreachable or denied, "
    "124 timeout, 130 Ctrl-C (the job goes on)."
)

JOBS = Group("Jobs", sort_key=0)
DEAD = Group("Dead letters", sort_key=1)
SERVICE = Group("Service", sort_key=2)

_COMMANDS = (
    # Modules are imported when their command runs: `headway --help` needs neither them nor gRPC.
    ("submit", "headway.cli.submit:submit", JOBS, "Submit a job and print its ID."),
    ("watch", "headway.cli.follow:watch", JOBS, "Watch jobs live until they are done."),
    ("wait", "headway.cli.follow:wait", JOBS, "Wait quietly until jobs are done."),
    ("result", "headway.cli.follow:result", JOBS, "Wait for a job and print what it returned."),
    ("get", "headway.cli.read:get", JOBS, "Show a job."),
    ("list", "headway.cli.read:list_jobs", JOBS, "List jobs, newest first."),
    ("cancel", "headway.cli.change:cancel", JOBS, "Cancel jobs."),
    ("replay", "headway.cli.change:replay", DEAD, "Bring dead jobs back."),
)


def build() -> App:
    """The commands of the client, and the names of those that other packages bring."""
    app = App(
        name="headway",
        help=HELP,
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version_flags=[],
        default_parameter=Parameter(negative=(), show_default=False),
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for order, (name, path, group, words) in enumerate(_COMMANDS):
        app.command(path, name=name, group=group, help=words, sort_key=order)
    dead = App(name="dead", group=DEAD, help="Look at dead letters.", version_flags=[])
    dead.command("headway.cli.read:dead_list", name="list", help="List dead letters, or groups.")
    app.command(dead)
    for name, words in plugins.COMMANDS.items():
        app.command("headway.cli.plugins:run", name=name, group=SERVICE, help=words)
    for flag in app.help_flags:
        app[flag].show = False  # a panel of its own for what every command has
    return app


def run(arguments: list[str]) -> int:
    """Run a command; what it raises becomes a line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # rather that than no word at all
    app = build()
    try:
        code = app(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        return _say(Exit.USAGE, f"{error} (see `headway {_command(arguments)}--help`)")
    except HeadwayError as error:
        return _say(of_error(error), describe(error, _target(arguments)))
    except UsageError as error:
        return _say(Exit.USAGE, str(error))
    except InvalidTarget as error:
        return _say(Exit.USAGE, str(error))
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Nobody reads any more (`| head`). Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    return int(code or 0)


def _say(code: Exit, message: str) -> int:
    print(f"headway: {message}", file=sys.stderr)
    return code


def _target(arguments: list[str]) -> str:
    from headway.channel import resolve

    return resolve(target(arguments))


def _command(arguments: list[str]) -> str:
    """The command's words, each followed by a space."""
    known = {name for name, *_ in _COMMANDS}
    if arguments[:2] == ["dead", "list"]:
        return "dead list "
    return f"{arguments[0]} " if arguments[:1] and arguments[0] in known else ""
