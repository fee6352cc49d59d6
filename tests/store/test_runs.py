"""Claims, settles and what guards them."""

import asyncio
from datetime import timedelta
from random import Random
from uuid import UUID, uuid4

import pytest

from headway_core import claims, dead_letters, events, jobs, leases, outbox, runs, steps
from headway_core.content import Content, ContentKind, json_content
from headway_core.database import Database
from headway_core.errors import JobNotDead
from headway_core.job import JobError
from headway_core.outcomes import Cancelled, Failed, Outcome, Snoozed, Succeeded
from headway_core.settlement import decide
from headway_core.states import EventType, Isolation, JobState

from .conftest import DEATH, Register, Submit

TYPES = frozenset({"noop"})


async def claim(database: Database, worker: UUID, job_id: UUID) -> claims.ClaimOutcome:
    request = claims.ClaimRequest(job_id, uuid4(), 1)
    (outcome,) = await claims.claim(database, [request], worker_id=worker, types=TYPES)
    return outcome


async def must_claim(database: Database, worker: UUID, job_id: UUID) -> claims.Claim:
    outcome = await claim(database, worker, job_id)
    assert isinstance(outcome, claims.Claim), outcome
    return outcome


def end(claimed: claims.Claim, outcome: Outcome) -> runs.Settle:
    settlement = decide(claimed.budget, outcome, random=Random(1))
    return runs.Settle(claimed.job_id, claimed.run_epoch, claimed.claim_id, settlement)


async def settle(
    database: Database, worker: UUID, claimed: claims.Claim, outcome: Outcome
) -> runs.Settled | runs.Fenced:
    (settled,) = await runs.settle(database, [end(claimed, outcome)], worker_id=worker)
    return settled


async def history(database: Database, job_id: UUID) -> list[str]:
    found = await events.after(database, job_id, 0, limit=1000)
    assert [event.sequence for event in found] == list(range(1, len(found) + 1))
    return [event.type.name for event in found]


async def test_a_job_goes_from_submit_to_completed(
    database: Database, submit: Submit, register: Register
) -> None:
    """The plain way, with its history, result and traces."""
    worker = await register()
    submitted = await submit(payload=json_content({"n": 1}))
    assert submitted.created
    assert submitted.dispatch is not None
    await outbox.delete(database, [submitted.dispatch.outbox_id])
    claimed = await must_claim(database, worker, submitted.job.id)
    assert (claimed.run_epoch, claimed.attempt, claimed.sequence) == (1, 1, 2)
    assert claimed.payload == Content(ContentKind.JSON, b'{"n":1}')
    stored = await steps.complete_step(
        database,
        job_id=claimed.job_id,
        run_epoch=1,
        worker_id=worker,
        name="fetch",
        result=json_content([1]),
    )
    assert stored == steps.StepStored(3)
    assert await steps.load_steps(database, claimed.job_id) == {"fetch": json_content([1])}
    done = await settle(database, worker, claimed, Succeeded(json_content({"ok": True})))
    assert done == runs.Settled(JobState.COMPLETED, 4)
    job = await jobs.get(database, claimed.job_id, full=True)
    assert job.done
    assert job.result == json_content({"ok": True})
    names = await history(database, claimed.job_id)
    assert names == ["SUBMITTED", "STARTED", "STEP_COMPLETED", "COMPLETED"]
    last = (await events.after(database, claimed.job_id, 3, limit=1))[0]
    assert last.job.state is JobState.COMPLETED
    assert last.job.result == json_content({"ok": True})
    assert await runs.held(database, worker) == {}


async def test_a_settle_run_twice_recognises_its_own_result(
    database: Database, submit: Submit, register: Register
) -> None:
    """A commit whose reply was lost is written again, and must not be taken for a lost run."""
    worker = await register()
    ends: list[tuple[Outcome, JobState]] = [
        (Succeeded(None), JobState.COMPLETED),
        (Failed(JobError("E", "m", True)), JobState.FAILED),
        (Failed(JobError("E", "m", False)), JobState.DEAD),
        (Snoozed(timedelta(hours=1)), JobState.PENDING),
    ]
    for outcome, state in ends:
        claimed = await must_claim(database, worker, (await submit()).job.id)
        first = await settle(database, worker, claimed, outcome)
        again = await settle(database, worker, claimed, outcome)
        assert first == again == runs.Settled(state, 3)


async def test_a_claim_run_twice_finds_its_own_claim(
    database: Database, submit: Submit, register: Register
) -> None:
    """The rerun of a claim must not start a second run, nor forget the first."""
    worker = await register()
    request = claims.ClaimRequest((await submit()).job.id, uuid4(), 1)
    first = await claims.claim(database, [request], worker_id=worker, types=TYPES)
    again = await claims.claim(database, [request], worker_id=worker, types=TYPES)
    assert first == again
    other = claims.ClaimRequest(request.job_id, uuid4(), 1)
    assert await claims.claim(database, [other], worker_id=worker, types=TYPES) == [
        claims.NothingToDo()
    ]


