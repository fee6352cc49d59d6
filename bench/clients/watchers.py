"""Watchers: streams that wait, thousands in one client process.

`{"subject", "address"}`, then `{"job_ids", "streams", "burst"}` opens streams of Headway or of the
bare echo, the first `burst` of them all at once and the others in waves, round and round over the
jobs; answered with how many were rejected. Then each word waits for one event on every stream:
answered with the Unix time of the last arrival.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import uvloop
from google.protobuf.wrappers_pb2 import StringValue

from bench import program
from bench.clients.load import OPTIONS
from bench.floors import echo
from headway import v1

CHANNELS = 10
WAVE = 250

Opener = Callable[[str], Any]


def opener(subject: str, channel: grpc.aio.Channel) -> Opener:
    """Make the call that opens a stream for a job."""
    if subject == "echo":
        method = channel.unary_stream(f"/{echo.SERVICE}/Watch", echo.serialize, echo.deserialize)
        return lambda job_id: method(StringValue(value=job_id))
    stub: Any = v1.JobServiceStub(channel)
    return lambda job_id: stub.WatchJob(v1.WatchJobRequest(job_id=job_id))


class Watchers:
    """The streams, each read by a task of its own. Bare ones begin with their headers."""

    def __init__(self, *, bare: bool) -> None:
        self.rejected = 0
        self.last_arrival = 0.0
        self._bare = bare
        self._started = 0
        self._events = 0
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, openers: Iterator[Opener], job_ids: list[str]) -> None:
        """Open streams for these jobs at once, and wait until each has begun."""
        for job_id in job_ids:
            stream = next(openers)(job_id)
            self._tasks.append(asyncio.create_task(self._read(stream)))
        await self._until(lambda: self._started + self.rejected >= len(self._tasks))

    async def event_on_all(self) -> None:
        """Wait until every stream has had one more event."""
        await self._until(lambda: self._events >= self._started)
        self._events -= self._started

    async def close(self) -> None:
        """Cancel all streams."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, stream: Any) -> None:
        try:
            if self._bare:
                await stream.initial_metadata()
                self._started += 1
                self._changed.set()
            async for update in stream:
                if self._bare or update.HasField("event"):
                    self._events += 1
                    self.last_arrival = time.time()
                elif update.HasField("snapshot"):
                    self._started += 1
                self._changed.set()
        except grpc.aio.AioRpcError:
            self.rejected += 1
            self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


async def main() -> None:
    """Open, then wait for events as often as the parent says."""
    asked = program.options()
    subject, target = asked["subject"], asked["address"]
    channels = [grpc.aio.insecure_channel(target, options=OPTIONS) for _ in range(CHANNELS)]
    openers = itertools.cycle([opener(subject, channel) for channel in channels])
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    program.say_ready()
    if told := await program.until_told():
        watchers = Watchers(bare=subject == "echo")
        jobs = list(itertools.islice(itertools.cycle(told["job_ids"]), told["streams"]))
        burst = told["burst"]
        waves = [jobs[:burst]] if burst else []
        waves += [jobs[start : start + WAVE] for start in range(burst, len(jobs), WAVE)]
        for wave in waves:
            await watchers.open(openers, wave)
        program.say({"rejected": watchers.rejected})
        while await program.until_told() is not None:
            await watchers.event_on_all()
            program.say({"last_arrival": watchers.last_arrival})
        await watchers.close()
    for channel in channels:
        await channel.close()


if __name__ == "__main__":
    uvloop.run(main())
