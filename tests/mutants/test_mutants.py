"""Guards taken away from the real code, by name: each loss must be seen by a check.

Every scenario is played twice on real Postgres: as the code stands, which must leave nothing to
find, and with the mutant, which must be caught by the very words.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from headway_core import claims, jobs, leases, outbox, runs, sweeps
from headway_core.content import Content
from headway_core.database import Database
from headway_core.job import JobError
from headway_core.outcomes import Failed, Succeeded
from headway_core.queries import Queries
from headway_server import sweeper
from headway_worker import reconciliation
from tests.faults.history import check
from tests.mutants.service import Service, result

HOUR = timedelta(hours=1)

Patch = Callable[[pytest.MonkeyPatch], None]


async def a_zombie_settles_after_its_successor(service: Service) -> list[str]:
    """Its lease was ended while it ran on."""
    first, second = await service.worker(), await service.worker()
    (job_id,) = [await service.submit()]
    (old,) = await service.claim(first, job_id)
    await leases.end(service.database, first, how=leases.LeaseEnd.DIED, message="cut off")
    (new,) = await service.claim(second, job_id)
    await service.settle(second, new, Succeeded(result("new")))
    await service.settle(first, old, Succeeded(result("old")))
    return await check(service.database, at_rest=False)


async def a_zombie_settles_before_its_successor(service: Service) -> list[str]:
    """The job is RUNNING again by then, in another's name."""
    first, second = await service.worker(), await service.worker()
    (job_id,) = [await service.submit()]
    (old,) = await service.claim(first, job_id)
    await leases.end(service.database, first, how=leases.LeaseEnd.DIED, message="cut off")
    (new,) = await service.claim(second, job_id)
    await service.settle(first, old, Succeeded(result("old")))
    settled = await service.settle(second, new, Succeeded(result("new")))
    words = await check(service.database, at_rest=False)
    job = await jobs.get(service.database, job_id, full=True)
    assert isinstance(job.result, Content)
    if job.result != result("new"):
        words.append("a stale worker's write stands")
    if isinstance(settled, runs.Fenced):
        words.append("the run that holds the job is fenced")
    return words


async def the_broker_loses_its_messages(service: Service) -> list[str]:
    """A QUEUED job, and nothing speaks for it."""
    await service.submit()
    await service.relay()
    await service.mark()
    service.messages.clear()
    return await service.finish()


async def a_mark_comes_after_the_failure(service: Service) -> list[str]:
    """The job waits an hour for its retry; the mark is of the dispatch before."""
    job_id, worker = await service.submit(backoff=HOUR), await service.worker()
    await service.relay()
    (claimed,) = await service.claim(worker, job_id)
    await service.settle(worker, claimed, Failed(JobError("E", "x", retryable=True)))
    await service.mark()
    words = await check(service.database, at_rest=False)
    unconfirmed = await service.database.fetch(
        "SELECT id FROM jobs WHERE state = 2 AND EXISTS (SELECT FROM outbox "
        "WHERE job_id = jobs.id AND outbox.dispatch_no = jobs.dispatch_no)"
    )
    return words + [
        f"{row['id']}: QUEUED, and the broker never confirmed it" for row in unconfirmed
    ]


async def a_claim_whose_reply_is_lost(service: Service) -> list[str]:
    """It runs in the name of a worker that lives and knows nothing of it."""
    job_id, worker = await service.submit(), await service.worker()
    await service.relay()
    service.messages.clear()
    await service.claim(worker, job_id)
    return await service.finish()


async def a_run_that_the_reaper_found_locked(service: Service) -> list[str]:
    """SKIP LOCKED: somebody held the row when its worker was judged."""
    job_id, worker = await service.submit(), await service.worker()
    await service.relay()
    service.messages.clear()
    await service.claim(worker, job_id)
    service.workers.remove(worker)
    await service.lapse(worker)
    async with service.database.transaction() as connection:
        await connection.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
        await service.reap()
    return await service.finish()


async def two_copies_that_nobody_can_run(service: Service) -> list[str]:
    """A relay crashed after its publish; every worker lacks the type."""
    await service.submit("rare")
    worker = await service.worker()
    await service.relay(crashes=True)
    await service.relay()
    for _ in range(3):
        await service.deliver(worker)
        for table, column in (("jobs", "wait_time"), ("outbox", "available_at")):
            await service.database.execute(
                f"UPDATE {table} SET {column} = clock_timestamp() WHERE {column} IS NOT NULL"
            )
        await service.relay()
    return await check(service.database, at_rest=False) + await service.copies()


async def a_sweep_before_the_mark(service: Service) -> list[str]:
    """Nothing went wrong: the mark is only lazy."""
    await service.submit()
    await service.relay()
    await service.sweep()
    await service.mark()
    return await check(service.database, at_rest=False) + await service.copies()


