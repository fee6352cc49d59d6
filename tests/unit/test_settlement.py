"""What follows from the way a run ended."""

from collections.abc import Callable
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_core.backoff import exponential, full_jitter
from headway_core.job import CRASHES_MAX, DEFAULT_POLICY, ERROR_BYTES_MAX, JobError, RetryPolicy
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
from headway_core.settlement import RunBudget, Settlement, decide, fingerprint
from headway_core.states import MAY_FOLLOW, EventType, Isolation, JobState

ERROR = JobError("ValueError", "bad", retryable=True)


def budget(failures: int = 0, crashes: int = 0, isolation: Isolation = Isolation.NONE) -> RunBudget:
    return RunBudget("noop", failures, crashes, isolation, DEFAULT_POLICY)


def settle(outcome: Outcome, stood: RunBudget | None = None) -> Settlement:
    return decide(stood or budget(), outcome, random=Random(7))


@pytest.mark.parametrize(
    ("outcome", "state", "failures", "crashes"),
    [
        (Succeeded(None), JobState.COMPLETED, 0, 0),
        (Failed(ERROR), JobState.FAILED, 1, 0),
        (Failed(JobError("X", "", retryable=False)), JobState.DEAD, 1, 0),
        (TimedOut(timedelta(seconds=1)), JobState.FAILED, 1, 0),
        (WorkerLost("killed"), JobState.FAILED, 0, 1),
        (Interrupted("drain"), JobState.PENDING, 0, 0),
        (Snoozed(timedelta(seconds=5)), JobState.PENDING, 0, 0),
        (Cancelled("asked"), JobState.CANCELLED, 0, 0),
    ],
)
def test_each_end_spends_its_own_budget(
    outcome: Outcome, state: JobState, failures: int, crashes: int
) -> None:
    """Attempts for failures, crashes for lost processes, nothing for what is nobody's fault."""
    end = settle(outcome)
    assert (end.state, end.failures, end.crashes) == (state, failures, crashes)
    assert state in MAY_FOLLOW[JobState.RUNNING]


def test_the_last_attempt_is_dead_and_says_why() -> None:
    """Five attempts by default; the reason names the count and the error."""
    end = settle(Failed(ERROR), budget(failures=4))
    assert end.state is JobState.DEAD
    assert end.message == "failed 5 of 5 attempts: ValueError: bad"
    assert end.fingerprint == fingerprint("noop", ERROR)


def test_the_third_crash_is_dead_and_the_first_makes_a_suspect() -> None:
    """A job that kills its process runs in a child from then on."""
    assert settle(WorkerLost("x")).isolation is Isolation.CHILD
    assert settle(WorkerLost("x"), budget(crashes=CRASHES_MAX - 1)).state is JobState.DEAD


def test_a_death_in_company_isolates_step_by_step() -> None:
    """NONE, then a child, then alone, and it stays so."""
    isolation = Isolation.NONE
    seen = []
    for _ in range(3):
        end = settle(Interrupted("x", suspect=True), budget(isolation=isolation))
        isolation = end.isolation
        seen.append(isolation)
    assert seen == [Isolation.CHILD, Isolation.ALONE, Isolation.ALONE]
    assert settle(Interrupted("drain")).isolation is Isolation.NONE


def test_the_same_lot_gives_the_same_end() -> None:
    """A settle written twice must be the same: the chance is drawn before the first try."""
    assert settle(Failed(ERROR)) == settle(Failed(ERROR))


@given(st.text(), st.text(max_size=10_000))
def test_any_error_text_can_be_stored(type_: str, message: str) -> None:
    """User code raises what it likes: NUL bytes, lone surrogates, megabytes."""
    end = settle(Failed(JobError(type_, message, retryable=True)))
    assert end.error is not None
    assert "\x00" not in end.error.message
    assert len(end.error.message.encode()) <= ERROR_BYTES_MAX
    assert len(end.error.type.encode()) <= 256


@given(st.integers(1, 2000), st.floats(1, 100), st.integers(0, 10_000))
def test_backoff_grows_to_its_bound_and_jitter_stays_below(
    count: int, multiplier: float, seed: int
) -> None:
    """No overflow at attempt 2000, and never longer than the longest."""
    initial, longest = timedelta(seconds=1), timedelta(days=7)
    wait = exponential(count, initial=initial, longest=longest, multiplier=multiplier)
    assert initial <= wait <= longest
    assert timedelta(0) <= full_jitter(wait, Random(seed)) <= wait


def test_alike_deaths_share_a_fingerprint() -> None:
    """Numbers, addresses and IDs vary; the cause does not."""
    make: Callable[[str], str] = lambda text: fingerprint("t", JobError("E", text, True))  # noqa: E731
    one = "row 17 of 0af7651916cd43dd8448eb211c80319c at 0x7f3"
    two = "row 2 of 1bf7651916cd43dd8448eb211c80319d at 0x8a"
    assert make(one) == make(two)
    assert make(one) != make("column 17")


def test_a_policy_of_the_submit_wins() -> None:
    """One attempt means one attempt."""
    policy = RetryPolicy(1, timedelta(seconds=1), timedelta(seconds=1), 1.0)
    end = decide(RunBudget("t", 0, 0, Isolation.NONE, policy), Failed(ERROR), random=Random(1))
    assert end.state is JobState.DEAD
    assert end.event is EventType.DEAD
