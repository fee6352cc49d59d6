"""Many watchers of one server process: how many, at what cost, and one event to all of them."""

import asyncio
import time
from contextlib import AsyncExitStack

import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from bench.cpu import resident_mib
from bench.floors.echo import CAST, SERVICE, deserialize, serialize
from bench.measurements.plan import Measurement, Plan
from bench.program import Program
from bench.stage import Headway
from headway import v1

CLIENTS = 2
WATCHERS = 20_000
BURST = 5_000
FAN_OUT = 10_000
BATCH = 1_000
PAYLOAD = v1.Payload(data=b"")
SETTLE_SECONDS = 1.0
SETTLE_MIB = 0.5
SETTLE_TRIES_MAX = 15


async def settled_mib(pid: int) -> float:
    """Resident memory once it no longer grows."""
    before = resident_mib(pid)
    for _ in range(SETTLE_TRIES_MAX):
        await asyncio.sleep(SETTLE_SECONDS)
        now = resident_mib(pid)
        if now - before < SETTLE_MIB:
            return now
        before = now
    return before


async def submit(headway: Headway, type_: str, count: int) -> list[str]:
    """Submit jobs that nobody runs yet; return their IDs once the broker has them."""
    requests = [v1.SubmitJobRequest(type=type_, payload=PAYLOAD)] * count
    async with grpc.aio.insecure_channel(headway.address) as channel:
        stub = v1.JobServiceStub(channel)
        ids = []
        for start in range(0, count, BATCH):
            batch = v1.BatchSubmitJobsRequest(requests=requests[start : start + BATCH])
            reply = await stub.BatchSubmitJobs(batch)
            ids += [response.job.id for response in reply.responses]
    await headway.until_relayed()
    return ids


async def watcher_clients(
    stack: AsyncExitStack,
    system: Headway | Program,
    *,
    job_ids: list[str],
    streams: int,
    burst: int = 0,
) -> tuple[list[Program], list[int]]:
    """Open streams from several processes; return these and how many each had rejected.

    The first process opens its burst before the others begin.
    """
    clients, rejected = [], []
    subject = "headway" if isinstance(system, Headway) else "echo"
    for number in range(CLIENTS):
        client = await stack.enter_async_context(
            await Program.start("bench.clients.watchers", subject=subject, address=system.address)
        )
        answer = await client.go(
            job_ids=job_ids[number::CLIENTS] or job_ids,
            streams=streams // CLIENTS,
            burst=0 if number else burst,
        )
        rejected.append(answer["rejected"])
        clients.append(client)
    return clients, rejected


async def idle_watchers(plan: Plan) -> None:
    """As many streams as the aim asks for, each of a job of its own."""
    streams, burst = plan.jobs(WATCHERS, batch=CLIENTS), plan.jobs(BURST)
    async with Headway.running(plan.stage) as headway, AsyncExitStack() as stack:
        job_ids = await submit(headway, "bench.wait", streams)
        before = await settled_mib(headway.pid("server"))
        _, rejected = await watcher_clients(
            stack, headway, job_ids=job_ids, streams=streams, burst=burst
        )
        opened = streams - sum(rejected)
        after = await settled_mib(headway.pid("server"))
    plan.samples.add("watchers", opened)
    plan.samples.add("watchers_in_one_burst", burst - min(burst, rejected[0]))
    plan.samples.add("watcher_memory", (after - before) * 1024 / opened)


async def bare_streams(plan: Plan) -> None:
    """The same number of streams of a bare server, and one message to all of them."""
    streams = plan.jobs(FAN_OUT, batch=CLIENTS)
    async with await Program.start("bench.floors.echo") as echo, AsyncExitStack() as stack:
        before = await settled_mib(echo.pid)
        clients, rejected = await watcher_clients(stack, echo, job_ids=["one"], streams=streams)
        _refuse_rejections(rejected)
        after = await settled_mib(echo.pid)
        answers = asyncio.gather(*(client.go() for client in clients))
        begun = time.time()
        async with grpc.aio.insecure_channel(echo.address) as channel:
            method = channel.unary_unary(f"/{SERVICE}/Echo", serialize, deserialize)
            await method(StringValue(value=CAST))
        last = max(answer["last_arrival"] for answer in await answers)
    plan.samples.add("bare_stream_memory", (after - before) * 1024 / streams)
    plan.samples.add("bare_fan_out_10000", last - begun)


async def fan_out(plan: Plan) -> None:
    """One job starts, and 10,000 watchers of it hear of that."""
    streams = plan.jobs(FAN_OUT, batch=CLIENTS)
    async with Headway.running(plan.stage) as headway, AsyncExitStack() as stack:
        job_ids = await submit(headway, "bench.wait", 1)
        clients, rejected = await watcher_clients(stack, headway, job_ids=job_ids, streams=streams)
        _refuse_rejections(rejected)
        answers, _ = await asyncio.gather(
            asyncio.gather(*(client.go() for client in clients)), headway.start_worker(1)
        )
        started = await headway.place.connection.fetchval(
            "SELECT extract(epoch FROM max(time))::float8 FROM job_events"
        )
    last = max(answer["last_arrival"] for answer in answers)
    plan.samples.add("fan_out_10000", last - started)


def _refuse_rejections(rejected: list[int]) -> None:
    if any(rejected):
        raise RuntimeError(f"{sum(rejected)} streams were rejected")


MEASUREMENTS = (
    Measurement(("watchers", "watchers_in_one_burst", "watcher_memory"), idle_watchers),
    Measurement(("bare_stream_memory", "bare_fan_out_10000"), bare_streams),
    Measurement(("fan_out_10000",), fan_out),
)
