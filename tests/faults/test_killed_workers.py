"""P2, P3, P4, P10: executors, supervisors and whole workers are killed, frozen, told to leave."""

import asyncio
import signal
import time

import psutil
import pytest

from headway import RetryPolicy
from tests.faults.rig import INTERRUPTED_ONCE, Rig
from tests.faults.waiting import promised, until

EXECUTOR_RECOVERY_SECONDS_MAX = {2: 2.0, 1: 5.0}
"""By the number of executors: an only one has to be replaced first, by a process that starts."""
LAPSE_SECONDS_MAX = 10.0
"""A lease of 3 s and the reaper's ticks."""


@pytest.mark.parametrize("processes", [2, 1])
async def test_jobs_of_a_killed_executor_run_again_at_once(rig: Rig, processes: int) -> None:
    """P2, P4: the supervisor sees the death and says so; no lease has to lapse. Recovery ≤ 2 s
    beside another executor, else as long as one takes to start.
    """
    worker = await rig.worker("--processes", str(processes), "--concurrency", "6")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 6, journal=str(journal), until=str(gate))
        first = await journal.begun(6)
        victim = max(worker.executors(), key=lambda one: sum(line.pid == one.pid for line in first))
        lost = {line.job_id for line in first if line.pid == victim.pid}
        assert lost
        killed_at = time.time()
        victim.kill()
        again = (await journal.begun(6 + len(lost)))[6:]
        took = max(line.time for line in again) - killed_at
        assert {line.job_id for line in again} == lost
        gate.touch()
    await rig.done()
    for job_id in lost:
        events = await rig.history(job_id)
        assert events.count("STARTED") == 2
        assert events.count("COMPLETED") == 1
    await rig.judge()
    promised(
        f"executor killed, one of {processes} -> its jobs run again",
        took,
        EXECUTOR_RECOVERY_SECONDS_MAX[processes],
    )


async def test_an_executor_killed_in_any_seam_loses_nothing(rig: Rig) -> None:
    """P2, P3: between claim, settle, ack and hand-off; each seam is killed in, under load.

    After a claim's commit the message is still at the broker, after a settle's it is redelivered
    and does nothing; either way each job has one completion.
    """
    await rig.worker("--processes", "2", "--concurrency", "3")
    async with rig.client() as client:
        for seams in (
            ("after_claim_commit", "after_settle_commit"),
            ("before_settle_commit", "after_ack"),
            ("after_dead_commit", "before_handoff_ack"),
        ):
            rig.arm(", ".join(f"{seam}=kill@1" for seam in seams))
            await rig.submit(client, 5, seconds=0.05)
            await rig.submit(client, 2, seconds=2.2)  # long enough to be handed off
            for _ in range(3):
                once = RetryPolicy(max_attempts=1)
                rig.accept([await client.submit("fault.work", {"failures": 9}, retry_policy=once)])
            for seam in seams:
                await rig.hit(seam)
            await rig.done()
    await rig.judge()


async def test_jobs_of_a_killed_worker_run_elsewhere_when_its_lease_has_lapsed(rig: Rig) -> None:
    """P1, P2, P4: SIGKILL to all of it, as a machine that loses its power."""
    first = await rig.worker()
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 4, journal=str(journal), until=str(gate))
        await journal.begun(4)
        second = await rig.worker()
        killed_at = time.time()
        await asyncio.to_thread(first.kill)
        again = (await journal.begun(8))[4:]
        took = max(line.time for line in again) - killed_at
        assert second.alive
        gate.touch()
    await rig.judge()
    assert set(journal.runs().values()) == {2}
    promised("worker killed, lease of 3 s -> its jobs run again", took, LAPSE_SECONDS_MAX)