async def test_a_stale_claim_id_on_a_waiting_job_is_no_claim(
    database: Database, submit: Submit, register: Register
) -> None:
    """A rerun counts only while the row is RUNNING: else it would run unowned (model, trace 1)."""
    worker = await register()
    request = claims.ClaimRequest((await submit()).job.id, uuid4(), 1)
    await claims.claim(database, [request], worker_id=worker, types=TYPES)
    await runs.interrupt_unheld(database, worker, [(request.job_id, 1)])
    (outcome,) = await claims.claim(database, [request], worker_id=worker, types=TYPES)
    assert isinstance(outcome, claims.Claim)
    assert outcome.run_epoch == 2


async def test_no_claim_without_a_live_lease(
    database: Database, submit: Submit, register: Register
) -> None:
    """A lapsed worker's job would be taken for lost at once."""
    worker = await register(lease=timedelta(milliseconds=1))
    await asyncio.sleep(0.01)
    job_id = (await submit()).job.id
    assert await claim(database, worker, job_id) == claims.LeaseLapsed()
    assert (await leases.beat(database, [worker], lease=timedelta(seconds=15)))[worker]
    await must_claim(database, worker, job_id)


async def test_a_type_without_handler_is_declined_and_due_when_one_registers(
    database: Database, submit: Submit, register: Register
) -> None:
    """The job waits with backoff, spends nothing, and takes the handler's queue and policy."""
    worker = await register("other")
    job_id = (await submit("late.type")).job.id
    (outcome,) = await claims.claim(
        database, [claims.ClaimRequest(job_id, uuid4(), 1)], worker_id=worker, types={"other"}
    )
    assert outcome == claims.TypeLacking()
    declined = await claims.decline(
        database, job_id, worker_id=worker, dispatch_no=1, types={"other"}
    )
    assert declined == claims.Declined()
    again = await claims.decline(database, job_id, worker_id=worker, dispatch_no=1, types={"other"})
    assert again == claims.NothingToDo()
    job = await jobs.get(database, job_id, full=False)
    assert job.next_attempt_time is not None
    assert job.next_attempt_time > job.create_time + timedelta(milliseconds=900)
    late = await register("late.type", queue="slow", max_attempts=9)
    job = await jobs.get(database, job_id, full=False)
    assert (job.queue, job.max_attempts, job.attempt) == ("slow", 9, 0)
    (outcome,) = await claims.claim(
        database, [claims.ClaimRequest(job_id, uuid4(), 1)], worker_id=late, types={"late.type"}
    )
    assert isinstance(outcome, claims.Claim)


async def test_a_zombies_writes_change_nothing(
    database: Database, submit: Submit, register: Register
) -> None:
    """The epoch is the fence: the second worker wins, the one whose lease ended loses."""
    first, second = await register(), await register()
    old = await must_claim(database, first, (await submit()).job.id)
    await leases.end(database, first, how=leases.LeaseEnd.DIED, message="died")
    new = await must_claim(database, second, old.job_id)
    assert await settle(database, first, old, Succeeded(None)) == runs.Fenced()
    step = await steps.complete_step(
        database,
        job_id=old.job_id,
        run_epoch=1,
        worker_id=first,
        name="x",
        result=json_content(1),
    )
    assert step == runs.Fenced()
    assert isinstance(await settle(database, second, new, Succeeded(None)), runs.Settled)
    assert not (await leases.beat(database, [first], lease=timedelta(seconds=15)))[first]


async def test_a_death_alone_is_charged_and_a_death_in_company_is_not(
    database: Database, submit: Submit, register: Register
) -> None:
    """Crash containment: nobody pays for a neighbour."""
    alone, full = await register(), await register()
    single = (await must_claim(database, alone, (await submit()).job.id)).job_id
    many = [(await must_claim(database, full, (await submit()).job.id)).job_id for _ in range(3)]
    (judged,) = await leases.end(database, alone, how=leases.LeaseEnd.DIED, message="killed")
    assert (judged.job_id, judged.state) == (single, JobState.FAILED)
    judged_many = await leases.end(database, full, how=leases.LeaseEnd.DIED, message="killed")
    assert {one.state for one in judged_many} == {JobState.PENDING}
    third = await register()
    charged = await must_claim(database, third, single)
    assert (charged.crashes, charged.isolation, charged.attempt) == (1, Isolation.CHILD, 1)
    for job_id in many:
        suspect = await must_claim(database, third, job_id)
        assert (suspect.crashes, suspect.isolation) == (0, Isolation.CHILD)
    await leases.end(database, third, how=leases.LeaseEnd.DIED, message="killed")
    fourth = await register()
    first = await must_claim(database, fourth, many[0])
    assert first.isolation is Isolation.ALONE
    assert await claim(database, fourth, many[1]) == claims.MustRunAlone()


