"""P5, P11: clients that never read, and clients that come back for what is gone."""

import asyncio
import contextlib
import signal
import sys
from uuid import UUID

import psutil

from headway import Event, Snapshot
from tests.faults.rig import Rig
from tests.faults.waiting import until

STREAMS = 40
STEPS = 600
LABELS = {f"label-{number}": "x" * 256 for number in range(32)}
"""An event carries its job, so that these make it 9 KiB; a history is 5 MiB."""
GROWTH_BYTES_MAX = 30 * 2**20
"""Of the server, while 200 MiB are due to streams that nobody reads."""
CLIENT = """
import asyncio, sys
from headway import Event
from headway.client import Client

async def main(target, job_id):
    async with Client(target) as client:
        async def watch():
            seen = []
            async for update in client.watch(job_id, after_sequence=0):
                if isinstance(update, Event):
                    if not seen:
                        print("watching", flush=True)
                    seen.append(update.sequence)
            assert seen == list(range(1, len(seen) + 1)), seen
            return len(seen)
        print("seen", *await asyncio.gather(*(watch() for _ in range({streams}))), flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


async def test_a_client_that_never_reads_holds_up_nobody_and_costs_little(rig: Rig) -> None:
    """P5, P11: 40 streams of a long history, and their client is frozen; another one sees it all
    meanwhile. The server's memory is bounded by what a connection buffers; woken, the client reads
    on, and misses nothing.
    """
    await rig.worker("--concurrency", "2")
    gate = rig.gate()
    async with rig.client() as client:
        payload = {"count": STEPS, "until": str(gate)}
        job = await client.submit("fault.steps", payload, labels=LABELS)
        rig.accept([job], followed=0)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLIENT.format(streams=STREAMS)),
            *(rig.stack.target, job.id),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            for _ in range(STREAMS):
                assert await process.stdout.readline() == b"watching\n"
            process.send_signal(signal.SIGSTOP)
            server = psutil.Process(rig.server.record.pid)
            before = server.memory_info().rss
            rig.follow([job.id])
            await until(lambda: _steps_done(rig), "all steps but the last")
            gate.touch()
            await rig.done()
            async with contextlib.aclosing(client.watch(job.id, after_sequence=0)) as updates:
                seen = [update.sequence async for update in updates if isinstance(update, Event)]
            assert len(seen) >= STEPS + 4
            assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
            growth = server.memory_info().rss - before
            print(f"{STREAMS} streams that nobody reads: {growth / 2**20:.0f} MiB")
            process.send_signal(signal.SIGCONT)
            line = await process.stdout.readline()
            assert line.split() == [b"seen", *[str(len(seen)).encode()] * STREAMS]
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    await rig.judge(without_fault=True)
    assert growth <= GROWTH_BYTES_MAX


async def _steps_done(rig: Rig) -> bool:
    rows = await rig.query("SELECT count(*) FROM job_steps")
    return bool(rows) and rows[0][0] >= STEPS


async def test_a_watch_from_a_pruned_sequence_gets_a_reset_and_all_that_follows(rig: Rig) -> None:
    """P5: what is gone cannot be sent; the snapshot says so, and nothing after it is missed.

    The events are put back in the end: the history is checked as ever.
    """
    await rig.worker("--concurrency", "2")
    gate = rig.gate()
    async with rig.client() as client:
        (job,) = await rig.submit(client, 1, "fault.steps", followed=0, count=10, until=str(gate))
        await until(lambda: _has_events(rig, job.id, 12), "ten steps are done")
        await rig.query("CREATE TABLE pruned AS SELECT * FROM job_events WHERE sequence <= 6")
        try:
            await rig.query("DELETE FROM job_events WHERE sequence <= 6")
            watching = client.watch(job.id, after_sequence=2)
            async with contextlib.aclosing(watching) as updates:
                first = await anext(updates)
                gate.touch()
                rest = [update.sequence async for update in updates if isinstance(update, Event)]
            assert isinstance(first, Snapshot)
            assert first.reset
            assert first.sequence >= 12
            await rig.done()
            rows = await rig.query("SELECT max(sequence) FROM job_events")
            assert rest == list(range(first.sequence + 1, rows[0][0] + 1))
        finally:
            await rig.query("INSERT INTO job_events SELECT * FROM pruned")
            await rig.query("DROP TABLE pruned")
    await rig.judge(without_fault=True)


async def _has_events(rig: Rig, job_id: str, count: int) -> bool:
    rows = await rig.query("SELECT count(*) FROM job_events WHERE job_id = $1", UUID(job_id))
    return bool(rows) and rows[0][0] >= count
