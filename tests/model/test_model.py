"""The model explored to the end, and every guard of it taken away once. -s shows the counts.

`pytest -m "" tests/model` adds budgets that take minutes.
"""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from tests.model.explore import Found, explore
from tests.model.invariants import messages
from tests.model.protocol import MUTANTS, Protocol
from tests.model.state import Budget, State

ONE_JOB = {
    "no fault": Budget(),
    "crash": Budget(crashes=1),
    "lapse": Budget(lapses=1),
    "lost reply": Budget(lost_replies=1),
    "late claim": Budget(late_claims=1),
    "broker lost": Budget(broker_losses=1),
    "channel lost": Budget(channel_losses=1),
    "relay crashed": Budget(relay_crashes=1),
    "row locked": Budget(lapses=1, locks=1),
    "drain": Budget(drains=1, lost_replies=1),
    "cancel": Budget(cancels=1, failures=1),
    "forgotten claim": Budget(forgotten=1, lost_replies=1),
}
TOGETHER = {
    "death and replay": Budget(crashes=2, replays=1),
    "failures and a lost channel": Budget(failures=2, channel_losses=1),
    "cancel and a crash": Budget(cancels=1, crashes=1),
    "broker lost and a crash": Budget(broker_losses=1, crashes=1),
    "late claim and a lapse": Budget(late_claims=1, lapses=1),
    "drain and a late claim": Budget(drains=1, late_claims=1, lost_replies=1),
}
TWO_JOBS: dict[str, dict[str, Any]] = {
    "no fault": {"slots": (1, 1)},
    "one worker of two slots": {"slots": (2,)},
    "crash in company": {"slots": (2,), "budget": Budget(crashes=1)},
    "crash and a locked row": {"slots": (2,), "budget": Budget(crashes=1, locks=1)},
    "drain": {"slots": (2,), "budget": Budget(drains=1, lost_replies=1)},
    "lapse": {"slots": (1, 1), "budget": Budget(lapses=1)},
    "broker lost": {"slots": (1, 1), "budget": Budget(broker_losses=1)},
}
MORE: dict[str, dict[str, Any]] = {
    "one job, two crashes and a lapse": {"budget": Budget(crashes=2, lapses=1)},
    "one job, lapses and lost replies": {"budget": Budget(lapses=2, lost_replies=1, failures=1)},
    "one job, everything once": {
        "budget": Budget(
            crashes=1, lapses=1, broker_losses=1, channel_losses=1, lost_replies=1, cancels=1
        )
    },
    "two jobs, every message": {"jobs": 2, "budget": Budget(crashes=1), "slots": (2,)},
}


@pytest.fixture(autouse=True)
def no_garbage_is_looked_for() -> Iterator[None]:
    """States are tuples without cycles; to look through a million of them costs half the time."""
    gc.disable()
    yield
    gc.enable()


def _told(found: Found, name: str) -> None:
    print(f"{name}: {found.states} states{' ' if found.verdict else ''}{found.verdict}")


@pytest.mark.parametrize("faults", [*ONE_JOB, *TOGETHER])
def test_nothing_breaks_and_from_every_state_the_job_can_be_done(faults: str) -> None:
    """Safety in every state; liveness without a further fault from every state."""
    found = explore(Protocol((ONE_JOB | TOGETHER)[faults]))
    _told(found, faults)
    assert not found.verdict


@pytest.mark.parametrize("faults", ONE_JOB)
def test_nor_where_only_one_worker_has_the_type(faults: str) -> None:
    """The other declines."""
    found = explore(Protocol(ONE_JOB[faults], with_type=1))
    _told(found, f"{faults}, one declines")
    assert not found.verdict


@pytest.mark.parametrize("shape", TWO_JOBS)
def test_nor_with_two_jobs(shape: str) -> None:
    """They share slots, leases and the sweeper's count of ready messages."""
    given = {"jobs": 2, "coarse": True, **TWO_JOBS[shape]}
    found = explore(Protocol(**given))
    _told(found, f"two jobs, {shape}")
    assert not found.verdict


