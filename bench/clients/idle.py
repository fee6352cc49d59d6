"""Latency on an idle machine: one step at a time, a pause after each, so that the cores sleep.

Each round takes an echo, a commit of one row, and a job from submit to COMPLETED on WatchJob. After
all of them come those of the composite: the end of its jobs is asked for in its table without a
pause, and whatever comes next finds no idle machine.
`{"echo", "address", "database_url", "composite", "composite_database_url", "rounds"}` is answered
with lists of seconds.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import grpc.aio
import uvloop
from google.protobuf.wrappers_pb2 import StringValue

from bench import program
from bench.clients.load import OPTIONS, PAYLOAD, Call, call_of
from bench.floors import echo
from headway import v1

COMPLETED = 4
PATIENCE_SECONDS = 30
PAUSE_SECONDS = 0.003
WARM_UP_ROUNDS = 20


async def timed(step: Callable[[], Awaitable[object]]) -> float:
    """Take a step; how long it took, from its very beginning: to make a call is a part of it."""
    started = time.perf_counter()
    await step()
    seconds = time.perf_counter() - started
    await asyncio.sleep(PAUSE_SECONDS)
    return seconds


async def run_job(stub: Any, request: v1.SubmitJobRequest) -> tuple[float, float]:
    """Submit a job and watch it: seconds until the reply, and until COMPLETED is seen."""
    started = time.perf_counter()
    reply = await stub.SubmitJob(request)
    replied = time.perf_counter()
    async for update in stub.WatchJob(v1.WatchJobRequest(job_id=reply.job.id)):
        if update.snapshot.done or update.event.job.done:
            break
    completed = time.perf_counter()
    await asyncio.sleep(PAUSE_SECONDS)
    return replied - started, completed - started


async def run_composite_job(
    submit: Call, state: "asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]"
) -> tuple[float, float]:
    """Submit a job to the composite: seconds until the reply, and until its row says COMPLETED."""
    started = time.perf_counter()
    reply = await submit()
    replied = time.perf_counter()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await state.fetchval(uuid.UUID(bytes=reply.value)) != COMPLETED:
            pass
    completed = time.perf_counter()
    await asyncio.sleep(PAUSE_SECONDS)
    return replied - started, completed - started


async def main() -> None:
    """Take the rounds."""
    asked = program.options()
    rounds = asked["rounds"] + WARM_UP_ROUNDS
    text = StringValue(value="x" * len(PAYLOAD))
    job = v1.SubmitJobRequest(type="bench.noop", payload=v1.Payload(data=PAYLOAD))
    database = await asyncpg.connect(asked["database_url"])
    await database.execute("CREATE TABLE commits (id uuid PRIMARY KEY, payload bytea NOT NULL)")
    insert = await database.prepare("INSERT INTO commits VALUES ($1, $2)")
    composite_database = await asyncpg.connect(asked["composite_database_url"])
    state = await composite_database.prepare("SELECT state FROM jobs WHERE id = $1")
    async with (
        grpc.aio.insecure_channel(asked["echo"], options=OPTIONS) as bare,
        grpc.aio.insecure_channel(asked["composite"], options=OPTIONS) as composite,
        grpc.aio.insecure_channel(asked["address"], options=OPTIONS) as channel,
    ):
        method = bare.unary_unary(f"/{echo.SERVICE}/Echo", echo.serialize, echo.deserialize)
        submit = call_of("composite", composite, 1)
        stub = v1.JobServiceStub(channel)
        program.say_ready()
        if await program.until_told() is not None:
            echoes, commits, jobs = [], [], []
            for _ in range(rounds):
                echoes.append(await timed(lambda: method(text)))
                commits.append(await timed(lambda: insert.fetch(uuid.uuid4(), PAYLOAD)))
                jobs.append(await run_job(stub, job))
            composite_jobs = [await run_composite_job(submit, state) for _ in range(rounds)]
            measured = slice(WARM_UP_ROUNDS, None)
            program.say(
                {
                    "echoes": echoes[measured],
                    "commits": commits[measured],
                    "replies": [reply for reply, _ in jobs[measured]],
                    "completions": [completion for _, completion in jobs[measured]],
                    "composite_replies": [reply for reply, _ in composite_jobs[measured]],
                    "composite_completions": [end for _, end in composite_jobs[measured]],
                }
            )
    await database.close()
    await composite_database.close()


if __name__ == "__main__":
    uvloop.run(main())
