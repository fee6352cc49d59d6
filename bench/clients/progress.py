"""Progress from `ctx.progress` in a handler to the client's stream.

`{"address", "jobs", "payload"}`: so many jobs of `bench.progress` at a time, each watched. Answered
with the seconds from each report to its arrival, and how many reports there were in all.
"""

import asyncio
import time
from typing import Any

import grpc.aio
import uvloop
from google.protobuf.struct_pb2 import Struct

from bench import program
from bench.clients.load import OPTIONS
from headway import v1


async def follow(stub: Any, request: v1.SubmitJobRequest) -> list[float]:
    """Submit a job and follow it to its end; return how old each progress was on arrival."""
    reply = await stub.SubmitJob(request)
    stream = stub.WatchJob(v1.WatchJobRequest(job_id=reply.job.id))
    return [
        time.time() - float(update.progress.message)
        async for update in stream
        if update.HasField("progress")
    ]


async def main() -> None:
    """Submit and watch."""
    asked = program.options()
    payload = Struct()
    payload.update(asked["payload"])
    request = v1.SubmitJobRequest(type="bench.progress", payload=v1.Payload(json=payload))
    async with grpc.aio.insecure_channel(asked["address"], options=OPTIONS) as channel:
        stub = v1.JobServiceStub(channel)
        program.say_ready()
        if await program.until_told() is not None:
            found = await asyncio.gather(*(follow(stub, request) for _ in range(asked["jobs"])))
            program.say({"ages": [age for ages in found for age in ages]})


if __name__ == "__main__":
    uvloop.run(main())
