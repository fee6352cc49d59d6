"""Processes under another account start, whatever else this process is doing."""

import asyncio
import os
import shutil
from contextlib import suppress

import grpc.aio
import pytest

from headway import HeadwayError
from headway.client import Client
from headway_dev import processes
from headway_dev.places import unprivileged_account

STARTS = 20


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give itself another account")
async def test_a_process_under_another_account_starts_while_grpc_is_busy() -> None:
    """A fork instead of a vfork lets gRPC's handlers crash two children of three."""
    account = unprivileged_account()
    whose = shutil.which("id")
    assert account is not None
    assert whose is not None
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def call(client: Client) -> None:
        while True:
            with suppress(HeadwayError):
                await client.get("nothing")
            await asyncio.sleep(0.001)

    async with Client(f"127.0.0.1:{port}", call_timeout=5) as client:
        calls = [asyncio.create_task(call(client)) for _ in range(10)]
        for _ in range(STARTS):
            ran = await asyncio.to_thread(
                processes.run, [whose, "-u"], environment={}, account=account
            )
            assert (ran.returncode, ran.stdout) == (0, f"{account.uid}\n")
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await server.stop(None)
