"""P7: jobs that kill, block or hold what they run in, alone and beside innocent ones."""

import pytest

from headway import JobState
from tests.faults.rig import Rig
from tests.faults.waiting import until

CRASHES_MAX = 3


ENDS = {
    "kill": "was killed by SIGKILL",
    "segfault": "was killed by SIGSEGV",
    "exit": "exited with code 3",
}


@pytest.mark.parametrize("how", ENDS)
async def test_a_poison_job_dies_after_its_crash_budget(rig: Rig, how: str) -> None:
    """P7: the run is committed before user code starts, so each death is counted.

    Each event says what became of the process; of the attempts of a handler none is spent.
    """
    await rig.worker()
    journal = rig.journal()
    async with rig.client() as client:
        (job,) = await rig.submit(client, 1, "fault.poison", journal=str(journal), how=how)
        await rig.done()
        dead = await client.get(job.id)
        assert dead.state is JobState.DEAD
        assert dead.error is not None
        assert dead.error.type == "WorkerLost"
    assert journal.runs()[job.id] == CRASHES_MAX
    # The first death took the executor along; after it the job had a child process to kill.
    assert [line.child for line in journal.lines()] == [False, True, True]
    alone, in_child = f"its worker process {ENDS[how]}", f"its process {ENDS[how]}"
    assert await rig.causes(job.id) == [
        ("SUBMITTED", 0, ""),
        ("STARTED", 1, ""),
        ("RETRY_SCHEDULED", 1, f"WorkerLost: {alone}"),
        ("STARTED", 1, ""),
        ("RETRY_SCHEDULED", 1, f"WorkerLost: {in_child} before the handler was done"),
        ("STARTED", 1, ""),
        ("DEAD", 1, f"lost its process 3 times: {in_child} before the handler was done"),
    ]
    await rig.judge()


async def test_a_poison_job_takes_no_innocent_along(rig: Rig) -> None:
    """P7: a death in company charges nobody; apart from each other, only the guilty dies again."""
    await rig.worker("--concurrency", "10")
    journal, fuse, gate = rig.journal(), rig.gate(), rig.gate()
    async with rig.client() as client:
        innocent = await rig.submit(client, 9, journal=str(journal), until=str(gate))
        (guilty,) = await rig.submit(
            client, 1, "fault.poison", journal=str(journal), until=str(fuse)
        )
        await journal.begun(10)
        fuse.touch()
        await journal.begun(19)
        gate.touch()
        await rig.done()
        assert (await client.get(guilty.id)).state is JobState.DEAD
        for job in innocent:
            done = await client.get(job.id)
            assert done.state is JobState.COMPLETED
            assert done.attempt == 1
            assert await rig.causes(job.id) == [
                ("SUBMITTED", 0, ""),
                ("STARTED", 1, ""),
                ("INTERRUPTED", 1, "its worker process was killed by SIGKILL, with 10 jobs on it"),
                ("STARTED", 1, ""),
                ("COMPLETED", 1, ""),
            ]
    # Once in company, uncharged, and then three times alone.
    assert journal.runs()[guilty.id] == CRASHES_MAX + 1
    assert max(journal.runs()[job.id] for job in innocent) == 2
    await rig.judge()


async def test_a_poison_job_that_kills_its_whole_worker_takes_no_innocent_along(rig: Rig) -> None:
    """P7, model trace 9: even from a child process; in the end it runs alone, and is charged."""
    await rig.worker("--concurrency", "4")
    journal, fuse, gate = rig.journal(), rig.gate(), rig.gate()
    async with rig.client() as client:
        innocent = await rig.submit(client, 2, journal=str(journal), until=str(gate))
        (guilty,) = await rig.submit(
            client, 1, "fault.poison", journal=str(journal), until=str(fuse), with_worker=True
        )
        await journal.begun(3)
        fuse.touch()
        await until(lambda: journal.runs()[guilty.id] >= 2, "it runs in a child")
        gate.touch()
        await rig.done()
        assert (await client.get(guilty.id)).state is JobState.DEAD
        charged = [cause for cause in await rig.causes(guilty.id) if "WorkerLost" in cause[2]]
        assert len(charged) == CRASHES_MAX - 1, charged
        for job in innocent:
            done = await client.get(job.id)
            assert done.state is JobState.COMPLETED
            assert done.attempt == 1
            assert "RETRY_SCHEDULED" not in await rig.history(job.id)
    await rig.judge()


