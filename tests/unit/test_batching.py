"""Group commit."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import pytest

from headway_core import batching
from headway_core.batching import GroupCommit
from headway_core.errors import StoreUnavailable


async def test_what_comes_together_is_flushed_together() -> None:
    """One flush under way, the rest in the next one."""
    flushes: list[list[int]] = []

    async def flush(items: Sequence[int]) -> list[int]:
        flushes.append(list(items))
        await asyncio.sleep(0.01)
        return [item * 2 for item in items]

    group = GroupCommit(flush, batch_max=4)
    runner = asyncio.create_task(group.run())
    first = asyncio.create_task(group.submit(0))
    await asyncio.sleep(0.005)
    assert await asyncio.gather(first, *(group.submit(n) for n in range(1, 7))) == [
        0, 2, 4, 6, 8, 10, 12,
    ]  # fmt: skip
    assert flushes == [[0], [1, 2, 3, 4], [5, 6]]
    runner.cancel()


async def test_one_bad_item_fails_alone() -> None:
    """A shared flush that fails is tried again one by one."""

    async def flush(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise ValueError("unlucky")
        return list(items)

    group = GroupCommit(flush)
    runner = asyncio.create_task(group.run())
    results = await asyncio.gather(*(group.submit(n) for n in (1, 13, 2)), return_exceptions=True)
    assert [str(result) for result in results] == ["1", "unlucky", "2"]
    runner.cancel()


async def test_an_absent_store_is_not_asked_one_by_one() -> None:
    """A batch of 256 must not wait for 256 timeouts."""
    calls = 0

    async def flush(items: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        raise StoreUnavailable("away")

    group = GroupCommit(flush)
    runner = asyncio.create_task(group.run())
    results = await asyncio.gather(*(group.submit(n) for n in range(9)), return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert calls == 1
    runner.cancel()


async def test_items_of_one_key_never_share_a_flush() -> None:
    """A statement changes a row once; the second item would be lost."""
    flushes: list[list[tuple[str, int]]] = []

    async def flush(items: Sequence[tuple[str, int]]) -> Sequence[tuple[str, int]]:
        flushes.append(list(items))
        return items

    group = GroupCommit(flush, key=lambda item: item[0])
    waiting = [asyncio.create_task(group.submit(item)) for item in [("a", 1), ("b", 1), ("a", 2)]]
    await asyncio.sleep(0)
    runner = asyncio.create_task(group.run())
    assert await asyncio.gather(*waiting) == [("a", 1), ("b", 1), ("a", 2)]
    assert flushes == [[("a", 1), ("b", 1)], [("a", 2)]]
    runner.cancel()


async def flush_sizes(flushes: list[int], items: Sequence[int]) -> Sequence[int]:
    """A flush that takes no time and notes how many shared it."""
    flushes.append(len(items))
    return items


@pytest.fixture
def never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that turns as often as it likes before a group holds it to be quiet."""
    monkeypatch.setattr(batching, "QUIET_TURNS", 10**9)


