"""How a run ends, by how its code ended and why it was told to."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import pytest

from headway_core.job import JobError
from headway_core.outcomes import (
    Cancelled,
    Failed,
    Interrupted,
    Snoozed,
    Succeeded,
    TimedOut,
    WorkerLost,
)
from headway_worker import JobCancelled, PermanentError, RetryLater
from headway_worker.conclusion import Lost, conclude, describe, judge
from headway_worker.endings import Raised, Returned, Stop

TIMEOUT = timedelta(seconds=5)
RETURNED = judge(Returned({"a": 1}))
RAISED = judge(Raised(ValueError("no")))


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(0), KeyboardInterrupt(), asyncio.CancelledError()]
)
def test_whatever_a_handler_raises_is_a_failure_to_be_retried(error: BaseException) -> None:
    outcome = judge(Raised(error))
    assert isinstance(outcome, Failed)
    assert outcome.error.retryable


def test_a_permanent_error_is_not_retried() -> None:
    assert judge(Raised(PermanentError("bad country"))) == Failed(
        JobError("PermanentError", "bad country", retryable=False)
    )


def test_a_subclass_of_a_permanent_error_is_not_retried_either() -> None:
    class BadCountry(PermanentError): ...

    outcome = judge(Raised(BadCountry("x")))
    assert isinstance(outcome, Failed)
    assert not outcome.error.retryable


def test_retry_later_is_no_failure() -> None:
    assert judge(Raised(RetryLater(after=timedelta(minutes=1)))) == Snoozed(timedelta(minutes=1))
    assert judge(Raised(RetryLater(after=2.5))) == Snoozed(timedelta(seconds=2.5))


@pytest.mark.parametrize("after", [-1, timedelta(days=400), float("nan")])
def test_retry_later_refuses_what_is_no_wait(after: float | timedelta) -> None:
    with pytest.raises(ValueError, match=r"after|NaN|nan"):
        RetryLater(after=after)


def test_a_result_that_cannot_be_stored_is_never_a_success() -> None:
    outcome = judge(Returned([1]))
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "ResultRefused"
    assert not outcome.error.retryable


@pytest.mark.parametrize(
    ("outcome", "stop", "ends"),
    [
        (RETURNED, None, RETURNED),
        (RAISED, None, RAISED),
        (RETURNED, Stop.CANCELLED, RETURNED),
        (RAISED, Stop.CANCELLED, Cancelled("stopped on request")),
        (RETURNED, Stop.DRAINED, RETURNED),
        (RAISED, Stop.DRAINED, Interrupted("its worker left")),
        (RETURNED, Stop.TIMED_OUT, TimedOut(TIMEOUT)),
        (RAISED, Stop.TIMED_OUT, TimedOut(TIMEOUT)),
        (RETURNED, Stop.LOST, Lost()),
        (RAISED, Stop.LOST, Lost()),
        (WorkerLost("killed"), None, WorkerLost("killed")),
        (WorkerLost("killed"), Stop.TIMED_OUT, TimedOut(TIMEOUT)),
        (WorkerLost("killed"), Stop.CANCELLED, Cancelled("stopped on request")),
        (WorkerLost("killed"), Stop.DRAINED, Interrupted("its worker left")),
    ],
)
def test_the_reason_for_which_it_was_told_to_end_counts(
    outcome: Succeeded | Failed | Snoozed | WorkerLost, stop: Stop | None, ends: object
) -> None:
    assert conclude(outcome, stop, timeout=TIMEOUT) == ends


class Breaking(dict[str, object]):
    def items(self) -> NoReturn:  # type: ignore[override]
        raise KeyError("no items")


class Nameless:
    @property  # type: ignore[misc]
    def __class__(self) -> NoReturn:
        raise KeyError("no class")


@pytest.mark.parametrize("make", [lambda: Breaking(a=1), Nameless], ids=["dict", "class"])
def test_a_result_that_breaks_who_reads_it_is_refused(make: Callable[[], object]) -> None:
    """It must not reach the executor's own tasks: their errors end the process."""
    outcome = judge(Returned(make()))
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "ResultRefused"
    assert outcome.error.message == "the result cannot be read: KeyError"
    assert not outcome.error.retryable


def test_an_error_whose_text_ends_the_program_is_a_failure() -> None:
    class Exits(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    assert describe(Exits()).message == "(its text cannot be read)"


def test_a_wait_that_is_none_any_more_is_a_failure() -> None:
    error = RetryLater(1)
    error.after = "soon"  # type: ignore[assignment]
    assert isinstance(judge(Raised(error)), Failed)


def test_an_error_is_described_without_its_stack() -> None:
    assert describe(KeyError("x")) == JobError("KeyError", "'x'", retryable=True)
    assert describe(JobCancelled("y")).type == "JobCancelled"
    named = describe(asyncio.QueueEmpty())
    assert named.type == "asyncio.queues.QueueEmpty"


def test_an_error_whose_text_raises_is_described_all_the_same() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert describe(Broken()).message == "(its text cannot be read)"


def test_a_long_or_unstorable_text_is_made_to_fit() -> None:
    message = describe(ValueError("\x00" + "ü" * 10_000)).message
    assert len(message.encode()) <= 4_096
    assert "\x00" not in message
