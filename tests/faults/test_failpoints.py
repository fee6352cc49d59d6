"""P2, P4, P7, P12: beats that fail, and a replay whose server dies."""

import pytest

from headway import HeadwayError, JobState
from tests.faults.rig import INTERRUPTED_ONCE, Rig
from tests.faults.waiting import insist, until


async def test_a_beat_that_fails_costs_nothing(rig: Rig) -> None:
    """P2: a lease outlasts some beats, and the next one renews it."""
    await rig.worker("--concurrency", "2")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        rig.arm("heartbeat_skip=raise@1")
        await rig.hit("heartbeat_skip", times=5)
        gate.touch()
        await rig.done()
    await rig.judge(without_fault=True)


async def test_a_worker_whose_beats_all_fail_loses_its_jobs_and_no_attempt(rig: Rig) -> None:
    """P4, P7: the lease lapses, the runs are judged; with beats again the same worker runs them.

    Meanwhile it claims nothing, and the results of the runs that it had lost change nothing.
    """
    worker = await rig.worker("--concurrency", "2")
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        jobs = await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        rig.arm("heartbeat_skip=raise")
        await rig.hit("heartbeat_skip", times=3)
        for job in jobs:
            await until(lambda job=job: _interrupted(rig, job.id), "it is judged")  # type: ignore[misc]
        (late,) = await rig.submit(client, 1, journal=str(journal))
        gate.touch()
        await rig.hit("heartbeat_skip", times=len(rig.hits("heartbeat_skip")) + 3)
        assert late.id not in journal.runs(), "it claimed without a lease"
        rig.arm("")
        await rig.done()
        for job in jobs:
            events = await rig.history(job.id)
            assert events == INTERRUPTED_ONCE
            assert (await client.get(job.id)).attempt == 1
    assert worker.alive
    await rig.judge()


async def _interrupted(rig: Rig, job_id: str) -> bool:
    return "INTERRUPTED" in await rig.history(job_id)


async def test_a_server_killed_after_a_replays_commit_has_replayed_once(rig: Rig) -> None:
    """P1, P2: its caller never hears; asking again changes nothing, and the job runs again."""
    await rig.worker()
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        (job,) = await rig.submit(
            client, 1, "fault.unless", followed=0, journal=str(journal), until=str(gate)
        )
        await rig.done()
        assert (await client.get(job.id)).state is JobState.DEAD
        gate.touch()
        rig.arm("after_replay_commit=kill@1")
        with pytest.raises(HeadwayError):
            await client.replay(job.id)
        await rig.hit("after_replay_commit")
        await rig.restart_server()
        replayed = await insist(lambda: client.replay(job.id))
        assert replayed.replayed_count == 0
        await rig.done()
        rig.follow([job.id])
        assert await rig.history(job.id) == [
            *("SUBMITTED", "STARTED", "DEAD"),
            *("REPLAYED", "STARTED", "COMPLETED"),
        ]
    await rig.judge()