@pytest.fixture
def no_matter_how_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group lingers as long after a commit of two as after one of hundreds."""
    monkeypatch.setattr(batching, "LINGER_PER_ITEM", timedelta(minutes=1))


@pytest.mark.usefixtures("no_matter_how_few")
async def test_a_loaded_group_waits_until_no_more_come() -> None:
    """Not one flush for each that comes a little later."""
    flushes: list[int] = []
    group = GroupCommit(partial(flush_sizes, flushes), linger=timedelta(minutes=1))
    runner = asyncio.create_task(group.run())
    await asyncio.gather(*(group.submit(n) for n in range(8)))
    later = []
    for n in range(3):
        later.append(asyncio.create_task(group.submit(n)))
        for _ in range(batching.QUIET_TURNS - 2):
            await asyncio.sleep(0)
    await asyncio.gather(*later)
    assert flushes == [8, 3]
    runner.cancel()


@pytest.mark.usefixtures("no_matter_how_few")
async def test_a_few_callers_hardly_wait_for_each_other() -> None:
    """Where nobody else is under way, a shared commit is no reason to wait for the next."""
    flushes: list[int] = []
    group = GroupCommit(partial(flush_sizes, flushes), linger=timedelta(minutes=1))
    runner = asyncio.create_task(group.run())
    await asyncio.gather(group.submit(1), group.submit(2))
    async with asyncio.timeout(10):
        assert await group.submit(3) == 3
    assert flushes == [2, 1]
    runner.cancel()


@pytest.mark.usefixtures("never_quiet", "no_matter_how_few")
async def test_a_loaded_group_waits_for_enough_and_no_more() -> None:
    """The disk must not stand idle while all callers wait for each other."""
    flushes: list[int] = []
    group = GroupCommit(partial(flush_sizes, flushes), linger=timedelta(minutes=1), enough=3)
    runner = asyncio.create_task(group.run())
    await asyncio.gather(group.submit(1), group.submit(2))
    first = asyncio.create_task(group.submit(3))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not first.done()
    async with asyncio.timeout(10):
        await asyncio.gather(first, group.submit(4), group.submit(5))
    assert flushes == [2, 3]
    runner.cancel()


@pytest.mark.usefixtures("never_quiet", "no_matter_how_few")
async def test_a_loaded_group_lingers_no_longer_than_wanted() -> None:
    """Neither enough nor quiet: a trickle goes on all the same, and shares what time there is."""
    flushes: list[int] = []
    group = GroupCommit(
        partial(flush_sizes, flushes), batch_max=10**9, linger=timedelta(milliseconds=50)
    )
    runner = asyncio.create_task(group.run())
    await asyncio.gather(group.submit(1), group.submit(2))
    trickle = [asyncio.create_task(group.submit(3))]
    async with asyncio.timeout(10):
        while not trickle[0].done():
            trickle.append(asyncio.create_task(group.submit(4)))
            await asyncio.sleep(0.001)
    assert flushes[0] == 2
    assert flushes[1] > 1
    await asyncio.gather(*trickle)
    runner.cancel()


@pytest.mark.usefixtures("never_quiet")
async def test_a_few_callers_do_not_linger_on_a_busy_loop() -> None:
    """Others may keep the loop from being quiet, and so few never are enough."""
    group = GroupCommit(partial(flush_sizes, []), linger=timedelta(minutes=1))
    runner = asyncio.create_task(group.run())
    await asyncio.gather(group.submit(1), group.submit(2))
    async with asyncio.timeout(10):
        await group.submit(3)
    runner.cancel()


@pytest.mark.usefixtures("never_quiet", "no_matter_how_few")
async def test_a_group_that_was_loaded_long_ago_adds_no_wait() -> None:
    """Its last flush says nothing about now."""
    linger = timedelta(milliseconds=500)
    group = GroupCommit(partial(flush_sizes, []), linger=linger)
    runner = asyncio.create_task(group.run())
    await asyncio.gather(*(group.submit(n) for n in range(100)))
    await asyncio.sleep(linger.total_seconds())
    before = asyncio.get_running_loop().time()
    await group.submit(0)
    assert asyncio.get_running_loop().time() - before < linger.total_seconds()
    runner.cancel()


async def test_a_cancelled_caller_leaves_its_item_to_the_flusher() -> None:
    """Cancelling a submit must not cancel its neighbours' commit."""
    flushed: list[int] = []

    async def flush(items: Sequence[int]) -> Sequence[int]:
        await asyncio.sleep(0.01)
        flushed.extend(items)
        return items

    group = GroupCommit(flush)
    runner = asyncio.create_task(group.run())
    caller = asyncio.create_task(group.submit(1))
    other = asyncio.create_task(group.submit(2))
    await asyncio.sleep(0)
    caller.cancel()
    assert await other == 2
    assert flushed == [1, 2]
    runner.cancel()


async def test_callers_of_a_flusher_that_ends_do_not_hang() -> None:
    """They are cancelled with it."""
    started = asyncio.Event()

    async def flush(items: Sequence[int]) -> Sequence[int]:
        started.set()
        await asyncio.sleep(60)
        return items

    group = GroupCommit(flush)
    runner = asyncio.create_task(group.run())
    caller = asyncio.create_task(group.submit(1))
    await started.wait()
    late = asyncio.create_task(group.submit(2))
    await asyncio.sleep(0)
    runner.cancel()
    for task in (caller, late):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_no_caller_hangs_if_the_flusher_ends_while_it_tries_them_one_by_one() -> None:
    """Those whose turn never comes are cancelled, too."""
    alone = asyncio.Event()

    async def flush(items: Sequence[int]) -> Sequence[int]:
        if len(items) > 1:
            raise ValueError("unlucky")
        if items[0] == 2:
            alone.set()
            await asyncio.sleep(60)
        return items

    group = GroupCommit(flush)
    runner = asyncio.create_task(group.run())
    callers = [asyncio.create_task(group.submit(n)) for n in (1, 2, 3)]
    await alone.wait()
    runner.cancel()
    async with asyncio.timeout(10):
        done = await asyncio.gather(*callers, return_exceptions=True)
    assert done[0] == 1
    assert [type(result) for result in done[1:]] == [asyncio.CancelledError] * 2