async def test_a_worker_that_slept_beyond_its_lease_changes_nothing(rig: Rig) -> None:
    """P2, P4: SIGSTOP, its jobs run elsewhere, SIGCONT: a zombie with two finished jobs in hand."""
    # No free slot, or what the broker sends it meanwhile waits there for the broker's heartbeat.
    zombie = await rig.worker("--concurrency", "2")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        zombie.pause()
        await rig.worker()
        await journal.begun(4)
        gate.touch()
        await rig.done()
        ends = len(journal.lines("end"))
        assert ends == 2
        zombie.resume()
        # It finds its lease ended, or its settles fenced; its executor goes, another one comes.
        words = ("run_fenced", "run_no_longer_ours", "its lease was ended")
        await until(lambda: any(word in zombie.log for word in words), "the zombie learns of it")
        await rig.submit(client, 4)
    await rig.judge()


@pytest.mark.parametrize("seam", ["release_mid", "before_settle_commit", "after_settle_commit"])
async def test_a_worker_killed_while_it_drains_loses_nothing(rig: Rig, seam: str) -> None:
    """P10: its executor dies as it lets go of its runs: before any is released, in the midst, and
    before their acks; the runs are interrupted, uncharged.
    """
    first = await rig.worker(HEADWAY_DRAIN_SECONDS="1")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        jobs = await rig.submit(client, 3, journal=str(journal), until=str(gate))
        await journal.begun(3)
        await rig.worker()
        rig.arm(f"{seam}=kill@1")
        first.supervisor.send_signal(signal.SIGTERM)
        await rig.hit(seam)
        await first.ended()
        await journal.begun(6)
        gate.touch()
        await rig.done()
        for job in jobs:
            events = await rig.history(job.id)
            assert events == INTERRUPTED_ONCE
            assert (await client.get(job.id)).attempt == 1
    await rig.judge()


async def test_sigkill_to_all_of_a_draining_worker_loses_nothing(rig: Rig) -> None:
    """P10: nobody is left to end the lease; it lapses."""
    first = await rig.worker(HEADWAY_DRAIN_SECONDS="30")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        await rig.worker()
        first.supervisor.send_signal(signal.SIGTERM)
        await until(lambda: "draining" in first.log, "it drains")
        await asyncio.to_thread(first.kill)
        await journal.begun(4)
        gate.touch()
    await rig.judge()


async def test_executors_do_not_outlive_their_supervisor(rig: Rig) -> None:
    """P4: SIGKILL to the supervisor alone: nobody renews the lease, so nobody may run either."""
    first = await rig.worker("--processes", "2")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        executors = first.executors()
        assert len(executors) == 2
        await rig.worker()
        first.supervisor.kill()
        _, left = await asyncio.to_thread(psutil.wait_procs, executors, 20)
        assert not left
        await first.ended()
        await journal.begun(4)
        gate.touch()
    await rig.judge()


async def test_a_paused_supervisor_costs_its_executor_the_lease(rig: Rig) -> None:
    """P4: the executor alone cannot keep its runs; once awake, the supervisor replaces it."""
    first = await rig.worker()
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        before = first.executors()
        await rig.worker()
        first.supervisor.suspend()
        await journal.begun(4)
        first.supervisor.resume()
        _, left = await asyncio.to_thread(psutil.wait_procs, before, 60)
        assert not left, "the executor without a lease goes on"
        gate.touch()
        await rig.submit(client, 4)
    await rig.judge()


async def test_rolling_sigterm_under_load_costs_no_attempt(rig: Rig) -> None:
    """P10, the race of drain against settle: three workers leave one after the other.

    Every run is either settled by its own or interrupted, and no attempt is spent.
    """
    journal = rig.journal()
    current = await rig.worker("--concurrency", "4", HEADWAY_DRAIN_SECONDS="0.4")
    async with rig.client() as client:
        jobs = await rig.submit(client, 120, journal=str(journal), seconds=0.15)
        for number in range(3):
            await journal.begun(12 * (number + 1))
            following = await rig.worker("--concurrency", "4", HEADWAY_DRAIN_SECONDS="0.4")
            await current.drain()
            current = following
        await rig.done()
        rows = await rig.query("SELECT sum(failures), sum(crashes), max(attempt) FROM jobs")
        assert tuple(rows[0]) == (0, 0, 1)
        assert len(jobs) == 120
    await rig.judge()
