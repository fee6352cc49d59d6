"""What runs to its end, whoever cancels."""

import asyncio

import pytest

from headway_core.uninterrupted import Uninterrupted


class Work:
    """A coroutine that waits for some futures, and what became of it."""

    def __init__(self, count: int = 1) -> None:
        self.futures = [asyncio.get_running_loop().create_future() for _ in range(count)]
        self.found: list[int] = []
        self.cancels = 0

    async def run(self) -> list[int]:
        """Wait for all of them."""
        for future in self.futures:
            self.found.append(await future)
        return self.found

    def cancelled(self) -> None:
        """Count."""
        self.cancels += 1

    async def awaited(self) -> list[int]:
        """Run it to its end."""
        return await Uninterrupted(self.run(), self.cancelled)


async def turns() -> None:
    """Let everybody go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_result_is_passed_on() -> None:
    """Of futures that are done before, or become so meanwhile."""
    work = Work(3)
    work.futures[0].set_result(0)
    task = asyncio.create_task(work.awaited())
    for number in (1, 2):
        await turns()
        work.futures[number].set_result(number)
    assert await task == [0, 1, 2]
    assert work.cancels == 0


async def test_it_may_let_others_go_on() -> None:
    async def run() -> int:
        await asyncio.sleep(0)
        return 7

    assert await Uninterrupted(run(), lambda: None) == 7


async def test_an_error_is_passed_on() -> None:
    work = Work(2)
    task = asyncio.create_task(work.awaited())
    await turns()
    work.futures[0].set_result(0)
    await turns()
    work.futures[1].set_exception(ValueError("of its own"))
    with pytest.raises(ValueError, match="of its own"):
        await task


@pytest.mark.parametrize("cancels", [1, 3])
async def test_a_cancellation_waits_for_the_end(cancels: int) -> None:
    work = Work(2)
    task = asyncio.create_task(work.awaited())
    for _ in range(cancels):
        await turns()
        task.cancel()
    await turns()
    work.futures[0].set_result(0)
    await turns()
    assert not task.done()
    work.futures[1].set_result(1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.found == [0, 1]
    assert work.cancels == cancels


async def test_a_cancellation_comes_before_an_error() -> None:
    work = Work()
    task = asyncio.create_task(work.awaited())
    await turns()
    task.cancel()
    await turns()
    work.futures[0].set_exception(ValueError("of its own"))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_at_the_very_end_is_not_lost() -> None:
    """The future is done, and nobody has told the task yet."""
    work = Work(2)
    task = asyncio.create_task(work.awaited())
    await turns()
    work.futures[0].set_result(0)
    task.cancel()
    await turns()
    assert not task.done()
    work.futures[1].set_result(1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.found == [0, 1]


async def test_a_timeout_around_it_is_one() -> None:
    work = Work()

    def end() -> None:
        work.futures[0].set_result(0)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Uninterrupted(work.run(), end)
    assert work.found == [0]
