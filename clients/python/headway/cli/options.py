"""Options that commands share, and the little languages of their values."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from headway.jobs import JobState

Output = Literal["table", "json", "jsonl"]


class UsageError(Exception):
    """The command line cannot be understood; the message says what to change."""


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options of every command."""

    target: str | None = None
    """HOST:PORT of the server, or several IP:PORT with commas. Else $HEADWAY_TARGET."""

    output: Annotated[Output, Parameter(name=("--output", "-o"))] = "table"
    """table for people (the default), json for one document, jsonl for one object a line."""


DEFAULTS = Common()


def duration(text: str) -> timedelta:
    """`90`, `1.5` (seconds), `10s`, `5m`, `1h30m`, `2d`. Raises UsageError."""
    matched = re.fullmatch(
        r"(?:(?P<days>[\d.]+)d)?(?:(?P<hours>[\d.]+)h)?(?:(?P<minutes>[\d.]+)m)?"
        r"(?:(?P<seconds>[\d.]+)s?)?",
        text.strip().lower(),
    )
    parts = matched.groupdict() if matched and text.strip() else {}
    try:
        numbers = {unit: float(number) for unit, number in parts.items() if number}
        if numbers:
            return timedelta(**numbers)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"{text!r} is no duration; write 90, 10s, 5m, 1h30m or 2d")


def labels(pairs: Iterable[str]) -> dict[str, str]:
    """`key=value` each. Raises UsageError."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"label {pair!r}: write key=value")
        found[key] = value
    return found


def states(words: Sequence[str]) -> tuple[JobState, ...]:
    """Job states in any case. Raises UsageError."""
    known = {str(state): state for state in JobState if state is not JobState.UNKNOWN}
    unknown = [word for word in words if word.upper() not in known]
    if unknown:
        raise UsageError(f"no state {unknown[0]!r}; there are {', '.join(known).lower()}")
    return tuple(known[word.upper()] for word in words)


def json_object(source: str) -> dict[str, object]:
    """A JSON object: the text itself, `@FILE`, or `-` for stdin. Raises UsageError."""
    named = source == "-" or source.startswith("@")
    try:
        text = read(source.removeprefix("@")) if named else source
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise UsageError(f"--json: not JSON: {error}") from error
    except RecursionError as error:
        raise UsageError("--json: is nested too deeply") from error
    if not isinstance(value, dict):
        raise UsageError('--json: a payload is an object, as {"country": "FR"}')
    return value


def read(source: str) -> bytes:
    """A file's bytes; `-` is stdin. Raises UsageError."""
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from error


def _no_constant(name: str) -> object:
    raise ValueError(f"JSON has no {name}")
