"""The load: one cheap client process, the same for Headway and for the floors.

Generated stubs or plain methods on a grpc.aio channel, requests built beforehand, so many calls in
flight. `{"subject": …, "address": …, "batch": jobs a call, "in_flight": calls}`, then each word
`{"jobs": N}` or `{"seconds": S}` is answered with `{"begun": Unix time, "seconds", "jobs"}`.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc.aio
import uvloop
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from bench import program
from bench.floors import composite, echo
from headway import v1

PAYLOAD = b"\xab" * composite.PAYLOAD_BYTES
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]

Call = Callable[[], Awaitable[Any]]


def call_of(subject: str, channel: grpc.aio.Channel, batch: int) -> Call:
    """Make the call that is repeated; `batch` jobs each."""
    match subject:
        case "echo":
            text = StringValue(value="x" * len(PAYLOAD))
            method = channel.unary_unary(f"/{echo.SERVICE}/Echo", echo.serialize, echo.deserialize)
            return lambda: method(text)
        case "composite":
            data = BytesValue(value=PAYLOAD * batch)
            submit = channel.unary_unary(
                f"/{composite.SERVICE}/Submit",
                BytesValue.SerializeToString,
                BytesValue.FromString,
            )
            return lambda: submit(data)
        case "headway":
            stub: Any = v1.JobServiceStub(channel)
            job = v1.SubmitJobRequest(type="bench.noop", payload=v1.Payload(data=PAYLOAD))
            if batch == 1:
                return lambda: stub.SubmitJob(job)
            jobs = v1.BatchSubmitJobsRequest(requests=[job] * batch)
            return lambda: stub.BatchSubmitJobs(jobs)
        case _:
            raise ValueError(subject)


async def run(call: Call, turns: Iterator[object], in_flight: int) -> int:
    """Repeat the call until there is no turn left; count the calls."""
    count = 0

    async def repeat() -> None:
        nonlocal count
        for _ in turns:
            await call()
            count += 1

    await asyncio.gather(*(repeat() for _ in range(in_flight)))
    return count


def until(deadline: float) -> Iterator[object]:
    """Turns until a time of the monotonic clock."""
    while time.monotonic() < deadline:
        yield None


async def main() -> None:
    """Connect, and load the subject as often as the parent says."""
    asked = program.options()
    batch, in_flight = asked["batch"], asked["in_flight"]
    async with grpc.aio.insecure_channel(asked["address"], options=OPTIONS) as channel:
        call = call_of(asked["subject"], channel, batch)
        await channel.channel_ready()
        program.say_ready()
        while told := await program.until_told():
            begun, started = time.time(), time.monotonic()
            if "seconds" in told:
                turns = until(started + told["seconds"])
            else:
                turns = iter(itertools.repeat(None, told["jobs"] // batch))
            calls = await run(call, turns, in_flight)
            seconds = time.monotonic() - started
            program.say({"begun": begun, "seconds": seconds, "jobs": calls * batch})


if __name__ == "__main__":
    uvloop.run(main())