@pytest.mark.slow_faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shape", MORE)
def test_nor_with_larger_budgets(shape: str) -> None:
    """What `make test` has no time for."""
    found = explore(Protocol(**MORE[shape]))
    _told(found, shape)
    assert not found.verdict


def test_a_poison_job_dies_alone() -> None:
    """P7: it kills every process it runs in; it ends DEAD, and its neighbour is never charged."""
    found = explore(_poisoned(), chargeable=[0])
    _told(found, "a poison job and an innocent one")
    assert not found.verdict


def test_an_ack_leaves_no_job_to_the_sweeper() -> None:
    """P3: as long as the broker loses nothing, the sweeper is not needed."""
    for budget in (Budget(crashes=1), Budget(lapses=1), Budget(drains=1, lost_replies=1)):
        found = explore(Protocol(budget, mutants=["no sweeper"]))
        assert not found.verdict


def test_a_drain_is_never_charged() -> None:
    """P10, also with a claim whose reply was lost."""
    found = explore(Protocol(Budget(drains=1, lost_replies=1)), chargeable=[])
    _told(found, "drain, nothing chargeable")
    assert not found.verdict


def test_copies_that_nobody_can_run_die_out() -> None:
    """A relay crash leaves two copies, no worker has the type: one message must remain."""
    found = explore(_homeless(), goal=_one_message)
    _told(found, "no worker has the type")
    assert not found.verdict


CAUGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "no fence": ("COMPLETED follows FAILED", {"budget": Budget(lapses=1)}),
    "ack before commit": (
        "it waits, and no message speaks for it",
        {"budget": Budget(crashes=1)},
    ),
    "no sweeper": ("stuck", {"budget": Budget(broker_losses=1)}),
    "mark without its guard": (
        "QUEUED, and the broker never confirmed it",
        {"budget": Budget(failures=1)},
    ),
    "no reconciliation at the beat": ("stuck", {"budget": Budget(late_claims=1, failures=1)}),
    "reap of leases that just ended": ("stuck", {"budget": Budget(crashes=1, locks=1)}),
    "sweep on first sight": ("a duplicate without a fault", {}),
    "a drain that charges": ("charged without a fault", {"budget": Budget(drains=1)}),
    "a rerun counts on any row": (
        "a run begins that the row does not know",
        {"budget": Budget(lapses=1, lost_replies=1)},
    ),
    "an ack with a lapsed lease": (
        "it waits, and no message speaks for it",
        {"budget": Budget(lapses=1)},
    ),
}


@pytest.mark.parametrize("mutant", CAUGHT)
def test_every_guard_is_needed(mutant: str) -> None:
    """A model that stays whole without a guard does not know what the guard is for."""
    word, given = CAUGHT[mutant]
    chargeable = [] if "charged" in word else [0]
    assert not explore(Protocol(**given), chargeable=chargeable).verdict
    found = explore(Protocol(**given, mutants=[mutant]), chargeable=chargeable)
    _told(found, mutant)
    assert word in found.verdict


def test_a_decline_without_the_due_check_is_caught() -> None:
    """Each copy declines and makes a new row, for ever."""
    found = explore(_homeless("decline without the due check"), goal=_one_message)
    _told(found, "decline without the due check")
    assert found.stuck


def test_charging_every_job_of_a_dead_worker_is_caught() -> None:
    """The neighbour of a poison job would pay for it."""
    found = explore(_poisoned("every dead worker's job charged"), chargeable=[0])
    _told(found, "every dead worker's job charged")
    assert found.broken == "charged without a fault of the job"


def test_every_mutant_has_its_test() -> None:
    apart = {"decline without the due check", "every dead worker's job charged"}
    assert set(CAUGHT) | apart == MUTANTS


def _poisoned(*mutants: str) -> Protocol:
    return Protocol(jobs=2, slots=(2,), with_type=1, poison=0, coarse=True, mutants=mutants)


def _homeless(*mutants: str) -> Protocol:
    return Protocol(Budget(relay_crashes=1), with_type=0, mutants=mutants)


def _one_message(state: State) -> bool:
    return messages(state, 0) == 1