async def a_poison_job_and_an_innocent_one(service: Service) -> list[str]:
    """They share their worker's deaths until each has one to itself."""
    poison, innocent = await service.submit(), await service.submit()
    for _ in range(3):
        worker = await service.worker()
        for job_id in (poison, innocent):
            state = (await jobs.get(service.database, job_id, full=False)).state
            if not state.done:
                await service._claim(worker, (job_id, 1))
        await leases.end(service.database, worker, how=leases.LeaseEnd.DIED, message="killed")
    words = await check(service.database, at_rest=False)
    crashes = await service.database.fetchval("SELECT crashes FROM jobs WHERE id = $1", innocent)
    return words + [f"{innocent}: charged without a fault of the job"] * bool(crashes)


async def a_late_rerun_of_a_claim(service: Service) -> list[str]:
    """By then the run has ended as INTERRUPTED, and an hour lies before the next."""
    job_id, worker = await service.submit(), await service.worker()
    request = claims.ClaimRequest(job_id, worker, 1)
    kept = {"worker_id": worker, "types": {"noop"}}
    (first,) = await claims.claim(service.database, [request], **kept)  # type: ignore[arg-type]
    assert isinstance(first, claims.Claim)
    await service.settle(worker, first, Failed(JobError("E", "x", retryable=True)))
    await service.database.execute("UPDATE jobs SET wait_time = wait_time + interval '1 hour'")
    (again,) = await claims.claim(service.database, [request], **kept)  # type: ignore[arg-type]
    words = await check(service.database, at_rest=False)
    return words + ["a run begins that the row does not know"] * isinstance(again, claims.Claim)


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


DUE = (
    "AND (locked.state = 2 OR locked.wait_time <= clock_timestamp())\n      AND locked.type <> ALL"
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is taken away, where it matters, and the words of who sees it."""

    patch: Patch
    scenario: Callable[[Service], Awaitable[list[str]]]
    words: str


FENCE = "locked.state = 3 AND locked.worker_id = $1 AND locked.run_epoch = item.run_epoch"
MUTANTS = {
    "no fence": Mutant(
        without(runs.SQL, "settle", f"WHERE {FENCE}", "WHERE $1::uuid IS NOT NULL"),
        a_zombie_settles_after_its_successor,
        "goes on after COMPLETED",
    ),
    "a fence of the state alone": Mutant(
        without(runs.SQL, "settle", FENCE, "locked.state = 3 AND $1::uuid IS NOT NULL"),
        a_zombie_settles_before_its_successor,
        "a stale worker's write stands",
    ),
    "no sweeper": Mutant(no_sweep, the_broker_loses_its_messages, "QUEUED at rest"),
    "mark without its guard": Mutant(
        without(
            outbox.SQL,
            "mark_queued",
            "locked.state IN (1, 5) AND locked.dispatch_no = item.dispatch_no",
            "locked.state IN (1, 2, 5)",
        ),
        a_mark_comes_after_the_failure,
        "QUEUED, and the broker never confirmed it",
    ),
    "no reconciliation at the beat": Mutant(
        no_differences, a_claim_whose_reply_is_lost, "RUNNING at rest"
    ),
    "reap of leases that just ended": Mutant(
        without(
            leases.SQL,
            "lapsed",
            "ended_time IS NOT NULL OR lease_expires",
            "ended_time IS NULL AND lease_expires",
        ),
        a_run_that_the_reaper_found_locked,
        "RUNNING at rest",
    ),
    "decline without the due check": Mutant(
        both(
            without(claims.SQL, "decline", DUE, "AND locked.type <> ALL"),
            without(
                claims.SQL,
                "claim",
                "locked.state = 2 OR locked.wait_time <= clock_timestamp() AS",
                "true AS",
            ),
        ),
        two_copies_that_nobody_can_run,
        "2 messages for one job",
    ),
    "sweep on first sight": Mutant(first_sight, a_sweep_before_the_mark, "2 messages for one job"),
    "every dead worker's job charged": Mutant(
        without(
            leases.SQL,
            "end",
            "(SELECT count(*) FROM runs WHERE runs.worker_id = workers.id)",
            "1",
        ),
        a_poison_job_and_an_innocent_one,
        "charged without a fault of the job",
    ),
    "a rerun counts on any row": Mutant(
        both(
            without(
                claims.SQL, "claim", "locked.state = 3 AND locked.worker_id", "locked.worker_id"
            ),
            without(claims.SQL, "claimed_before", "jobs.state = 3 AND"),
        ),
        a_late_rerun_of_a_claim,
        "a run begins that the row does not know",
    ),
}


@pytest.fixture
async def service(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    monkeypatch.setattr(sweeper, "QUEUED_LONG", timedelta(0))
    database = await Database.connect(database_url, name="test", size=4)
    yield Service(database)
    await database.close()


@pytest.mark.parametrize("name", MUTANTS)
async def test_as_the_code_stands_nothing_is_found(name: str, service: Service) -> None:
    """Else the mutant's test would prove nothing."""
    assert not await MUTANTS[name].scenario(service)


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_mutant_is_caught(
    name: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the words of the invariant that it breaks."""
    mutant = MUTANTS[name]
    mutant.patch(monkeypatch)
    found = await mutant.scenario(service)
    print(f"{name}: {found}")
    assert any(mutant.words in word for word in found), found
