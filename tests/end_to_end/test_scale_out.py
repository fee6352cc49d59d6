"""Any number of servers, processes and workers, none of them special: any may go at any time."""

import asyncio
import contextlib
from collections import Counter
from pathlib import Path

import grpc
import psutil

from headway import EventType, JobState, v1
from headway.client import Client
from headway_dev import ports
from headway_dev.children import Child
from tests.end_to_end.conftest import MakeStack
from tests.end_to_end.stack import (
    SHORT_LEASES,
    Gate,
    Stack,
    eventually,
    history,
    journal,
    kinds,
)

JOBS = 60
CHANNELS = 16
EMPTY = v1.Payload(json={})


async def start(stack: Stack) -> tuple[list[Child], list[str]]:
    """Two servers of two processes each and two workers; the servers' addresses."""
    targets = [f"{ports.LOOPBACK}:{ports.free_port()}" for _ in range(2)]
    children = [stack.start_server("--processes", "2", HEADWAY_LISTEN=target) for target in targets]
    children += [stack.start_worker("--concurrency", "10", "--processes", "1") for _ in range(2)]
    for child in children:
        await asyncio.to_thread(child.await_ready)
    return children, targets


async def test_any_server_and_any_worker_may_go_at_any_time(
    new_stack: MakeStack, tmp_path: Path
) -> None:
    """Half of all is killed while jobs run; the other half ends them, each with one completion.

    A leader would be among those killed in one run out of two, whichever it was.
    """
    stack = new_stack(**SHORT_LEASES)
    (server, _, worker, _), targets = await start(stack)
    gate, path = Gate(tmp_path / "gate"), tmp_path / "journal"
    payload = {"until": str(gate), "journal": str(path)}
    async with Client(targets[0], call_timeout=10) as first, Client(targets[1]) as second:
        clients = [first, second]
        jobs = [await clients[number % 2].submit("e2e.work", payload) for number in range(JOBS)]
        await eventually(lambda: len(journal(path)) == 20, what="every slot is taken")
        await asyncio.gather(*(asyncio.to_thread(child.kill) for child in (server, worker)))
        gate.open()
        ended = await asyncio.gather(*(second.wait(job.id, timeout=60) for job in jobs))
        assert {job.state for job in ended} == {JobState.COMPLETED}
        for job in jobs:
            counted = Counter(kinds(await history(second, job.id)))
            assert counted[str(EventType.COMPLETED)] == 1


async def test_processes_of_one_server_share_the_connections(new_stack: MakeStack) -> None:
    """The kernel spreads them (SO_REUSEPORT), and a watch sees what another process was told."""
    stack = new_stack()
    server = stack.start_server("--processes", "2")
    worker = stack.start_worker()
    for child in (server, worker):
        await asyncio.to_thread(child.await_ready)
    port = int(stack.target.rpartition(":")[2])
    # A pool of its own gives each channel its own connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as channels:
        stubs = [
            v1.JobServiceStub(
                await channels.enter_async_context(
                    grpc.aio.insecure_channel(stack.target, options=options)
                )
            )
            for _ in range(CHANNELS)
        ]
        jobs = [
            (await stub.SubmitJob(v1.SubmitJobRequest(type="e2e.work", payload=EMPTY))).job
            for stub in stubs
        ]
        taken = [
            sum(
                found.status == psutil.CONN_ESTABLISHED and found.laddr.port == port
                for found in process.net_connections("tcp")
            )
            for process in psutil.Process(server.record.pid).children()
        ]
        assert len(taken) == 2
        assert sum(taken) == CHANNELS
        assert min(taken) >= 1, taken
        async with asyncio.timeout(30):
            # Each channel watches a job that another one has submitted.
            for stub, job in zip(stubs, jobs[1:] + jobs[:1], strict=True):
                watched = stub.WatchJob(v1.WatchJobRequest(job_id=job.id, after_sequence=0))
                events = [update.event async for update in watched if update.HasField("event")]
                assert events[-1].type == v1.JobEventType.JOB_EVENT_TYPE_COMPLETED