async def test_a_job_that_always_kills_its_worker_dies_of_it(
    database: Database, submit: Submit, register: Register
) -> None:
    """P7: the crash budget is three, whatever the attempts."""
    job_id = (await submit()).job.id
    states = []
    for _ in range(3):
        worker = await register()
        await must_claim(database, worker, job_id)
        (judged,) = await leases.end(database, worker, how=leases.LeaseEnd.DIED, message="oom")
        states.append(judged.state)
    assert states == [JobState.FAILED, JobState.FAILED, JobState.DEAD]
    async with database.transaction() as connection:
        due = await outbox.take_due(connection, limit=10)
    assert [dispatch.dead for dispatch in due].count(True) == 1


async def test_reap_ends_what_a_lapsed_lease_covers_and_only_that(
    database: Database, submit: Submit, register: Register
) -> None:
    """A renewed lease is spared even if it was found lapsed a moment ago (model, trace 8)."""
    lost = await register(lease=timedelta(milliseconds=1))
    live = await register()
    await leases.beat(database, [lost], lease=timedelta(minutes=5))
    taken = await must_claim(database, lost, (await submit()).job.id)
    kept = await must_claim(database, live, (await submit()).job.id)
    assert await leases.reap(database, live) == []
    assert await leases.reap(database, lost) == []
    await lapse(database, lost)
    assert await leases.lapsed(database, limit=10) == [lost]
    await leases.beat(database, [lost], lease=timedelta(minutes=5))
    assert await leases.reap(database, lost) == []
    await lapse(database, lost)
    (judged,) = await leases.reap(database, lost)
    assert judged.job_id == taken.job_id
    assert await leases.reap(database, lost) == []
    assert list(await runs.held(database, live)) == [kept.job_id]


async def lapse(database: Database, worker_id: UUID) -> None:
    """Let a lease run out."""
    await database.execute(
        "UPDATE workers SET lease_expires = clock_timestamp() WHERE id = $1", worker_id
    )


async def test_a_drained_lease_interrupts_and_charges_nothing(
    database: Database, submit: Submit, register: Register
) -> None:
    """P10, also for a claim whose reply was lost (model, trace 3)."""
    worker = await register()
    taken = await must_claim(database, worker, (await submit()).job.id)
    (judged,) = await leases.end(
        database, worker, how=leases.LeaseEnd.DRAINED, message="the worker drained"
    )
    assert judged.state is JobState.PENDING
    job = await jobs.get(database, taken.job_id, full=False)
    assert (job.attempt, job.error) == (1, None)
    assert (await history(database, taken.job_id))[-1] == "INTERRUPTED"


async def test_a_run_that_outlived_its_timeout_is_charged_and_its_neighbours_are_not(
    database: Database, submit: Submit, register: Register
) -> None:
    """One transaction ends the lease, the guilty run and the innocent ones."""
    worker = await register()
    guilty = await must_claim(database, worker, (await submit(timeout=timedelta(seconds=1))).job.id)
    innocent = await must_claim(database, worker, (await submit()).job.id)
    judged = await leases.end(
        database,
        worker,
        how=leases.LeaseEnd.STOPPED,
        message="for a neighbour's sake",
        timed_out={guilty.job_id: guilty.run_epoch},
    )
    states = {one.job_id: one.state for one in judged}
    assert states == {guilty.job_id: JobState.FAILED, innocent.job_id: JobState.PENDING}
    job = await jobs.get(database, guilty.job_id, full=False)
    assert job.error is not None
    assert job.error.type == "Timeout"


async def test_while_a_cancel_request_stands_only_completed_wins(
    database: Database, submit: Submit, register: Register
) -> None:
    """Any other end, a retry too, becomes CANCELLED."""
    worker = await register()
    ends: list[tuple[Outcome, JobState]] = [
        (Succeeded(None), JobState.COMPLETED),
        (Failed(JobError("E", "m", True)), JobState.CANCELLED),
        (Failed(JobError("E", "m", False)), JobState.CANCELLED),
        (Cancelled("asked"), JobState.CANCELLED),
    ]
    for outcome, state in ends:
        claimed = await must_claim(database, worker, (await submit()).job.id)
        job = await jobs.cancel(database, claimed.job_id, reason="no more")
        assert job.state is JobState.RUNNING
        assert (await jobs.cancel(database, claimed.job_id, reason="x")).sequence == job.sequence
        assert (await runs.held(database, worker))[claimed.job_id].cancel_requested
        settled = await settle(database, worker, claimed, outcome)
        assert isinstance(settled, runs.Settled)
        assert settled.state is state
        await history(database, claimed.job_id)
    assert await dead_letters.group_dead(database, dead_letters.DeadLetterFilter(), limit=9) == []