async def test_a_blocked_loop_or_interpreter_is_not_taken_for_death(rig: Rig) -> None:
    """P2, P4: for longer than the lease, since the supervisor beats for the executor."""
    seconds = rig.lease_seconds + 1
    await rig.worker("--processes", "2", "--concurrency", "2")
    journal = rig.journal()
    async with rig.client() as client:
        blocking = [
            *await rig.submit(client, 1, "fault.block", journal=str(journal), seconds=seconds),
            *await rig.submit(client, 1, "fault.gil", journal=str(journal), seconds=seconds),
        ]
        await rig.submit(client, 2, journal=str(journal), seconds=0.2)
        await rig.done()
    begun = {line.job_id: line.time for line in journal.lines()}
    took = {line.job_id: line.time - begun[line.job_id] for line in journal.lines("end")}
    assert all(took[job.id] >= seconds for job in blocking), took
    assert max(journal.runs().values()) == 1
    await rig.judge(without_fault=True)


@pytest.mark.slow_faults
async def test_a_loop_blocked_for_good_costs_only_the_blocker(rig: Rig) -> None:
    """P7: after two leases the executor is ended; the neighbour is interrupted, uncharged."""
    worker = await rig.worker("--concurrency", "2", HEADWAY_LEASE_SECONDS="2.5")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        (neighbour,) = await rig.submit(client, 1, journal=str(journal), until=str(gate))
        await journal.begun(1)
        (blocker,) = await rig.submit(client, 1, "fault.block", journal=str(journal), seconds=9)
        await journal.begun(3)
        gate.touch()
        await rig.done()
        assert "event loop was blocked" in worker.log
        assert (await client.get(neighbour.id)).attempt == 1
        assert "RETRY_SCHEDULED" not in await rig.history(neighbour.id)
        events = await rig.history(blocker.id)
        assert events == ["SUBMITTED", "STARTED", "RETRY_SCHEDULED", "STARTED", "COMPLETED"]
    await rig.judge()


async def test_a_hanging_job_ends_at_its_timeout(rig: Rig) -> None:
    """P7: while the worker is healthy: cancelled if it obeys, its process ended if it does not.

    Each timeout spends an attempt of two, and no neighbour loses one.
    """
    worker = await rig.worker("--concurrency", "4")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        (neighbour,) = await rig.submit(client, 1, journal=str(journal), until=str(gate))
        await journal.begun(1)
        (polite,) = await rig.submit(client, 1, "fault.hang", journal=str(journal))
        (stubborn,) = await rig.submit(client, 1, "fault.hang.stubborn", journal=str(journal))
        for job in (polite, stubborn):
            await until(lambda job=job: _is_dead(rig, job.id), "it is tried again")  # type: ignore[misc]
        gate.touch()
        await rig.done()
        for job in (polite, stubborn):
            # The polite one may be interrupted for the sake of the other, which costs it nothing.
            events = await rig.history(job.id)
            assert events.count("RETRY_SCHEDULED") == events.count("DEAD") == 1
            assert journal.runs()[job.id] >= 1
            dead = await client.get(job.id)
            assert dead.state is JobState.DEAD
            assert dead.error is not None
            assert dead.error.type == "Timeout"
        assert (await client.get(neighbour.id)).attempt == 1
        assert "RETRY_SCHEDULED" not in await rig.history(neighbour.id)
    assert "went on after it was told to stop" in worker.log
    await rig.judge()


async def _is_dead(rig: Rig, job_id: str) -> bool:
    return (await rig.history(job_id))[-1:] == ["DEAD"]
