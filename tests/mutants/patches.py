"""Guards of the real code, taken away by name."""

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import pytest

from headway_core import claims, dead_letters, leases, outbox, runs, sweeps
from headway_core.database import Connection, Database
from headway_core.queries import Queries
from headway_server import sweeper
from headway_worker import reconciliation

Patch = Callable[[pytest.MonkeyPatch], None]


def without(queries: Queries, name: str, text: str, instead: str = "") -> Patch:
    """A statement with a part of it taken away."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        assert text in queries.texts[name], f"{queries.table}.{name} has changed"
        mutated = queries.texts[name].replace(text, instead)
        monkeypatch.setattr(queries, "texts", {**queries.texts, name: mutated})

    return patch


def both(*patches: Patch) -> Patch:
    """Several places that hold one guard."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for one in patches:
            one(monkeypatch)

    return patch


def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*arguments: Any, **given: Any) -> list[Any]:
        return []

    for name in ("redispatch", "redispatch_queued", "redispatch_starving"):
        monkeypatch.setattr(sweeps, name, nothing)


def no_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        reconciliation, "differences", lambda *given: reconciliation.Differences([], [], [])
    )


def first_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the sweep before had seen whatever this one sees."""
    found = sweeper.Sweeper._sweep_stranded

    async def at_once(self: sweeper.Sweeper, room: int) -> int:
        self._found_before = frozenset(await sweeps.stranded(self._database, limit=1000))
        return await found(self, room)

    monkeypatch.setattr(sweeper.Sweeper, "_sweep_stranded", at_once)


def drained_like_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = leases._outcome

    def outcome(facts: Any, how: leases.LeaseEnd, *given: Any) -> Any:
        return judged(
            facts, leases.LeaseEnd.DIED if how is leases.LeaseEnd.DRAINED else how, *given
        )

    monkeypatch.setattr(leases, "_outcome", outcome)


def first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the reaper looked at the lease before it has the locks, and not again."""
    unlocked = leases.SQL.lock_lease.replace("FOR UPDATE", "")

    async def reap(database: Database, worker_id: UUID) -> list[leases.Judged]:
        async def judge(connection: Connection) -> list[leases.Judged]:
            lease = await connection.fetchrow(unlocked, worker_id)
            locked = await connection.fetch(runs.SQL.lock, worker_id, None)
            if lease is None or (lease["ended_time"] is None and not lease["lapsed"]):
                return []
            await connection.fetchrow(leases.SQL.end, worker_id, leases.LeaseEnd.LOST)
            job_ids = [row["id"] for row in locked]
            return await leases._judge(connection, worker_id, job_ids, "lost", {})

        return await database.transact(judge)

    monkeypatch.setattr(leases, "reap", reap)


DUE: Final = (
    "AND (locked.state = 2 OR locked.wait_time <= clock_timestamp())\n      AND locked.type <> ALL"
)
FENCE: Final = "locked.state = 3 AND locked.worker_id = $1 AND locked.run_epoch = item.run_epoch"
PATCHES: Final[dict[str, Patch]] = {
    "no fence": without(runs.SQL, "settle", f"WHERE {FENCE}", "WHERE $1::uuid IS NOT NULL"),
    "a fence of the state alone": without(
        runs.SQL, "settle", FENCE, "locked.state = 3 AND $1::uuid IS NOT NULL"
    ),
    "a fence without the epoch": without(
        runs.SQL, "settle", FENCE, "locked.state = 3 AND locked.worker_id = $1"
    ),
    "no sweeper": no_sweep,
    "mark without its guard": without(
        outbox.SQL,
        "mark_queued",
        "locked.state IN (1, 5) AND locked.dispatch_no = item.dispatch_no",
        "locked.state IN (1, 2, 5)",
    ),
    "no reconciliation at the beat": no_differences,
    "reap of leases that just ended": without(
        leases.SQL,
        "lapsed",
        "ended_time IS NOT NULL OR lease_expires",
        "ended_time IS NULL AND lease_expires",
    ),
    "decline without the due check": both(
        without(claims.SQL, "decline", DUE, "AND locked.type <> ALL"),
        without(
            claims.SQL,
            "claim",
            "locked.state = 2 OR locked.wait_time <= clock_timestamp() AS",
            "true AS",
        ),
    ),
    "sweep on first sight": first_sight,
    "every dead worker's job charged": without(
        leases.SQL, "end", "(SELECT count(*) FROM runs WHERE runs.worker_id = workers.id)", "1"
    ),
    "a drain that charges": drained_like_dead,
    "a rerun counts on any row": both(
        without(claims.SQL, "claim", "locked.state = 3 AND locked.worker_id", "locked.worker_id"),
        without(claims.SQL, "claimed_before", "jobs.state = 3 AND"),
    ),
    "a replay of whatever death there is": without(
        dead_letters.SQL,
        "replay",
        "locked.state = 6 AND locked.run_epoch = item.run_epoch",
        "locked.state = 6",
    ),
    "a lease looked at before the locks": first_look,
}