async def test_a_waiting_job_is_cancelled_at_once_and_its_message_with_it(
    database: Database, submit: Submit
) -> None:
    """Also one that is due next year."""
    job_id = (await submit(delay=timedelta(days=300))).job.id
    job = await jobs.cancel(database, job_id, reason="typo")
    assert job.state is JobState.CANCELLED
    assert await outbox.next_due(database) is None
    assert await history(database, job_id) == ["SUBMITTED", "CANCELLED"]


async def test_a_dead_job_is_replayed_once_with_fresh_budgets(
    database: Database, submit: Submit, register: Register
) -> None:
    """Fifty callers at once give one new life; the epoch goes on."""
    worker = await register()
    job_id = (await submit()).job.id
    with pytest.raises(JobNotDead):
        await dead_letters.replay(database, job_id)
    claimed = await must_claim(database, worker, job_id)
    await settle(database, worker, claimed, Failed(JobError("E", "bad 17", False)))
    (letter,) = await dead_letters.list_dead(
        database, dead_letters.DeadLetterFilter(), before=None, limit=10
    )
    assert letter.job.id == job_id
    replays = await asyncio.gather(*(dead_letters.replay(database, job_id) for _ in range(50)))
    assert sum(replayed.count for replayed in replays) == 1
    job = await jobs.get(database, job_id, full=False)
    assert (job.state, job.attempt, job.error, job.run_epoch) == (JobState.PENDING, 0, None, 1)
    again = await must_claim(database, worker, job_id)
    assert (again.run_epoch, again.attempt) == (2, 1)
    await settle(database, worker, again, Succeeded(None))
    assert await history(database, job_id) == [
        "SUBMITTED",
        "STARTED",
        "DEAD",
        "REPLAYED",
        "STARTED",
        "COMPLETED",
    ]


async def test_the_mark_leaves_alone_what_has_moved_on(
    database: Database, submit: Submit, register: Register
) -> None:
    """QUEUED is lazy: a job that started at once has no such event."""
    worker = await register()
    waiting, started = (await submit()).job.id, (await submit()).job.id
    await must_claim(database, worker, started)
    marked = await outbox.mark_queued(database, [(waiting, 1), (started, 1)])
    assert marked == [(waiting, 2)]
    assert await outbox.mark_queued(database, [(waiting, 1)]) == []
    assert await history(database, waiting) == ["SUBMITTED", "QUEUED"]
    assert EventType.QUEUED.name not in await history(database, started)


async def test_the_columns_of_a_batch_may_have_gaps(
    database: Database, submit: Submit, register: Register
) -> None:
    """A result, an error, a delay and nothing at all: each end has what is its own."""
    worker = await register()
    result = Content(ContentKind.DATA, b"", "text/plain")
    outcomes = [
        Succeeded(None),
        Succeeded(result),
        DEATH,
        Snoozed(timedelta(0)),
        Snoozed(timedelta(hours=1)),
    ]
    claims_ = [await must_claim(database, worker, (await submit()).job.id) for _ in outcomes]
    await runs.settle(
        database,
        [end(claimed, outcome) for claimed, outcome in zip(claims_, outcomes, strict=True)],
        worker_id=worker,
    )
    found = [await jobs.get(database, claimed.job_id, full=True) for claimed in claims_]
    completed, dead, pending = JobState.COMPLETED, JobState.DEAD, JobState.PENDING
    assert [job.state for job in found] == [completed, completed, dead, pending, pending]
    assert [job.result for job in found] == [None, result, None, None, None]
    assert [job.error for job in found] == [None, None, DEATH.error, None, None]
    delays = [job.next_attempt_time - job.create_time for job in found if job.next_attempt_time]
    assert [delay > timedelta(minutes=50) for delay in delays] == [False, True]
    messages = [(await events.after(database, job.id, 2, limit=1))[0].message for job in found]
    assert [bool(message) for message in messages] == [False, False, True, True, True]


async def test_every_end_of_a_batch_is_its_own(
    database: Database, submit: Submit, register: Register
) -> None:
    """A batch holds ours, a stranger's and one already ended; each gets its own answer."""
    worker = await register()
    claims = [await must_claim(database, worker, (await submit()).job.id) for _ in range(3)]
    await settle(database, worker, claims[1], Succeeded(None))
    await leases.end(database, worker, how=leases.LeaseEnd.DIED, message="x")
    outcomes = await runs.settle(
        database, [end(claimed, Succeeded(None)) for claimed in claims], worker_id=worker
    )
    assert outcomes == [runs.Fenced(), runs.Settled(JobState.COMPLETED, 3), runs.Fenced()]
