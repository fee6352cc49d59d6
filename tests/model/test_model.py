"""The model explored to the end, and every guard of it taken away once. -s shows the counts."""

import pytest

from tests.model.explore import explore
from tests.model.protocol import Budget, Protocol

FAULTS = {
    "no fault": Budget(),
    "crash": Budget(crashes=1),
    "lapse": Budget(lapses=1),
    "lost reply": Budget(lost_replies=1),
    "broker lost": Budget(broker_losses=1),
    "relay crashed": Budget(relay_crashes=1),
    "drain": Budget(drains=1, lost_replies=1),
    "cancel": Budget(cancels=1, failures=1),
    "forgotten claim": Budget(forgotten=1, lost_replies=1),
}
TOGETHER = {
    "death and replay": Budget(crashes=2, replays=1),
    "failures and a lost channel": Budget(failures=2, channel_losses=1),
    "cancel and a crash": Budget(cancels=1, crashes=1),
    "broker lost and a crash": Budget(broker_losses=1, crashes=1),
}


@pytest.mark.parametrize("faults", FAULTS)
@pytest.mark.parametrize("with_type", [1, 2])
def test_nothing_breaks_and_from_every_state_the_job_can_be_done(
    faults: str, with_type: int
) -> None:
    """Safety in every state; liveness without a further fault from every state."""
    _explore_whole(Protocol(FAULTS[faults], with_type=with_type), faults)


@pytest.mark.parametrize("faults", TOGETHER)
def test_nor_by_two_faults_together(faults: str) -> None:
    """The same where one fault may strike while another is being mended."""
    _explore_whole(Protocol(TOGETHER[faults]), faults)


def _explore_whole(protocol: Protocol, faults: str) -> None:
    found = explore(protocol)
    print(f"{faults}: {found.states} states")
    assert not found.broken
    assert not found.stuck, found.stuck_way


def test_an_ack_leaves_no_job_to_the_sweeper() -> None:
    """P3: as long as the broker loses nothing, the sweeper is not needed; acked early, it is."""
    crash = Budget(crashes=1)
    assert not explore(Protocol(crash, without=frozenset({"sweeper"}))).stuck
    early = frozenset({"sweeper", "ack after commit"})
    assert explore(Protocol(crash, without=early)).stuck


def test_a_drain_is_never_charged() -> None:
    """Also with a claim whose reply was lost."""
    budget = Budget(drains=1, lost_replies=1, channel_losses=1)
    assert not explore(Protocol(budget), charge_allowed=False).broken


MUTANTS = {
    "fence": Budget(lapses=1),
    "sweeper": Budget(broker_losses=1),
    "mark guard": Budget(failures=1),
    "reconciliation": Budget(forgotten=1, lost_replies=1),
}


@pytest.mark.parametrize("guard", MUTANTS)
def test_every_guard_is_needed(guard: str) -> None:
    """A model that stays whole without a guard does not know what the guard is for."""
    found = explore(Protocol(MUTANTS[guard], without=frozenset({guard})))
    print(f"without {guard}: {found.broken or f'{found.stuck} stuck: {found.stuck_way}'}")
    assert found.broken or found.stuck


def test_a_drain_that_charges_is_caught() -> None:
    """The same for the lease that ends as drained."""
    protocol = Protocol(Budget(drains=1), without=frozenset({"drain interrupts"}))
    assert explore(protocol, charge_allowed=False).broken
