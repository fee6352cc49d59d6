"""Watchers: streams that wait, thousands in one client process.

`{"address"}`, then `{"job_ids", "streams", "burst"}` opens WatchJob streams, the first `burst` of
them all at once and the others in waves, round and round over the jobs; answered with how many were
rejected. Then each word waits for one event on every stream: answered with the Unix time of the
last arrival.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from bench import program
from bench.clients.load import OPTIONS
from headway import v1

CHANNELS = 10
WAVE = 250


class Watchers:
    """The streams, each read by a task of its own."""

    def __init__(self) -> None:
        self.rejected = 0
        self.last_arrival = 0.0
        self._started = 0
        self._events = 0
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, stubs: Iterator[Any], job_ids: list[str]) -> None:
        """Open streams for these jobs at once, and wait until each has its snapshot."""
        for job_id in job_ids:
            stream = next(stubs).WatchJob(v1.WatchJobRequest(job_id=job_id))
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
            async for update in stream:
                if update.HasField("snapshot"):
                    self._started += 1
                elif update.HasField("event"):
                    self._events += 1
                    self.last_arrival = time.time()
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
    target = asked["address"]
    channels = [grpc.aio.insecure_channel(target, options=OPTIONS) for _ in range(CHANNELS)]
    stubs = itertools.cycle([v1.JobServiceStub(channel) for channel in channels])
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    program.say_ready()
    if told := await program.until_told():
        watchers = Watchers()
        jobs = list(itertools.islice(itertools.cycle(told["job_ids"]), told["streams"]))
        burst = told["burst"]
        waves = [jobs[:burst]] if burst else []
        waves += [jobs[start : start + WAVE] for start in range(burst, len(jobs), WAVE)]
        for wave in waves:
            await watchers.open(stubs, wave)
        program.say({"rejected": watchers.rejected})
        while await program.until_told() is not None:
            await watchers.event_on_all()
            program.say({"last_arrival": watchers.last_arrival})
        await watchers.close()
    for channel in channels:
        await channel.close()


if __name__ == "__main__":
    uvloop.run(main())
