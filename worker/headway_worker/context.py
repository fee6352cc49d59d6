"""What a handler is given beside its payload."""

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from headway_core.content import Content
from headway_worker.handler_errors import JobCancelled, PermanentError
from headway_worker.progress import ProgressMeter
from headway_worker.registry import is_async
from headway_worker.values import step_content, stored_value

STEP_NAME_CHARACTERS_MAX: Final = 200

Result = TypeVar("Result")


class Steps(Protocol):
    """Where the results of a run's steps are; the futures may be waited for in any thread."""

    def recall(self, name: str) -> Future[Content | None]:
        """Find the result of a step that was finished before; None: it may begin now.

        Waits while this worker may begin nothing. The future is cancelled if the run is to end.
        """

    def store(self, name: str, result: Content) -> Future[Any]:
        """Store a result for good. The future is cancelled if the run was lost."""


class Context:
    """One run of a job, as its handler sees it. All but `step` may be used from any thread."""

    def __init__(
        self,
        *,
        job_id: UUID,
        attempt: int,
        type: str,  # noqa: A002 - the field's own name
        labels: Mapping[str, str],
        steps: Steps,
        meter: ProgressMeter,
        cancelled: Callable[[], bool],
        span: Callable[[str], AbstractContextManager[object]],
        logger: Any,
        blocking: bool,
    ) -> None:
        self.job_id = job_id
        self.attempt = attempt
        """1 + the attempts that were charged: a run that cost nothing repeats its number."""
        self.type = type
        self.labels = labels
        """The caller's own words."""
        self.logger = logger
        """structlog; its lines carry the job, and land where the worker's do."""
        self._steps = steps
        self._meter = meter
        self._cancelled = cancelled
        self._span = span
        self._blocking = blocking
        self._loop_locks: dict[str, asyncio.Lock] = {}
        self._thread_locks: dict[str, threading.Lock] = {}

    @property
    def cancelled(self) -> bool:
        """Whether the run is to end: someone cancelled the job, its time is up, its worker leaves,
        or the job is run elsewhere by now. Cheap enough for any loop.
        """
        return self._cancelled()

    def raise_if_cancelled(self) -> None:
        """Raise JobCancelled if the run is to end."""
        if self._cancelled():
            raise JobCancelled("the run is to end")

    def idempotency_key(self, step: str) -> str:
        """A key that is the same in every run of the job: give it to services you call."""
        return f"{self.job_id}:{step}"

    def progress(
        self,
        done: float | None = None,
        total: float | None = None,
        *,
        fraction: float | None = None,
        step: str | None = None,
        message: str | None = None,
    ) -> None:
        """Tell how far the run has come: `done` of `total` units, or a `fraction` of 0 to 1.

        Call it as often as you like, from any thread: it never blocks and never fails. What is None
        stays as it was; a new `step` starts afresh.
        """
        self._meter.report(done, total, fraction=fraction, step=step, message=message)

    def step(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Do a part of the job once: its result is stored, and later runs of the job get it back.

        Awaitable in an `async def` handler, a plain call in a `def` one; `function` may be either
        kind in both, and a `def` one runs in a thread. `name` is unique within the job, 1 to 200
        characters. The result is any JSON value, bytes or a Protobuf message, and comes back as it
        was stored: tuples as lists. At least once: a process may die between the function's end
        and the commit. See `idempotency_key` for what must not happen twice.
        """
        check_step_name(name)
        call = partial(function, *args)
        return self._step_blocking(name, call) if self._blocking else self._step(name, call)

    async def _step(self, name: str, call: Callable[[], Any]) -> object:
        # Two at once with the same name: the second gets the first one's result.
        async with self._loop_locks.setdefault(name, asyncio.Lock()):
            stored = await asyncio.wrap_future(self._steps.recall(name))
            if stored is None:
                with self._span(name):
                    value = await (call() if is_async(call) else _in_thread(call))
                    if inspect.isawaitable(value):
                        value = await value
                stored = step_content(value, step=name)
                await asyncio.wrap_future(self._steps.store(name, stored))
            return stored_value(stored)

    def _step_blocking(self, name: str, call: Callable[[], Any]) -> object:
        with self._thread_locks.setdefault(name, threading.Lock()):
            stored = _waited(self._steps.recall(name))
            if stored is None:
                with self._span(name):
                    value = call()
                    if inspect.isawaitable(value):
                        value = asyncio.run(_awaited(value))
                stored = step_content(value, step=name)
                _waited(self._steps.store(name, stored))
            return stored_value(stored)


def check_step_name(name: object) -> None:
    """Raise PermanentError if no step can be called so."""
    if not isinstance(name, str) or not 0 < len(name) <= STEP_NAME_CHARACTERS_MAX:
        raise PermanentError(f"step name {name!r:.80} is not 1 to 200 characters")
    if not name.isprintable():
        raise PermanentError(f"step name {name!r:.80} has characters that cannot be printed")


def _waited(future: Future[Result]) -> Result:
    try:
        return future.result()
    except FutureCancelled:
        raise JobCancelled("the run is to end") from None


async def _in_thread(call: Callable[[], Any]) -> object:
    """Run it in a thread of the loop's own pool, and see it end whatever happens.

    A thread cannot be stopped. Left behind it would still be at work when the job runs anew, so a
    cancelled step ends when its thread does; one that never does is a case for the watchdog.
    """
    context = contextvars.copy_context()
    work = asyncio.get_running_loop().run_in_executor(None, context.run, _called, call)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def _called(call: Callable[[], Any]) -> object:
    try:
        return call()
    except StopIteration as error:  # which no future takes: whoever waits for it waits for ever
        raise RuntimeError("the step raised StopIteration") from error


async def _awaited(value: Awaitable[object]) -> object:
    return await value
