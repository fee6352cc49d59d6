"""Where an exception came from, without what it says: its text may quote a payload."""

import traceback
from collections.abc import Iterator
from typing import Final

from headway_core.errors import HeadwayError

CHAIN_MAX: Final = 8
"""Exceptions that are followed: causes, contexts, members of groups."""
FRAMES_MAX: Final = 40
"""Of each, the innermost."""


def stack_of(error: BaseException) -> str:
    """Show the frames and classes of an exception and of what led to it, the cause first.

    Texts stand there for our own errors alone, whose texts hold none of what callers and handlers
    give us. Never raises, whatever class user code has made.
    """
    try:
        return "\n".join(reversed([_shown(each) for each in _chain(error)]))
    except Exception:  # noqa: BLE001 - user code: a class may do anything when it is looked at
        return "(an exception that cannot be shown)"


def class_of(error: BaseException) -> str:
    """Name its class, with its module unless that says nothing. Never raises."""
    kind = type(error)
    try:
        name = str(type.__dict__["__qualname__"].__get__(kind))
        module = str(type.__dict__["__module__"].__get__(kind))
    except Exception:  # noqa: BLE001 - user code: __module__ may be anything
        return "(a class without a name)"
    if module in ("builtins", "__main__", "headway_worker.handler_errors"):
        return name
    return f"{module}.{name}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    todo, seen = [error], set[int]()
    while todo and len(seen) < CHAIN_MAX:
        each = todo.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            todo += each.exceptions[:CHAIN_MAX]
        led_to = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        if led_to is not None:
            todo.append(led_to)


def _shown(error: BaseException) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__, limit=-FRAMES_MAX))
    text = f": {error}" if isinstance(error, HeadwayError) else ""
    return f"{frames}{class_of(error)}{text}"