async def test_nobody_waits_longer_than_wanted() -> None:
    """Neither for a flush that hangs nor for the one after it, which those do not join any more."""
    flushes: list[list[int]] = []
    hanging = asyncio.Event()

    async def flush(items: Sequence[int]) -> list[int]:
        flushes.append(list(items))
        await hanging.wait()
        return list(items)

    group = GroupCommit(flush)
    runner = asyncio.create_task(group.run())
    patient = asyncio.create_task(group.submit(0))
    await asyncio.sleep(0)
    soon = timedelta(milliseconds=20)
    late = [asyncio.create_task(group.submit(n, within=soon)) for n in (1, 2)]
    gone = asyncio.create_task(group.submit(3, within=timedelta(minutes=1)))
    await asyncio.wait(late)
    assert [str(task.exception()) for task in late] == ["the store does not answer in time"] * 2
    gone.cancel()
    hanging.set()
    assert await patient == 0
    assert await group.submit(4, within=timedelta(minutes=1)) == 4
    assert flushes == [[0], [4]]
    runner.cancel()


class Lonely:
    """A group whose callers may flush alone, and what was flushed by whom."""

    def __init__(self, *, linger: timedelta = timedelta(0)) -> None:
        self.alone: list[int] = []
        self.shared: list[list[int]] = []
        self.go_on = asyncio.Event()
        self.group: GroupCommit[int, int] = GroupCommit(
            self._flush, alone=self._flush_alone, linger=linger
        )

    async def _flush(self, items: Sequence[int]) -> Sequence[int]:
        self.shared.append(list(items))
        return items

    async def _flush_alone(self, item: int) -> int | None:
        self.alone.append(item)
        await self.go_on.wait()
        if item == 13:
            raise ValueError("unlucky")
        return item if item > 0 else None


async def test_a_lone_item_is_flushed_by_its_caller() -> None:
    """No flusher is asked; here is none."""
    lonely = Lonely()
    lonely.go_on.set()
    assert [await lonely.group.submit(n) for n in (1, 2, 3)] == [1, 2, 3]
    assert lonely.alone == [1, 2, 3]
    assert lonely.shared == []


@pytest.mark.parametrize("first", [1, 13, 0])
async def test_those_who_come_meanwhile_share_the_next_flush(first: int) -> None:
    """However the first one ends; one that cannot be flushed alone is one of them."""
    lonely = Lonely()
    runner = asyncio.create_task(lonely.group.run())
    await asyncio.sleep(0)
    callers = [asyncio.create_task(lonely.group.submit(n)) for n in (first, 2, 3)]
    await asyncio.sleep(0.01)
    assert lonely.alone == [first]
    assert lonely.shared == []
    lonely.go_on.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(result) for result in results] == [
        "unlucky" if first == 13 else str(first),
        "2",
        "3",
    ]
    assert lonely.alone == [first]
    assert [sorted(items) for items in lonely.shared] == [[0, 2, 3] if first == 0 else [2, 3]]
    runner.cancel()


async def test_a_cancelled_caller_that_flushes_holds_up_nobody() -> None:
    lonely = Lonely()
    runner = asyncio.create_task(lonely.group.run())
    await asyncio.sleep(0)
    first, second = (asyncio.create_task(lonely.group.submit(n)) for n in (1, 2))
    await asyncio.sleep(0.01)
    first.cancel()
    async with asyncio.timeout(10):
        assert await second == 2
    assert lonely.shared == [[2]]
    runner.cancel()


async def test_nobody_flushes_alone_while_a_flush_or_a_linger_is_under_way() -> None:
    lonely = Lonely(linger=timedelta(minutes=1))
    runner = asyncio.create_task(lonely.group.run())
    await asyncio.sleep(0)
    callers = [asyncio.create_task(lonely.group.submit(n)) for n in (1, 2, 3)]
    await asyncio.sleep(0.01)
    lonely.go_on.set()
    await asyncio.gather(*callers)
    assert lonely.shared == [[2, 3]]
    await lonely.group.submit(4)
    assert lonely.alone == [1]
    assert lonely.shared == [[2, 3], [4]]
    await lonely.group.submit(5)
    assert lonely.alone == [1, 5], "the last flush was not shared"
    runner.cancel()
