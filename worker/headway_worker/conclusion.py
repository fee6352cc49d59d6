"""How a call of user code ended, and what that makes of its run: pure decisions."""

from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

from headway_core.content import storable_text
from headway_core.job import ERROR_BYTES_MAX, ERROR_TYPE_BYTES_MAX, JobError
from headway_core.outcomes import (
    Cancelled,
    Failed,
    Interrupted,
    Outcome,
    Snoozed,
    Succeeded,
    TimedOut,
    WorkerLost,
)
from headway_core.stacks import class_of
from headway_worker.endings import Ending, Raised, Returned, Stop
from headway_worker.handler_errors import PermanentError, RetryLater
from headway_worker.values import result_content


@dataclass(frozen=True, slots=True)
class Lost:
    """The run is no longer ours: there is nothing to settle."""


UserOutcome = Succeeded | Failed | Snoozed
"""What the handler itself has a say in; it crosses the pipe of a child process."""


def judge(ending: Ending) -> UserOutcome:
    """Tell what the handler's own end amounts to. A result that cannot be stored is a failure for
    good.
    """
    match ending:
        case Returned(value):
            return _judge_result(value)
        case Raised(RetryLater(after=timedelta() as after)):
            return Snoozed(after)
        case Raised(error):
            return Failed(describe(error))
        case _:
            assert_never(ending)


def conclude(
    outcome: UserOutcome | WorkerLost, stop: Stop | None, *, timeout: timedelta | None
) -> Outcome | Lost:
    """Tell how the run ends, the reason for which it was told to end included.

    Code that was told to end mostly raises something, and that is no failure of its own. A result
    counts all the same, so that no finished work is thrown away; but not after the timeout, or its
    meaning would hang on how soon the code looked up.
    """
    match stop:
        case None:
            return outcome
        case Stop.LOST:
            return Lost()
        case Stop.TIMED_OUT:
            return TimedOut(timeout or timedelta(0))
        case Stop.CANCELLED:
            return outcome if isinstance(outcome, Succeeded) else Cancelled("stopped on request")
        case Stop.DRAINED:
            return outcome if isinstance(outcome, Succeeded) else Interrupted("its worker left")
        case _:
            assert_never(stop)


def describe(error: BaseException) -> JobError:
    """Name an exception for the job's row: its class and text. The stack goes to the log alone."""
    try:
        text = storable_text("".join(str(error)), ERROR_BYTES_MAX)
    except BaseException:  # noqa: BLE001 - user code: __str__ may do anything, even exit
        text = "(its text cannot be read)"
    return JobError(
        type=storable_text(class_of(error), ERROR_TYPE_BYTES_MAX),
        message=text,
        retryable=not isinstance(error, PermanentError),
    )


def _judge_result(value: object) -> UserOutcome:
    try:
        return Succeeded(result_content(value))
    except PermanentError as error:
        reason = str(error)
    except BaseException as error:  # noqa: BLE001 - user code: a dict of one's own may do anything
        reason = f"the result cannot be read: {class_of(error)}"
    return Failed(JobError("ResultRefused", storable_text(reason, ERROR_BYTES_MAX), False))
