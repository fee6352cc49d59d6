"""Guards taken away from the real code, by name: each loss must be seen by a check.

Every scenario is played twice on real Postgres: as the code stands, which must leave nothing to
find, and with the mutant, which must be caught by the very words.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from headway_core.database import Database
from headway_server import sweeper
from tests.mutants import scenarios
from tests.mutants.patches import PATCHES
from tests.mutants.service import Service

Scenario = Callable[[Service], Awaitable[list[str]]]

STALE = "a stale run's write stands"
CHARGED = "charged without a fault of the job"
COPIES = "2 messages for one job"
# Where each guard matters, and the words of who sees that it is gone.
SEEN: dict[str, tuple[Scenario, str]] = {
    "no fence": (scenarios.a_zombie_settles_after_its_successor, "goes on after COMPLETED"),
    "a fence of the state alone": (scenarios.a_zombie_settles_before_its_successor, STALE),
    "a fence without the epoch": (scenarios.an_older_run_of_the_same_worker_settles, STALE),
    "no sweeper": (scenarios.the_broker_loses_its_messages, "QUEUED at rest"),
    "mark without its guard": (
        scenarios.a_mark_comes_after_the_failure,
        "QUEUED, and the broker never confirmed it",
    ),
    "no reconciliation at the beat": (scenarios.a_claim_whose_reply_is_lost, "RUNNING at rest"),
    "reap of leases that just ended": (
        scenarios.a_run_that_the_reaper_found_locked,
        "RUNNING at rest",
    ),
    "decline without the due check": (scenarios.two_copies_that_nobody_can_run, COPIES),
    "sweep on first sight": (scenarios.a_sweep_before_the_mark, COPIES),
    "every dead worker's job charged": (scenarios.a_poison_job_and_an_innocent_one, CHARGED),
    "a drain that charges": (scenarios.a_drained_worker_leaves_a_run_behind, CHARGED),
    "a rerun counts on any row": (
        scenarios.a_late_rerun_of_a_claim,
        "a run begins that the row does not know",
    ),
    "a replay of whatever death there is": (
        scenarios.a_replay_arrives_after_a_second_death,
        "a death is replayed that its caller did not see",
    ),
}
# The state machine alone can come between two statements of a transaction.
ELSEWHERE = {"a lease looked at before the locks"}


@pytest.fixture
async def service(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(sweeper, "QUEUED_LONG", timedelta(0))
    database = await Database.connect(database_url, name="test", size=4)
    yield Service(database)
    await database.close()


@pytest.mark.parametrize("name", SEEN)
async def test_as_the_code_stands_nothing_is_found(name: str, service: Service) -> None:
    """Else the mutant's test would prove nothing."""
    scenario, _ = SEEN[name]
    assert not await scenario(service)


@pytest.mark.parametrize("name", SEEN)
async def test_a_mutant_is_caught(
    name: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the words of the invariant that it breaks."""
    scenario, words = SEEN[name]
    PATCHES[name](monkeypatch)
    found = await scenario(service)
    print(f"{name}: {found}")
    assert any(words in word for word in found), found


def test_every_patch_has_its_scenario() -> None:
    assert SEEN.keys() | ELSEWHERE == PATCHES.keys()
