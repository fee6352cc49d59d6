"""The model explored to the end, and every guard of it taken away once. The report has the counts.

`make model` adds budgets that take minutes.
"""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.model.explore import Found, explore
from tests.model.invariants import messages
from tests.model.kinds import KINDS
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
    "cancel, reply lost": Budget(cancels=1, lost_replies=1),
    "death by attempts": Budget(failures=2),
    "late settle": Budget(late_settles=1, failures=1),
    "a slow mark or claim": Budget(slow=1),
    "forgotten claim": Budget(forgotten=1, lost_replies=1),
}
TOGETHER = {
    "death and replay": Budget(crashes=2, replays=1),
    "death and replay, reply lost": Budget(failures=2, replays=1, lost_replies=1),
    "failures and a lost channel": Budget(failures=2, channel_losses=1),
    "cancel and a crash": Budget(cancels=1, crashes=1),
    "broker lost and a crash": Budget(broker_losses=1, crashes=1),
    "slow and a crash": Budget(slow=1, crashes=1),
    "late claim and a lapse": Budget(late_claims=1, lapses=1),
    "drain and a late claim": Budget(drains=1, late_claims=1, lost_replies=1),
}
TWO_JOBS: dict[str, dict[str, Any]] = {
    "no fault": {"slots": (1, 1), "coarse": False},
    "no fault, one worker of two slots": {"slots": (2,), "coarse": False},
    "slow, every message": {"slots": (1,), "budget": Budget(slow=1), "coarse": False},
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
    "one job, late settles and a lapse": {"budget": Budget(late_settles=1, lapses=1, failures=1)},
    "two jobs, every message": {"jobs": 2, "budget": Budget(crashes=1), "slots": (2,)},
}


@pytest.fixture(autouse=True)
def no_garbage_is_looked_for() -> Iterator[None]:
    """States are tuples without cycles; to look through a million of them costs half the time."""
    gc.disable()
    yield
    gc.enable()


taken: dict[str, frozenset[str]] = {}
"""The kinds of steps, by exploration."""

Explored = Callable[..., Found]


@pytest.fixture
def explored(record_property: Callable[[str, object], None]) -> Explored:
    """Explore, and tell the report how many states there were."""

    def explored(name: str, protocol: Protocol, **given: Any) -> Found:
        found = explore(protocol, **given)
        taken[name] = found.kinds
        record_property("states", found.states)
        print(f"{name}: {found.states} states {found.verdict}".rstrip())
        return found

    return explored


@pytest.mark.parametrize("faults", [*ONE_JOB, *TOGETHER])
def test_nothing_breaks_and_from_every_state_the_job_can_be_done(
    faults: str, explored: Explored
) -> None:
    """Safety in every state; liveness without a further fault from every state."""
    assert not explored(faults, Protocol((ONE_JOB | TOGETHER)[faults])).verdict


@pytest.mark.parametrize("faults", ONE_JOB)
def test_nor_where_only_one_worker_has_the_type(faults: str, explored: Explored) -> None:
    """The other declines."""
    name = _one_declines(faults)
    assert not explored(name, Protocol(ONE_JOB[faults], with_type=1)).verdict


@pytest.mark.parametrize("shape", TWO_JOBS)
def test_nor_with_two_jobs(shape: str, explored: Explored) -> None:
    """They share slots, leases and the sweeper's count of ready messages."""
    given = {"jobs": 2, "coarse": True, **TWO_JOBS[shape]}
    assert not explored(f"two jobs, {shape}", Protocol(**given)).verdict


@pytest.mark.slow_faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shape", MORE)
def test_nor_with_larger_budgets(shape: str, explored: Explored) -> None:
    """What `make test` has no time for."""
    assert not explored(shape, Protocol(**MORE[shape])).verdict


def test_a_poison_job_dies_alone(explored: Explored) -> None:
    """P7: it kills every process it runs in; it ends DEAD, and its neighbour is never charged."""
    assert not explored("a poison job and an innocent one", _poisoned(), chargeable=[0]).verdict


@pytest.mark.parametrize("faults", ["crash", "lapse", "drain"])
def test_an_ack_leaves_no_job_to_the_sweeper(faults: str, explored: Explored) -> None:
    """P3: as long as the broker loses nothing, the sweeper is not needed."""
    protocol = Protocol(ONE_JOB[faults], mutants=["no sweeper"])
    assert not explored(f"{faults}, without a sweeper", protocol).verdict


def test_a_drain_is_never_charged(explored: Explored) -> None:
    """P10, also with a claim whose reply was lost."""
    assert not explored(
        "drain, nothing chargeable", Protocol(ONE_JOB["drain"]), chargeable=[]
    ).verdict


def test_copies_that_nobody_can_run_die_out(explored: Explored) -> None:
    """A relay crash leaves two copies, no worker has the type: one message must remain."""
    assert not explored("no worker has the type", _homeless(), goal=_one_message).verdict


CAUGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "a fence of the state alone": (
        "a stale run's write stands",
        {"budget": Budget(lapses=1)},
    ),
    "a fence without the epoch": (
        "a stale run's write stands",
        {"budget": Budget(late_settles=1, failures=1), "slots": (1,)},
    ),
    "a replay of whatever death there is": (
        "a death is replayed that its caller did not see",
        {"budget": Budget(late_replays=1, replays=2, failures=4), "slots": (1,)},
    ),
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
def test_every_guard_is_needed(mutant: str, explored: Explored) -> None:
    """A model that stays whole without a guard does not know what the guard is for."""
    word, given = CAUGHT[mutant]
    chargeable = [] if "charged" in word else [0]
    whole = explored(f"with {mutant} mended", Protocol(**given), chargeable=chargeable)
    assert not whole.verdict
    found = explored(mutant, Protocol(**given, mutants=[mutant]), chargeable=chargeable)
    assert word in found.verdict


def test_a_decline_without_the_due_check_is_caught(explored: Explored) -> None:
    """Each copy declines and makes a new row, for ever."""
    mutant = "decline without the due check"
    assert explored(mutant, _homeless(mutant), goal=_one_message).stuck


def test_charging_every_job_of_a_dead_worker_is_caught(explored: Explored) -> None:
    """The neighbour of a poison job would pay for it."""
    mutant = "every dead worker's job charged"
    found = explored(mutant, _poisoned(mutant), chargeable=[0])
    assert found.broken == "charged without a fault of the job"


def test_every_step_was_taken() -> None:
    """Else the model would tell of something that it never tries."""
    wanted = {*ONE_JOB, *TOGETHER, *(_one_declines(faults) for faults in ONE_JOB), *CAUGHT}
    if not taken.keys() >= wanted:
        pytest.skip("only some of the explorations were asked for")
    assert frozenset[str]().union(*taken.values()) == KINDS


def test_every_mutant_has_its_test() -> None:
    apart = {"decline without the due check", "every dead worker's job charged"}
    assert set(CAUGHT) | apart == MUTANTS


def _one_declines(faults: str) -> str:
    return f"{faults}, one declines"


def _poisoned(*mutants: str) -> Protocol:
    return Protocol(jobs=2, slots=(2,), with_type=1, poison=0, coarse=True, mutants=mutants)


def _homeless(*mutants: str) -> Protocol:
    return Protocol(Budget(relay_crashes=1), with_type=0, mutants=mutants)


def _one_message(state: State) -> bool:
    return messages(state, 0) == 1
