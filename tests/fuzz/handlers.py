"""Handlers that mean harm, or that nobody has thought through."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn

from headway_worker import Context, Jobs, PermanentError, RetryLater
from tests.end_to_end.handlers import appearance

jobs = Jobs()
HASTE = timedelta(milliseconds=20)
SURROGATE = "\ud800"


class Mute(Exception):
    """Its text cannot be read."""

    def __str__(self) -> str:
        raise KeyError("no text")


class Exits(Exception):
    """To read its text ends the program."""

    def __str__(self) -> str:  # noqa: PLE0307
        sys.exit(7)


class Endless(Exception):
    """To read its text takes all of the stack."""

    def __str__(self) -> str:
        return str(self)


class Odd(Exception):
    """Its module is no text, and its text none either."""

    __module__ = ["odd"]  # type: ignore[assignment]  # noqa: RUF012

    def __str__(self) -> str:
        return b"bytes"  # type: ignore[return-value]  # noqa: PLE0307


class SlyText(str):  # noqa: SLOT000
    """A text that breaks who cuts or encodes it."""

    def __getitem__(self, _: object) -> NoReturn:
        raise KeyError("no part")

    def encode(self, *_: object) -> NoReturn:  # type: ignore[override]
        raise KeyError("no bytes")


class SlyDict(dict[str, object]):
    """A dict that breaks who looks into it."""

    def items(self) -> NoReturn:  # type: ignore[override]
        raise KeyError("no items")

    def __iter__(self) -> Iterator[str]:
        raise KeyError("no keys")


class SlyClass:
    """Its class cannot be asked for."""

    @property  # type: ignore[misc]
    def __class__(self) -> NoReturn:
        raise KeyError("no class")


class SlyNumber(int):
    """A number that breaks who compares it."""

    def __abs__(self) -> NoReturn:
        raise KeyError("no size")


def itself() -> dict[str, object]:
    found: dict[str, object] = {}
    found["self"] = found
    return found


def deep() -> dict[str, object]:
    found: dict[str, object] = {}
    for _ in range(100_000):
        found = {"k": found}
    return found


def chained() -> NoReturn:
    """A cause that is its own cause."""
    error = ValueError("x" * 1_000_000)
    error.__cause__ = RuntimeError(SURROGATE)
    error.__cause__.__cause__ = error
    raise error


def later_than_ever() -> NoReturn:
    error = RetryLater(1)
    error.after = "soon"  # type: ignore[assignment]
    raise error


def raising(error: Callable[[], BaseException]) -> Callable[[], NoReturn]:
    def function() -> NoReturn:
        raise error()

    return function


RESULTS: dict[str, Callable[[], object]] = {
    "a list": lambda: [1],
    "a text": lambda: "text",
    "a number": lambda: 1,
    "an object": object,
    "a class": lambda: SlyClass,
    "half a character": lambda: {"a": SURROGATE},
    "half a character as a key": lambda: {SURROGATE: 1},
    "a key that is a number": lambda: {1: 1},
    "a number that is none": lambda: {"a": float("nan")},
    "a whole number too large": lambda: {"a": 10**400},
    "itself": itself,
    "very deep": deep,
    "very large": lambda: {"a": "x" * 5_000_000},
    "large bytes": lambda: b"x" * 300_000,
    "a generator": lambda: (number for number in range(3)),
    "an exception": lambda: ValueError("returned"),
    "a dict that breaks": lambda: SlyDict(a=1),
    "a class that breaks": SlyClass,
    "a number that breaks": lambda: {"a": SlyNumber(3)},
    "a set inside": lambda: {"a": {1}},
}
"""Each is DEAD at once: another run would end the same way."""

ERRORS: dict[str, Callable[[], object]] = {
    "half a character": raising(lambda: ValueError(SURROGATE)),
    "a NUL": raising(lambda: ValueError("a\0b")),
    "a text of 10 MB": raising(lambda: ValueError("é" * 5_000_000)),
    "a text that raises": raising(Mute),
    "a text that exits": raising(Exits),
    "a text without an end": raising(Endless),
    "a text that is none": raising(Odd),
    "a text that breaks": raising(lambda: ValueError(SlyText("a" * 9_000))),
    "a group": raising(lambda: ExceptionGroup("g", [ValueError("1"), Mute()])),
    "a group without an end": raising(lambda: BaseExceptionGroup("g", [Exits(), SystemExit(3)])),
    "a chain without an end": chained,
    "an exit": raising(lambda: SystemExit(9)),
    "an interrupt": raising(KeyboardInterrupt),
    "a cancellation": raising(asyncio.CancelledError),
    "a stopped iteration": raising(StopIteration),
    "no memory": raising(MemoryError),
    "the end of the stack": raising(RecursionError),
    "a retry that is wrong": raising(lambda: RetryLater("soon")),  # type: ignore[arg-type]
    "a retry that was changed": later_than_ever,
    "a class with a long name": raising(lambda: type("E" * 100_000, (Exception,), {})("x")),
    "a class with half a name": raising(lambda: type("a\0b", (Exception,), {})("x")),
    "for good": raising(lambda: PermanentError(SURROGATE * 5_000)),
}
"""Each fails its attempt."""


def act(ctx: Context, payload: dict[str, Any]) -> Any:
    """Do what the payload names."""
    ctx.progress(SlyNumber(1), 10**400, step=SURROGATE, message="x" * 100_000)  # type: ignore[arg-type]
    kind, _, how = payload["how"].partition(": ")
    return (RESULTS if kind == "result" else ERRORS)[how]()


@jobs.handler("hostile.loop", max_attempts=2, initial_backoff=HASTE)
async def hostile_on_the_loop(ctx: Context, payload: dict[str, Any]) -> Any:
    return act(ctx, payload)


@jobs.handler("hostile.thread", max_attempts=2, initial_backoff=HASTE)
def hostile_in_a_thread(ctx: Context, payload: dict[str, Any]) -> Any:
    return act(ctx, payload)


@jobs.handler("hostile.child", max_attempts=2, initial_backoff=HASTE, isolation="process")
def hostile_in_a_child(ctx: Context, payload: dict[str, Any]) -> Any:
    return act(ctx, payload)


@jobs.handler("hostile.step", max_attempts=2, initial_backoff=HASTE)
async def hostile_in_a_step(ctx: Context, payload: dict[str, Any]) -> Any:
    return await ctx.step("one", lambda: act(ctx, payload))


@jobs.handler("echo")
async def echo(ctx: Context, payload: dict[str, Any]) -> Any:
    return {**payload, "pid": os.getpid()}


@jobs.handler("hand_back")
async def hand_back(ctx: Context, payload: Any) -> Any:
    return payload


@jobs.handler("hold")
async def hold(ctx: Context, payload: dict[str, Any]) -> None:
    """Run until a file is there."""
    ctx.progress(1, 2)
    await appearance(payload["until"])


@jobs.handler("fails", initial_backoff=timedelta(days=1))
async def fails(ctx: Context, payload: dict[str, Any]) -> None:
    raise ConnectionResetError("not yet")
