"""P5: whoever watches sees every event once and in order, also when the server is replaced."""

import asyncio
import contextlib
import time

import pytest

from headway import Event, Unavailable
from tests.end_to_end.conftest import MakeStack
from tests.end_to_end.stack import Stack, history

STEPS = 40
STEP_SECONDS = 0.1


@pytest.fixture(scope="module")
def stack(new_stack: MakeStack) -> Stack:
    return new_stack()


async def test_a_watch_resumes_over_a_restart_of_the_server_without_gap_or_duplicate(
    stack: Stack,
) -> None:
    """Two restarts, one in good order and one by SIGKILL, while the job goes on."""
    server, _ = stack.start()
    losses: list[Unavailable] = []
    seen: list[int] = []

    async with stack.client() as client:
        job = await client.submit("e2e.steps", {"count": STEPS, "step_seconds": STEP_SECONDS})

        async def watch() -> None:
            updates = client.watch(
                job.id, after_sequence=0, on_reconnect=lambda error, _: losses.append(error)
            )
            async with contextlib.aclosing(updates):
                async for update in updates:
                    if isinstance(update, Event):
                        seen.append(update.sequence)

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            for end in (server.stop, server.kill):
                before = len(seen)
                while len(seen) < before + 3:
                    await asyncio.sleep(0.02)
                await asyncio.to_thread(server.stop if end == server.stop else server.kill)
                assert not watching.done()
                server = stack.start_server()
                await asyncio.to_thread(server.await_ready)

        assert losses, "the watch should have noticed the restarts"
        events = await history(client, job.id)
        assert seen == [event.sequence for event in events]
        assert [event.type for event in events].count("STEP_COMPLETED") == STEPS
        assert [event.type for event in events].count("STARTED") == 1
