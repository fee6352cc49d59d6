"""Random interleavings of every transition on real Postgres, compared with plain Python.

Each operation runs on the store and on the reference; then what was answered and all tables are
compared (`tests/store/machine/game.py` tells how). HEADWAY_TEST_MACHINE=N plays N games, each with
other choices and twice as long; pytest's --hypothesis-seed repeats them.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from headway_core import claims, retention, submissions, sweeps
from headway_core import database as border
from headway_core.database import Database
from tests.mutants.patches import PATCHES
from tests.store.machine.connections import PATIENCE_SECONDS, Store
from tests.store.machine.game import Machine
from tests.store.machine.world import HOUR

# What must have been answered at least once, by transition.
EXPECTED: Final = frozenset(
    {
        "waited",
        "paused",
        *(f"beat: {word}" for word in ("some", "none")),
        "boost: some",
        *(f"cancel: {word}" for word in ("CANCELLED", "RUNNING")),
        *(f"claim: {word}" for word in ("Claim", "LeaseLapsed", "MustRunAlone", "TypeLacking")),
        *(f"claim: {word}" for word in ("NothingToDo", "NothingToDo, dead")),
        *(f"decline: {word}" for word in ("Declined", "LeaseLapsed", "NothingToDo")),
        "end_lease: some",
        "interrupt: some",
        "lapsed: some",
        "mark: some",
        "reap: some",
        "redispatch: some",
        "redispatch_queued: some",
        "relay: some",
        *(f"replay: {word}" for word in ("replayed", "replayed before", "JobNotDead")),
        "retire: some",
        *(f"revive: {word}" for word in ("some", "none")),
        *(f"settle: {word}" for word in ("Settled", "Fenced")),
        *(f"step: {word}" for word in ("StepStored", "Fenced")),
        "stranded: some",
        *(f"submit: {word}" for word in ("created", "existing", "reused")),
    }
)
# In long games also these.
RARE: Final = frozenset(
    {
        "cancel: DEAD",
        "cancel: JobNotFound",
        "forget_keys: some",
        "replay: JobNotFound",
        "submit: gone",
    }
)
# Guards taken away as in tests/mutants; those that are found within seconds, and the others.
QUICK: Final = ("mark without its guard", "no fence")
SLOW: Final = tuple(
    pytest.param(name, marks=pytest.mark.slow_faults)
    for name in (
        "a fence of the state alone",
        "a fence without the epoch",
        "decline without the due check",
        "reap of leases that just ended",
        "every dead worker's job charged",
        "a drain that charges",
        "a rerun counts on any row",
        "a replay of whatever death there is",
        "a lease looked at before the locks",
    )
)
MUTANT_GAMES_MAX: Final = 1000
GAMES_LONG: Final = 300
GAMES: Final = int(os.environ.get("HEADWAY_TEST_MACHINE", "0"))


@pytest.fixture
def store(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Connections that are as patient as the machine they run on is slow."""
    for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
        monkeypatch.setitem(border.SESSION_SETTINGS, name, f"{PATIENCE_SECONDS}s")
    # Real seconds must not decide what is due.
    for module in (submissions, sweeps):
        monkeypatch.setattr(module, "FAST_PATH", HOUR)
    monkeypatch.setattr(retention, "KEYS_KEPT", timedelta(0))
    monkeypatch.setattr(claims, "DECLINE_BACKOFF_MIN", HOUR)
    monkeypatch.setattr(claims, "DECLINE_BACKOFF_MAX", HOUR)
    with asyncio.Runner() as runner:

        async def connect() -> Store:
            patience = float(PATIENCE_SECONDS)
            first = await Database.connect(
                database_url, name="first", size=2, timeout_seconds=patience
            )
            second = await Database.connect(
                database_url, name="second", size=1, timeout_seconds=patience
            )
            holder = await asyncpg.connect(
                database_url, server_settings=dict(border.SESSION_SETTINGS)
            )
            return Store(runner, first, second, holder)

        async def close(opened: Store) -> None:
            await opened.holder.close()
            await opened.second.close()
            await opened.database.close()

        opened = runner.run(connect())
        yield opened
        runner.run(close(opened))


@pytest.mark.timeout(7200 if GAMES else 300)
def test_the_store_does_what_the_reference_does(store: Store) -> None:
    """P2, P4, P5, P6, P7 and P10 as plain Python says them, and every answer was met."""
    seen: Counter[str] = Counter()
    expected = EXPECTED | RARE if GAMES >= GAMES_LONG else EXPECTED
    try:
        # Which games are drawn depends on the constants in all modules there are, too.
        for games in (GAMES,) if GAMES else (60, 240):
            _play(store, [Phase.generate, Phase.shrink], seen, games=games)
            if seen.keys() >= expected:
                break
    finally:
        for name, count in sorted(seen.items()):
            print(f"{count:7} {name}")
    assert not expected - seen.keys()


@pytest.mark.timeout(7200 if GAMES else 300)
@pytest.mark.parametrize("mutant", [*QUICK, *SLOW])
def test_a_guard_taken_away_is_noticed(
    mutant: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison can fail."""
    PATCHES[mutant](monkeypatch)
    seen: Counter[str] = Counter()
    with pytest.raises(AssertionError) as noticed:
        _play(store, [Phase.generate], seen, games=MUTANT_GAMES_MAX)
    print(f"{mutant}, after {seen['operations']} operations: {str(noticed.value)[:300]}")


def _play(
    store: Store, phases: list[Phase], seen: "Counter[str]", *, games: int = GAMES or 60
) -> None:
    run_state_machine_as_test(
        lambda: Machine(store, seen),
        settings=settings(
            max_examples=games,
            stateful_step_count=80 if GAMES else 40,
            derandomize=not GAMES,
            database=None,
            deadline=None,
            print_blob=bool(GAMES),
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )
