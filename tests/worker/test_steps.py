"""A step's result is stored once per job, and comes back in later runs."""

import asyncio
import threading
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from headway_core import leases
from headway_core.leases import LeaseEnd
from headway_core.states import JobState
from headway_worker import Context, Jobs, PermanentError
from tests.service.proxy import proxied
from tests.worker.stage import Stage, eventually

HASTE = timedelta(milliseconds=20)
Payload = dict[str, Any]


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


class Calls:
    """What steps did."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.threads: set[str] = set()

    def plain(self, name: str, value: object = None) -> object:
        self.made.append(name)
        self.threads.add(threading.current_thread().name)
        return value

    async def awaitable(self, name: str, value: object = None) -> object:
        self.made.append(name)
        await asyncio.sleep(0)
        return value


async def test_steps_run_once_across_retries(stage: Stage, jobs: Jobs) -> None:
    calls = Calls()

    @jobs.handler("work", initial_backoff=HASTE)
    async def work(ctx: Context, payload: Payload) -> Payload:
        one = await ctx.step("one", calls.plain, "one", {"rows": [1, 2]})
        two = await ctx.step("two", calls.awaitable, "two", b"\x00")
        if ctx.attempt < 3:
            raise ConnectionError("again")
        three = await ctx.step("three", calls.plain, "three")
        assert two == b"\x00"
        return {"one": one, "three": three}

    async with stage.engine(jobs):
        job_id = await stage.submit("work")
        assert await stage.result(job_id) == {"one": {"rows": [1, 2]}, "three": None}
    assert calls.made == ["one", "two", "three"]
    assert threading.current_thread().name not in calls.threads, "a blocking step on the loop"
    assert (await stage.history(job_id)).count("STEP_COMPLETED") == 3


async def test_steps_of_a_plain_handler_are_plain_calls(stage: Stage, jobs: Jobs) -> None:
    calls = Calls()

    @jobs.handler("work", initial_backoff=HASTE)
    def work(ctx: Context, payload: Payload) -> Payload:
        one = ctx.step("one", calls.plain, "one", 1)
        two = ctx.step("two", calls.awaitable, "two", 2)
        if ctx.attempt == 1:
            raise ConnectionError("again")
        return {"sum": one + two}

    async with stage.engine(jobs):
        assert await stage.result(await stage.submit("work")) == {"sum": 3}
    assert calls.made == ["one", "two"]


async def test_a_result_comes_back_the_same_in_the_run_that_made_it(
    stage: Stage, jobs: Jobs
) -> None:
    @jobs.handler("work")
    async def work(ctx: Context, payload: Payload) -> Payload:
        return {"list": isinstance(await ctx.step("pair", lambda: (1, 2)), list)}

    async with stage.engine(jobs):
        assert await stage.result(await stage.submit("work")) == {"list": True}


async def test_the_same_step_twice_at_once_runs_once(stage: Stage, jobs: Jobs) -> None:
    calls = Calls()

    @jobs.handler("work")
    async def work(ctx: Context, payload: Payload) -> Payload:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(ctx.step("one", calls.awaitable, "one", 7)) for _ in range(5)
            ]
        return {"all": [task.result() for task in tasks]}

    async with stage.engine(jobs):
        assert await stage.result(await stage.submit("work")) == {"all": [7] * 5}
    assert calls.made == ["one"]


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "\x00"])
async def test_an_impossible_step_name_is_dead_at_once(stage: Stage, jobs: Jobs, name: str) -> None:
    @jobs.handler("work")
    async def work(ctx: Context, payload: Payload) -> None:
        await ctx.step(name, lambda: None)

    async with stage.engine(jobs):
        job = await stage.wait(await stage.submit("work"))
    assert job.state is JobState.DEAD
    assert job.error is not None
    assert "step name" in job.error.message


async def test_a_step_result_that_cannot_be_stored_is_dead_at_once(
    stage: Stage, jobs: Jobs
) -> None:
    @jobs.handler("work")
    async def work(ctx: Context, payload: Payload) -> None:
        await ctx.step("fetch", lambda: {1, 2})

    async with stage.engine(jobs):
        job = await stage.wait(await stage.submit("work"))
    assert job.state is JobState.DEAD
    assert job.error is not None
    assert "'fetch'" in job.error.message


async def test_a_failing_step_is_not_stored(stage: Stage, jobs: Jobs) -> None:
    calls = Calls()

    @jobs.handler("work", initial_backoff=HASTE)
    async def work(ctx: Context, payload: Payload) -> Payload:
        def fail_once() -> int:
            calls.plain("one")
            if len(calls.made) == 1:
                raise ConnectionError("again")
            return 5

        return {"one": await ctx.step("one", fail_once)}

    async with stage.engine(jobs):
        assert await stage.result(await stage.submit("work")) == {"one": 5}
    assert calls.made == ["one", "one"]


async def test_a_stopped_iteration_out_of_a_step_is_an_error_as_any_other(
    stage: Stage, jobs: Jobs
) -> None:
    """No future can hold a StopIteration: the step would be waited for, for ever."""

    @jobs.handler("work", max_attempts=1)
    async def work(ctx: Context, payload: Payload) -> Payload:
        return {"first": await ctx.step("first", next, iter(()))}

    async with stage.engine(jobs):
        job = await stage.wait(await stage.submit("work"))
    assert job.state is JobState.DEAD
    assert job.error is not None
    assert job.error.type == "RuntimeError"
    assert "StopIteration" in job.error.message


async def test_idempotency_keys_are_the_same_in_every_run(stage: Stage, jobs: Jobs) -> None:
    keys: set[str] = set()

    @jobs.handler("work", initial_backoff=HASTE)
    async def work(ctx: Context, payload: Payload) -> None:
        keys.add(ctx.idempotency_key("pay"))
        if ctx.attempt == 1:
            raise ConnectionError("again")

    async with stage.engine(jobs):
        job_id = await stage.submit("work")
        await stage.wait(job_id, JobState.COMPLETED)
    assert keys == {f"{job_id}:pay"}


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_run_that_is_no_longer_the_jobs_own_stores_no_step_and_is_stopped(
    stage: Stage, jobs: Jobs, kind: str
) -> None:
    """The zombie's fence: its lease was ended and another has the job."""
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    raised: list[BaseException] = []

    async def work_async(ctx: Context, payload: Payload) -> Payload:
        begun.set()
        try:
            await ctx.step("slow", go_on.wait, 10)
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            ended.set()
        return {"by": "zombie"}

    def work_in_thread(ctx: Context, payload: Payload) -> Payload:
        begun.set()
        try:
            ctx.step("slow", go_on.wait, 10)
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            ended.set()
        return {"by": "zombie"}

    jobs.handler("work")(work_async if kind == "async" else work_in_thread)
    other = Jobs()

    @other.handler("work")
    async def work(ctx: Context, payload: Payload) -> Payload:
        return {"by": "successor"}

    async with stage.engine(jobs) as zombie:
        zombie.keep = False
        job_id = await stage.submit("work")
        await asyncio.to_thread(begun.wait, 10)
        await leases.end(
            stage.database, zombie.worker_id, how=LeaseEnd.STOPPED, message="for the test"
        )
        async with stage.engine(other):
            assert await stage.result(job_id) == {"by": "successor"}
        go_on.set()
        assert await asyncio.to_thread(ended.wait, 10)
        assert isinstance(raised[0], asyncio.CancelledError)
    assert "STEP_COMPLETED" not in await stage.history(job_id)


async def test_a_worker_without_a_confirmed_heartbeat_begins_no_step(
    stage: Stage, jobs: Jobs
) -> None:
    calls = Calls()
    go_on = asyncio.Event()

    @jobs.handler("work")
    async def work(ctx: Context, payload: Payload) -> None:
        await go_on.wait()
        await ctx.step("one", calls.plain, "one")

    async with stage.engine(jobs, lease=timedelta(seconds=1), beats=0.2) as running:
        job_id = await stage.submit("work")
        await stage.wait(job_id, JobState.RUNNING)
        running.keep = False
        running.drain_seconds = 0
        await eventually(lambda: not running.engine._lease.live)
        go_on.set()
        await asyncio.sleep(0.3)
        assert calls.made == []


async def test_a_step_is_stored_when_postgres_is_back(stage: Stage, jobs: Jobs) -> None:
    finished = asyncio.Event()

    @jobs.handler("work")
    async def work(ctx: Context, payload: Payload) -> Payload:
        async def part() -> int:
            await finished.wait()
            return 5

        return {"one": await ctx.step("one", part)}

    async with proxied(stage.database_url) as (proxy, url):
        direct, stage.database_url = stage.database_url, url
        async with stage.engine(jobs):
            job_id = await stage.submit("work")
            await stage.wait(job_id, JobState.RUNNING)
            proxy.cut()
            finished.set()
            await asyncio.sleep(0.5)
            assert "STEP_COMPLETED" not in await stage.history(job_id)
            proxy.heal()
            assert await stage.result(job_id) == {"one": 5}
        stage.database_url = direct
    assert (await stage.history(job_id)).count("STEP_COMPLETED") == 1


async def test_a_permanent_error_out_of_a_step_is_permanent(stage: Stage, jobs: Jobs) -> None:
    @jobs.handler("work")
    def work(ctx: Context, payload: Payload) -> None:
        def refuse() -> None:
            raise PermanentError("never")

        with suppress(ValueError):
            ctx.step("one", refuse)

    async with stage.engine(jobs):
        job = await stage.wait(await stage.submit("work"))
    assert job.state is JobState.DEAD
    assert job.attempt == 1
