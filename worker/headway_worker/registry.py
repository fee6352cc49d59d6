"""The handlers of a worker, by the type of job they run."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

from headway_core.job import DEFAULT_QUEUE, RetryPolicy

MAX_ATTEMPTS_MAX: Final = 1_000
BACKOFF_MAX: Final = timedelta(days=7)
MULTIPLIER_MAX: Final = 100.0
TIMEOUT_MAX: Final = timedelta(days=365)
MEMORY_BYTES_MIN: Final = 64 * 2**20
"""Less than this does not even hold the interpreter and its libraries."""

TYPE_PATTERN: Final = re.compile(r"[a-z0-9._-]{1,128}")
QUEUE_PATTERN: Final = re.compile(r"[a-z0-9_-]{1,64}")

HandlerFunction = Callable[..., Any]
"""`(ctx, payload) -> result`, `def` or `async def`."""

Function = TypeVar("Function", bound=HandlerFunction)


@dataclass(frozen=True, slots=True)
class Handler:
    """A function and how its jobs are to be run."""

    type: str
    queue: str
    function: HandlerFunction
    is_async: bool
    """Whether it is to be awaited."""
    policy: RetryPolicy
    timeout: timedelta | None
    isolated: bool
    """Each run in a child process of its own."""
    memory_bytes_max: int | None
    """Address space of such a child."""


class Jobs:
    """A set of handlers, which a worker is pointed to as MODULE:JOBS.

    For example:

        jobs = Jobs()

        @jobs.handler("report.pdf", timeout=timedelta(minutes=10))
        async def report(ctx: Context, payload: dict) -> dict: ...
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def handler(
        self,
        type: str,  # noqa: A002 - the field's own name
        *,
        queue: str = DEFAULT_QUEUE,
        max_attempts: int | None = None,
        timeout: timedelta | None = None,
        initial_backoff: timedelta | None = None,
        max_backoff: timedelta | None = None,
        multiplier: float | None = None,
        isolation: Literal["process"] | None = None,
        memory_bytes_max: int | None = None,
    ) -> Callable[[Function], Function]:
        """Make a function `(ctx, payload)` the handler of a type.

        What is None here takes the default; what a submit gives goes before both. An `async def`
        runs on the executor's loop, a `def` in a thread, and with `isolation="process"` either
        runs alone in a child process, which is killed when its timeout has passed. `timeout`
        bounds one attempt (default: none), `max_attempts` is 1 to 1,000, backoffs are at most 7
        days, `multiplier` is 1 to 100. `memory_bytes_max` (with isolation only, at least 64 MiB)
        bounds the child's address space: beyond it the handler gets a MemoryError.

        Raises ValueError if any of it cannot be, TypeError for what is no function.
        """
        problems = list(
            _problems(
                {
                    "type": (type, TYPE_PATTERN),
                    "queue": (queue, QUEUE_PATTERN),
                },
                {
                    "max_attempts": (max_attempts, 1, MAX_ATTEMPTS_MAX),
                    "timeout": (timeout, timedelta(milliseconds=1), TIMEOUT_MAX),
                    "initial_backoff": (initial_backoff, timedelta(0), BACKOFF_MAX),
                    "max_backoff": (max_backoff, timedelta(0), BACKOFF_MAX),
                    "multiplier": (multiplier, 1.0, MULTIPLIER_MAX),
                    "memory_bytes_max": (memory_bytes_max, MEMORY_BYTES_MIN, 2**63 - 1),
                },
            )
        )
        if isolation not in (None, "process"):
            problems.append(f"isolation is {isolation!r}; it is None or 'process'")
        if memory_bytes_max is not None and isolation is None:
            problems.append(
                "memory_bytes_max bounds a child process; isolation='process' makes one"
            )
        if problems:
            raise ValueError(f"handler {type!r}: " + "; ".join(problems))

        def register(function: Function) -> Function:
            _check_function(type, function)
            self._add(
                Handler(
                    type=type,
                    queue=queue,
                    function=function,
                    is_async=is_async(function),
                    policy=RetryPolicy(max_attempts, initial_backoff, max_backoff, multiplier),
                    timeout=timeout,
                    isolated=isolation == "process",
                    memory_bytes_max=memory_bytes_max,
                )
            )
            return function

        return register

    def include(self, other: "Jobs") -> None:
        """Take over all handlers of another set. Raises ValueError if both have one for a type."""
        for handler in other.handlers.values():
            self._add(handler)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The handlers by type, as they are now."""
        return MappingProxyType(self._handlers)

    def _add(self, handler: Handler) -> None:
        known = self._handlers.get(handler.type)
        if known is not None and known is not handler:
            raise ValueError(
                f"two handlers for type {handler.type!r}: {_name(known.function)} "
                f"and {_name(handler.function)}"
            )
        self._handlers[handler.type] = handler


def is_async(function: HandlerFunction) -> bool:
    """Whether calling it gives a coroutine; sees through partials and callable objects."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - its kind is asked, not whether it is there
    )


def _check_function(type: str, function: object) -> None:  # noqa: A002 - the field's own name
    if not callable(function):
        raise TypeError(f"handler {type!r}: {function!r} is not a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"handler {type!r}: {_name(function)} is a generator; return the result, "
            "and report progress by ctx.progress"
        )


def _problems(
    names: Mapping[str, tuple[object, re.Pattern[str]]],
    bounds: Mapping[str, tuple[Any, Any, Any]],
) -> list[str]:
    problems = []
    for name, (value, pattern) in names.items():
        if not isinstance(value, str) or not pattern.fullmatch(value):
            problems.append(f"{name} is {value!r}; it is {pattern.pattern}")
    for name, (value, least, most) in bounds.items():
        if value is None:
            continue
        wanted: type | tuple[type, ...] = (int, float) if isinstance(least, float) else type(least)
        if isinstance(value, bool) or not isinstance(value, wanted):
            problems.append(f"{name} is {value!r}; it is a {type(least).__name__}")
        elif not least <= value <= most:
            problems.append(f"{name} is {value}; it is {least} to {most}")
    return problems


def _name(function: HandlerFunction) -> str:
    module = getattr(function, "__module__", "?")
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"
