"""P5: whoever watches sees every event once and in order, also when the server is replaced."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from headway import Event, EventType, Unavailable
from headway_dev.children import Child
from tests.end_to_end.conftest import MakeStack
from tests.end_to_end.stack import Gate, Stack, eventually, history

EVENTS_BETWEEN = 5


@pytest.fixture(scope="module")
def stack(new_stack: MakeStack) -> Stack:
    return new_stack()


async def test_a_watch_resumes_over_restarts_of_the_server_without_gap_or_duplicate(
    stack: Stack, gate: Gate
) -> None:
    """One restart in good order and one by SIGKILL, while the job goes on."""
    server, _ = stack.start()
    losses: list[Unavailable] = []
    seen: list[int] = []

    async def watch() -> None:
        updates = client.watch(
            job.id, after_sequence=0, on_reconnect=lambda error, _: losses.append(error)
        )
        async with contextlib.aclosing(updates):
            async for update in updates:
                if isinstance(update, Event):
                    seen.append(update.sequence)  # noqa: PERF401 - others look on meanwhile

    async def restart(server: Child, end: Callable[[Child], Awaitable[None]]) -> Child:
        await more_events()
        await end(server)
        started = stack.start_server()
        await asyncio.to_thread(started.await_ready)
        await more_events()
        return started

    async def more_events() -> None:
        wanted = len(seen) + EVENTS_BETWEEN
        await eventually(lambda: len(seen) >= wanted, what="more events are seen")

    async with stack.client() as client:
        job = await client.submit("e2e.steps", {"until": str(gate)})
        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            server = await restart(server, lambda child: asyncio.to_thread(child.stop))
            await restart(server, lambda child: asyncio.to_thread(child.kill))
            gate.open()

        assert len(losses) >= 2
        events = await history(client, job.id)
        assert seen == [event.sequence for event in events]
        kinds = [event.type for event in events]
        assert kinds.count(EventType.STARTED) == 1
        assert kinds.count(EventType.STEP_COMPLETED) > 4 * EVENTS_BETWEEN - 4
        assert kinds[-1] is EventType.COMPLETED
