"""P1, P2, P5, P6: servers are killed in every seam between a call, its commit and the broker."""

import asyncio
import contextlib
import signal
import time

from headway import Event, JobState, Unavailable
from headway.client import Client
from tests.faults.rig import Rig, until

WATCHERS = 300


async def test_a_server_killed_in_any_seam_of_its_relay_loses_nothing(rig: Rig) -> None:
    """P1, P2, P6: after the submit's commit (its caller never hears, and asks again with its key),
    between publish and delete (published twice, run once), and between delete and mark.
    """
    await rig.worker()
    journal = rig.journal()
    async with rig.client() as client:
        for seam in ("after_submit_commit", "after_publish", "after_outbox_delete"):
            rig.arm(f"{seam}=kill@1")
            submitting = asyncio.create_task(
                client.submit(
                    "fault.work", {"journal": str(journal)}, idempotency_key=f"key of {seam}"
                )
            )
            await rig.hit(seam)
            await rig.restart_server()
            with contextlib.suppress(Exception):  # it may have given up meanwhile: it asks again
                await submitting
            job = await client.submit(
                "fault.work", {"journal": str(journal)}, idempotency_key=f"key of {seam}"
            )
            assert not job.created
            rig.accept([job])
            await rig.done()
    assert len(journal.runs()) == 3
    assert set(journal.runs().values()) == {1}
    await rig.judge()


async def test_a_reaper_killed_under_its_locks_reaps_nothing_twice(rig: Rig) -> None:
    """P4, P7: its transaction goes with it, and the next one judges all of the worker's jobs."""
    first = await rig.worker()
    journal, gate = rig.journal(), rig.gate()
    async with rig.client() as client:
        jobs = await rig.submit(client, 2, journal=str(journal), until=str(gate))
        await journal.begun(2)
        rig.arm("reap_after_lock=kill@1")
        await asyncio.to_thread(first.kill)
        await rig.hit("reap_after_lock")
        await rig.restart_server()
        await rig.worker()
        await journal.begun(4)
        gate.touch()
        await rig.done()
        for job in jobs:
            events = await rig.history(job.id)
            assert events == ["SUBMITTED", "STARTED", "INTERRUPTED", "STARTED", "COMPLETED"]
    await rig.judge()


async def test_a_frozen_relay_holds_up_no_other(rig: Rig) -> None:
    """P1, P9: two relays, of which one is stopped with rows locked; Postgres frees them in 10 s.

    The other one publishes what is free at once.
    """
    await rig.worker()
    journal = rig.journal()
    async with rig.client() as client:
        frozen = rig.server
        rig.arm("after_publish=freeze@1")
        (held,) = await rig.submit(client, 1, journal=str(journal), seconds=0)
        await rig.hit("after_publish")
        rig.arm("")
    other = rig.start_elsewhere()
    await asyncio.to_thread(other.await_ready)
    async with Client(rig.elsewhere, call_timeout=10) as client:
        begun = time.monotonic()
        jobs = await rig.submit(client, 5, journal=str(journal))
        await until(lambda: all(job.id in journal.runs() for job in jobs), "the others run")
        print(f"beside a frozen relay: {time.monotonic() - begun:.2f} s")
        await until(lambda: held.id in journal.runs(), "what it held runs, too")
        await rig.done()
    frozen.resume()
    await asyncio.to_thread(other.stop)
    await rig.judge()


async def test_watchers_resume_over_a_killed_server(rig: Rig) -> None:
    """P5, P11: 300 watchers of one job; SIGKILL in the middle; each sees every event, in order."""
    await rig.worker()
    gate = rig.gate()
    async with rig.client() as client:
        jobs = await rig.submit(client, 10, until=str(gate))

        async def watch(job_id: str) -> list[Event]:
            async with contextlib.aclosing(client.watch(job_id, after_sequence=0)) as updates:
                return [update async for update in updates if isinstance(update, Event)]

        watches = [
            asyncio.create_task(watch(jobs[number % len(jobs)].id)) for number in range(WATCHERS)
        ]
        for job in jobs:
            await until(lambda job=job: _is_running(rig, job.id), "it runs")  # type: ignore[misc]
        rig.server.kill()
        gate.touch()
        begun = time.monotonic()
        await rig.restart_server()
        seen = await asyncio.wait_for(asyncio.gather(*watches), 60)
        print(f"{WATCHERS} watchers at the end {time.monotonic() - begun:.2f} s after the kill")
    for events in seen:
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert events[-1].job.state is JobState.COMPLETED
    await rig.judge()


async def _is_running(rig: Rig, job_id: str) -> bool:
    return "STARTED" in await rig.history(job_id)


async def test_events_after_the_snapshot_are_not_missed(rig: Rig) -> None:
    """P5: the whole run happens between the snapshot's read and its sending."""
    await rig.worker()
    gate = rig.gate()
    async with rig.client() as client:
        (job,) = await rig.submit(client, 1, until=str(gate))
        rig.arm("watch_after_snapshot=pause:1@1")

        async def watch() -> list[int]:
            async with contextlib.aclosing(client.watch(job.id, after_sequence=0)) as updates:
                return [update.sequence async for update in updates if isinstance(update, Event)]

        watching = asyncio.create_task(watch())
        await rig.hit("watch_after_snapshot")
        gate.touch()
        sequences = await asyncio.wait_for(watching, 20)
        assert sequences == list(range(1, len(sequences) + 1))
        assert len(sequences) >= 3
    await rig.judge(without_fault=True)


async def test_a_server_leaves_in_good_order_under_load(rig: Rig) -> None:
    """P1, P10: SIGTERM while jobs are submitted; what was answered runs; the rest is refused."""
    await rig.worker()
    async with rig.client() as client:
        ended = asyncio.Event()

        async def submit() -> None:
            while not ended.is_set():
                with contextlib.suppress(Unavailable):
                    rig.accept([await client.submit("fault.work", {})])
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(submit()) for _ in range(4)]
        await until(lambda: len(rig.accepted) > 20, "jobs are accepted")
        assert rig.server.record.find() is not None
        process = rig.server.record.find()
        assert process is not None
        process.send_signal(signal.SIGTERM)
        await rig.restart_server()
        before = len(rig.accepted)
        await until(lambda: len(rig.accepted) > before + 20, "and accepted again")
        ended.set()
        await asyncio.gather(*tasks)
    await rig.judge(without_fault=True)
