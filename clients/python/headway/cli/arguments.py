"""The parts of a command line that concern every command, read without cyclopts."""

from collections.abc import Sequence

GLOBAL_OPTIONS = ("--target", "--output", "-o")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The global options in front of the command, and everything from the command on."""
    position = 0
    while position < len(arguments):
        name, equals, _ = arguments[position].partition("=")
        if name not in GLOBAL_OPTIONS:
            break
        position += 1 if equals else 2
    return list(arguments[:position]), list(arguments[position:])


def target(arguments: Sequence[str]) -> str | None:
    """What `--target X` or `--target=X` says."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--target":
            return value if equals else next(iter(arguments[position + 1 :]), None)
    return None
