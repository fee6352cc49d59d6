"""A handler that cannot work is refused where it is written."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from headway_core.job import RetryPolicy
from headway_core.leases import HandlerType
from headway_worker import Context, Jobs
from headway_worker.engine import registrations
from headway_worker.loading import NotLoadable, load_jobs
from headway_worker.registry import is_async


def handle(ctx: Context, payload: dict[str, Any]) -> None:
    """Do nothing."""


async def handle_async(ctx: Context, payload: dict[str, Any]) -> None:
    """Do nothing."""


def test_a_handler_is_registered_with_its_policy() -> None:
    jobs = Jobs()
    registered = jobs.handler(
        "report.pdf",
        queue="slow",
        max_attempts=3,
        timeout=timedelta(minutes=1),
        initial_backoff=timedelta(seconds=2),
        max_backoff=timedelta(seconds=8),
        multiplier=3,
        isolation="process",
    )(handle)
    assert registered is handle
    handler = jobs.handlers["report.pdf"]
    assert handler.isolated
    assert registrations(jobs)[0] == HandlerType(
        "report.pdf",
        "slow",
        RetryPolicy(3, timedelta(seconds=2), timedelta(seconds=8), 3),
        timedelta(minutes=1),
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"type": "Report"}, "type"),
        ({"type": "r" * 129}, "type"),
        ({"queue": "a.b"}, "queue"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"max_attempts": 1.5}, "max_attempts"),
        ({"timeout": timedelta(0)}, "timeout"),
        ({"timeout": 5}, "timeout"),
        ({"initial_backoff": timedelta(days=8)}, "initial_backoff"),
        ({"max_backoff": timedelta(seconds=-1)}, "max_backoff"),
        ({"multiplier": 0.5}, "multiplier"),
        ({"multiplier": float("nan")}, "multiplier"),
        ({"isolation": "thread"}, "isolation"),
        ({"memory_bytes_max": 2**30}, "memory_bytes_max"),
        ({"memory_bytes_max": 5, "isolation": "process"}, "memory_bytes_max"),
    ],
)
def test_what_cannot_be_is_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Jobs().handler(**({"type": "t"} | given))


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"queue is.*max_attempts is"):
        Jobs().handler("t", queue="?", max_attempts=0)


def test_a_type_has_one_handler() -> None:
    jobs = Jobs()
    jobs.handler("t")(handle)
    with pytest.raises(ValueError, match=r"handle .*handle_async|handle and .*handle_async"):
        jobs.handler("t")(handle_async)


def test_included_handlers_are_taken_over_and_twice_is_once() -> None:
    shared, first, second = Jobs(), Jobs(), Jobs()
    shared.handler("t")(handle)
    first.include(shared)
    second.include(shared)
    second.include(first)
    assert second.handlers["t"] is shared.handlers["t"]


def test_generators_and_what_is_no_function_are_refused() -> None:
    def generate(ctx: Context, payload: object) -> Iterator[int]:
        yield 1

    async def generate_async(ctx: Context, payload: object) -> AsyncIterator[int]:
        yield 1

    for wrong in (generate, generate_async, "handle"):
        with pytest.raises(TypeError):
            Jobs().handler("t")(wrong)  # type: ignore[type-var]


def test_whether_a_handler_is_awaited_is_seen_through_wrappers() -> None:
    class Callable:
        async def __call__(self, ctx: Context, payload: object) -> None: ...

    assert is_async(handle_async)
    assert is_async(partial(partial(handle_async)))
    assert is_async(Callable())
    assert not is_async(handle)
    assert not is_async(partial(handle))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("examples.app", "MODULE:JOBS"),
        ("examples.app:", "MODULE:JOBS"),
        ("examples/app.py:jobs", "MODULE:JOBS"),
        ("tests.worker.handlers:nothing", "has no nothing"),
        ("tests.worker.stage:ROOT", "Jobs is wanted"),
        ("tests.worker.test_registry:NO_HANDLERS", "has no handlers"),
    ],
)
def test_a_target_that_names_no_handlers_is_explained(target: str, said: str) -> None:
    with pytest.raises(NotLoadable, match=said):
        load_jobs(target)


def test_a_module_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "found_here.py").write_text(
        "from headway_worker import Jobs\n"
        "jobs = Jobs()\n"
        "jobs.handler('t')(lambda ctx, payload: None)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    assert set(load_jobs("found_here:jobs").handlers) == {"t"}


NO_HANDLERS = Jobs()
