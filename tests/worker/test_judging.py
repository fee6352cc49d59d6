"""When an executor, or a run in it, is taken for one that does not come back."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from headway_core.leases import LeaseEnd
from headway_core.runs import HeldRun
from headway_worker.control import Pulse, Stuck
from headway_worker.endings import Stop
from headway_worker.keeper import Verdict, suspicion
from headway_worker.reconciliation import differences
from headway_worker.running import Run, RunTable
from headway_worker.watchdog import is_stuck, verdict
from tests.worker.claims import make_claim

JOB = UUID("01935c7e-0000-7000-8000-000000000001")
TWO_LEASES = timedelta(seconds=30)


def judged(pulse: Pulse | None, last_word: float) -> Verdict | None:
    return suspicion(pulse, last_word, now=100.0, silence_max=TWO_LEASES, beating_since=0.0)


def test_an_executor_that_speaks_and_turns_and_reaches_postgres_is_left_alone() -> None:
    assert judged(Pulse(99.0, 71.0), 99.5) is None
    assert judged(None, 99.5) is None


def test_a_silent_executor_is_judged_like_a_dead_one() -> None:
    """Else a job that keeps the interpreter lock each time would be interrupted for ever."""
    found = judged(Pulse(50.0, 50.0), 69.0)
    assert found is not None
    assert found.how is LeaseEnd.DIED


def test_an_executor_cut_off_from_postgres_is_stopped_at_nobodys_cost() -> None:
    found = judged(Pulse(99.0, 69.0), 99.5)
    assert found is not None
    assert (found.how, found.timed_out) == (LeaseEnd.STOPPED, {})


def test_an_outage_of_postgres_is_not_counted_against_an_executor() -> None:
    """The supervisor's own heartbeats failed, too, until just now."""
    outage = Pulse(loop_seen=100.0, store_seen=100.0 - 3 * TWO_LEASES.total_seconds())
    found = suspicion(outage, 100.0, now=100.0, silence_max=TWO_LEASES, beating_since=99.0)
    assert found is None


def test_who_blocks_the_loop_is_charged_and_nobody_else() -> None:
    found = judged(Pulse(69.0, 69.0, (JOB, 4)), 99.5)
    assert found is not None
    assert (found.how, found.timed_out) == (LeaseEnd.STOPPED, {JOB: 4})


def test_a_loop_blocked_by_an_unknown_is_judged_by_company() -> None:
    found = judged(Pulse(69.0, 69.0), 99.5)
    assert found is not None
    assert found.how is LeaseEnd.DIED


def run_of(**given: object) -> Run:
    run = Run(JOB, claim=make_claim(JOB, run_epoch=3))
    run.code_running = True
    for name, value in given.items():
        setattr(run, name, value)
    return run


@pytest.mark.parametrize(
    ("given", "stuck"),
    [
        ({}, False),
        ({"stop": Stop.CANCELLED, "stop_time": 95.0}, False),
        ({"stop": Stop.CANCELLED, "stop_time": 85.0}, True),
        ({"stop": Stop.TIMED_OUT, "stop_time": 85.0, "code_running": False}, False),
        # Nobody could tell it to stop, for the loop is blocked.
        ({"deadline": 85.0}, True),
        ({"deadline": 95.0}, False),
        # Its process is about to end anyway.
        ({"stop": Stop.DRAINED, "stop_time": 50.0}, False),
    ],
)
def test_code_that_goes_on_after_its_end_is_stuck(given: dict[str, object], stuck: bool) -> None:
    assert is_stuck(run_of(**given), since=90.0) is stuck


def test_only_those_whose_time_was_up_are_named_as_timed_out() -> None:
    late = run_of(stop=Stop.TIMED_OUT)
    blocked = Run(uuid4(), claim=make_claim(uuid4(), run_epoch=5))
    cancelled = run_of(stop=Stop.CANCELLED)
    cancelled.job_id = uuid4()
    found = verdict([late, blocked, cancelled])
    assert isinstance(found, Stuck)
    assert found.timed_out == {JOB: 3, blocked.job_id: 5}


async def test_what_runs_in_our_name_unheld_is_found() -> None:
    stored = {JOB: HeldRun(3, uuid4(), cancel_requested=False)}
    found = differences(stored, set(), [], RunTable().of_claim)
    assert found.unknown == [(JOB, 3)]


async def test_a_run_held_at_any_moment_of_the_query_is_no_difference() -> None:
    """The race's winner is the claim that is sent, or settled, while the query is under way."""
    table = RunTable()
    run = Run(JOB)
    with table.watched() as held:
        table.hold(run)
        table.let_go(run)
        stored = {JOB: HeldRun(1, run.claim_id, cancel_requested=False)}
        assert differences(stored, held, [], table.of_claim).unknown == []


async def test_a_run_that_is_no_longer_ours_is_lost() -> None:
    run = run_of()
    table = RunTable()
    assert differences({}, {run.claim_id}, [run], table.of_claim).lost == [run]
    elsewhere = {JOB: HeldRun(4, uuid4(), cancel_requested=False)}
    assert differences(elsewhere, {run.claim_id}, [run], table.of_claim).lost == [run]


async def test_a_run_that_settles_meanwhile_is_not_lost() -> None:
    run = run_of(settling=True)
    assert differences({}, {run.claim_id}, [run], RunTable().of_claim).lost == []


async def test_a_cancel_request_whose_hint_was_lost_is_found() -> None:
    run = run_of()
    stored = {JOB: HeldRun(3, run.claim_id, cancel_requested=True)}
    table = RunTable()
    table.hold(run)
    found = differences(stored, {run.claim_id}, [run], table.of_claim)
    assert (found.to_cancel, found.lost, found.unknown) == ([run], [], [])


async def test_the_first_reason_to_stop_stands_but_lost_overrides() -> None:
    run = run_of()
    told: list[Stop | None] = []
    run.on_stop = lambda: told.append(run.stop)
    run.request_stop(Stop.TIMED_OUT)
    run.request_stop(Stop.CANCELLED)
    assert run.stop is Stop.TIMED_OUT
    run.request_stop(Stop.LOST)
    assert run.stop is Stop.LOST
    assert told == [Stop.TIMED_OUT]
    await asyncio.sleep(0)
