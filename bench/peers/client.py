"""The client process of a peer, in the peer's own environment.

`{"peer"}`; then `{"submit": N}` is answered with `{"begun": Unix time, "seconds"}`, and
`{"until": N}`, once N jobs are durably completed, with `{"ended": Unix time}`. A peer is a module
`with_PEER` that has `Client` (open, submit, done, close) and `WORKER`, the arguments of a Python.
"""

import asyncio
import importlib
import time
from typing import Any

import uvloop

from bench import program

IN_FLIGHT = 64
POLL_SECONDS = 0.05


async def submit(client: Any, count: int) -> dict[str, float]:
    """Submit so many jobs, 64 at a time."""
    turns = iter(range(count))

    async def repeat() -> None:
        for number in turns:
            await client.submit(number)

    begun, started = time.time(), time.monotonic()
    await asyncio.gather(*(repeat() for _ in range(IN_FLIGHT)))
    return {"begun": begun, "seconds": time.monotonic() - started}


async def until(client: Any, count: int) -> dict[str, float]:
    """Wait until so many jobs are completed."""
    while await client.done() < count:  # noqa: ASYNC110 - it happens in the worker
        await asyncio.sleep(POLL_SECONDS)
    return {"ended": time.time()}


async def main() -> None:
    """Obey until the parent ends."""
    peer = importlib.import_module(f"bench.peers.with_{program.options()['peer']}")
    client = peer.Client()
    await client.open()
    program.say_ready(worker=peer.WORKER)
    while told := await program.until_told():
        if "submit" in told:
            program.say(await submit(client, told["submit"]))
        else:
            program.say(await until(client, told["until"]))
    await client.close()


if __name__ == "__main__":
    uvloop.run(main())
