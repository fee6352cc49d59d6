"""What becomes of jobs whose handlers run on the loop or in a thread."""

import asyncio
import threading
import time
from datetime import timedelta

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration

from headway_core import jobs as store
from headway_core.content import Content, ContentKind
from headway_core.hints import EventHint, ProgressHint
from headway_core.states import JobState
from headway_worker import Context, JobCancelled, Jobs, PermanentError, RetryLater
from tests.worker.stage import Stage, eventually

HASTE = timedelta(milliseconds=20)
Payload = dict[str, object]


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


async def test_an_async_handler_gets_its_payload_and_its_result_is_stored(
    stage: Stage, jobs: Jobs
) -> None:
    @jobs.handler("double")
    async def double(ctx: Context, payload: dict[str, int]) -> dict[str, int]:
        assert payload == {"number": 21}
        assert isinstance(payload["number"], int)
        assert (ctx.attempt, ctx.type, ctx.labels) == (1, "double", {"team": "red"})
        return {"number": 2 * payload["number"]}

    async with stage.engine(jobs):
        job_id = await stage.submit("double", {"number": 21}, labels={"team": "red"})
        assert await stage.result(job_id) == {"number": 42}
    assert await stage.history(job_id) == ["SUBMITTED", "STARTED", "COMPLETED"]
    assert await stage.message_count() == 0


async def test_a_plain_handler_runs_in_a_thread_and_holds_up_nobody(
    stage: Stage, jobs: Jobs
) -> None:
    release = threading.Event()

    @jobs.handler("wait")
    def wait(ctx: Context, payload: Payload) -> Payload:
        assert release.wait(10)
        return {"thread": threading.current_thread().name}

    @jobs.handler("let.go")
    async def let_go(ctx: Context, payload: Payload) -> None:
        release.set()

    async with stage.engine(jobs):
        waiting = await stage.submit("wait")
        await stage.submit("let.go")
        assert (await stage.result(waiting))["thread"].startswith("headway-handler")


async def test_all_kinds_of_payloads_and_results(stage: Stage, jobs: Jobs) -> None:
    @jobs.handler("turn")
    async def turn(ctx: Context, payload: bytes) -> bytes:
        return payload[::-1]

    @jobs.handler("unpack")
    async def unpack(ctx: Context, payload: AnyMessage) -> Duration:
        duration = Duration()
        assert payload.Unpack(duration)
        return Duration(seconds=2 * duration.seconds)

    @jobs.handler("nothing")
    async def nothing(ctx: Context, payload: Payload) -> None:
        assert payload == {}

    packed = AnyMessage()
    packed.Pack(Duration(seconds=3))
    async with stage.engine(jobs):
        data = await stage.submit("turn", given=Content(ContentKind.DATA, b"\x00abc"))
        message = await stage.submit(
            "unpack", given=Content(ContentKind.MESSAGE, packed.SerializeToString())
        )
        none = await stage.submit("nothing")
        assert (await stage.wait(data)).result == Content(ContentKind.DATA, b"cba\x00")
        found = (await stage.wait(message)).result
        assert found is not None
        stored = Duration()
        assert AnyMessage.FromString(found.data).Unpack(stored)
        assert stored.seconds == 6
        job = await stage.wait(none)
        assert (job.state, job.result) == (JobState.COMPLETED, None)


async def test_a_failing_job_is_tried_again_until_it_works(stage: Stage, jobs: Jobs) -> None:
    @jobs.handler("flaky", initial_backoff=HASTE)
    async def flaky(ctx: Context, payload: Payload) -> Payload:
        if ctx.attempt < 3:
            raise ConnectionError(f"attempt {ctx.attempt}")
        return {"attempt": ctx.attempt}

    async with stage.engine(jobs):
        job_id = await stage.submit("flaky")
        assert await stage.result(job_id) == {"attempt": 3}
    history = await stage.history(job_id)
    assert history.count("RETRY_SCHEDULED") == 2
    assert history[-1] == "COMPLETED"


async def test_a_poison_job_ends_in_the_dead_queue_after_its_attempts(
    stage: Stage, jobs: Jobs
) -> None:
    @jobs.handler("poison", max_attempts=3, initial_backoff=HASTE)
    def poison(ctx: Context, payload: Payload) -> None:
        raise ValueError("always")

    async with stage.engine(jobs):
        job_id = await stage.submit("poison")
        job = await stage.wait(job_id, JobState.DEAD)
        assert (job.attempt, job.error and job.error.message) == (3, "always")
        await eventually(lambda: dead_count(stage, 1))
        message = await stage.take_message(dead=True)
    assert str(job_id).encode() in message.body
    assert message.headers["x-death"][0]["reason"] == "rejected"
    assert await stage.message_count() == 0


async def dead_count(stage: Stage, count: int) -> bool:
    return await stage.message_count(dead=True) == count


@pytest.mark.parametrize("error", [PermanentError("wrong country"), None])
async def test_what_can_never_work_is_dead_at_once(
    stage: Stage, jobs: Jobs, error: Exception | None
) -> None:
    """A result that cannot be stored is such a case: never a silent success."""

    @jobs.handler("permanent")
    async def permanent(ctx: Context, payload: Payload) -> Payload:
        if error is not None:
            raise error
        return {"number": float("nan")}

    async with stage.engine(jobs):
        job = await stage.wait(await stage.submit("permanent"))
    assert job.state is JobState.DEAD
    assert job.error is not None
    assert not job.error.retryable
    assert ("wrong country" if error else "$.number") in job.error.message
    assert job.attempt == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_no_exception_of_a_handler_takes_the_worker_down(
    stage: Stage, jobs: Jobs, error: type[BaseException], kind: str
) -> None:
    async def raise_async(ctx: Context, payload: Payload) -> None:
        raise error

    def raise_in_thread(ctx: Context, payload: Payload) -> None:
        raise error

    jobs.handler("leave", max_attempts=1)(raise_async if kind == "async" else raise_in_thread)

    @jobs.handler("stay")
    async def stay(ctx: Context, payload: Payload) -> None: ...

    async with stage.engine(jobs):
        job = await stage.wait(await stage.submit("leave"))
        assert job.state is JobState.DEAD
        assert job.error is not None
        assert error.__name__ in job.error.type
        assert (await stage.wait(await stage.submit("stay"))).state is JobState.COMPLETED


async def test_a_handler_that_cancels_its_own_task_fails_alone(stage: Stage, jobs: Jobs) -> None:
    @jobs.handler("suicidal", max_attempts=1)
    async def suicidal(ctx: Context, payload: Payload) -> Payload:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return {}

    async with stage.engine(jobs):
        job = await stage.wait(await stage.submit("suicidal"))
    assert job.state is JobState.DEAD


async def test_retry_later_runs_again_and_costs_no_attempt(stage: Stage, jobs: Jobs) -> None:
    begun: list[float] = []

    @jobs.handler("later", max_attempts=1)
    async def later(ctx: Context, payload: Payload) -> Payload:
        begun.append(time.monotonic())
        if len(begun) == 1:
            raise RetryLater(after=0.5)
        return {"attempt": ctx.attempt}

    async with stage.engine(jobs):
        job_id = await stage.submit("later")
        assert await stage.result(job_id) == {"attempt": 1}
    assert begun[1] - begun[0] >= 0.5
    assert await stage.history(job_id) == [
        "SUBMITTED",
        "STARTED",
        "SNOOZED",
        "STARTED",
        "COMPLETED",
    ]


async def test_higher_priority_runs_first_when_one_slot_is_freed(stage: Stage, jobs: Jobs) -> None:
    order: list[object] = []
    hold = asyncio.Event()

    @jobs.handler("note")
    async def note(ctx: Context, payload: Payload) -> None:
        order.append(payload["name"])
        await hold.wait()

    async with stage.engine(jobs, slots=1):
        first = await stage.submit("note", {"name": "first"})
        await stage.wait(first, JobState.RUNNING)
        low = [await stage.submit("note", {"name": "low"}, priority=1) for _ in range(5)]
        high = [await stage.submit("note", {"name": "high"}, priority=9) for _ in range(3)]
        for job_id in (*low, *high):
            await stage.wait(job_id, JobState.QUEUED)
        hold.set()
        for job_id in (*low, *high):
            await stage.wait(job_id, JobState.COMPLETED)
    assert order == ["first", *["high"] * 3, *["low"] * 5]


async def test_no_more_jobs_run_at_once_than_there_are_slots(stage: Stage, jobs: Jobs) -> None:
    running, most = 0, 0

    @jobs.handler("count")
    async def count(ctx: Context, payload: Payload) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1

    async with stage.engine(jobs, slots=3):
        ids = [await stage.submit("count") for _ in range(30)]
        for job_id in ids:
            await stage.wait(job_id, JobState.COMPLETED)
    assert most == 3


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_job_is_cancelled_while_it_runs(stage: Stage, jobs: Jobs, kind: str) -> None:
    begun, seen = threading.Event(), threading.Event()

    async def wait_async(ctx: Context, payload: Payload) -> None:
        begun.set()
        try:
            await asyncio.sleep(1_000)
        finally:
            assert ctx.cancelled
            seen.set()

    def wait_in_thread(ctx: Context, payload: Payload) -> None:
        begun.set()
        while True:
            time.sleep(0.01)
            try:
                ctx.raise_if_cancelled()
            except JobCancelled:
                seen.set()
                raise

    jobs.handler("wait")(wait_async if kind == "async" else wait_in_thread)
    async with stage.engine(jobs) as running:
        job_id = await stage.submit("wait")
        await asyncio.to_thread(begun.wait, 10)
        await store.cancel(stage.database, job_id, reason="not needed")
        running.engine.cancel(job_id)
        job = await stage.wait(job_id)
    assert job.state is JobState.CANCELLED
    assert seen.is_set()
    assert await stage.message_count() == 0


async def test_a_cancel_hint_without_a_request_behind_it_stops_nothing(
    stage: Stage, jobs: Jobs
) -> None:
    """A hint may come late, when the job has been replayed and runs anew."""

    @jobs.handler("wait")
    async def wait(ctx: Context, payload: Payload) -> Payload:
        await asyncio.sleep(0.5)
        return {"finished": True}

    async with stage.engine(jobs) as running:
        job_id = await stage.submit("wait")
        await stage.wait(job_id, JobState.RUNNING)
        running.engine.cancel(job_id)
        assert await stage.result(job_id) == {"finished": True}


async def test_a_cancel_request_whose_hint_is_lost_is_found_by_the_next_heartbeat(
    stage: Stage, jobs: Jobs
) -> None:
    @jobs.handler("wait")
    async def wait(ctx: Context, payload: Payload) -> None:
        await asyncio.sleep(1_000)

    async with stage.engine(jobs, beats=0.1):
        job_id = await stage.submit("wait")
        await stage.wait(job_id, JobState.RUNNING)
        await store.cancel(stage.database, job_id, reason="")
        assert (await stage.wait(job_id)).state is JobState.CANCELLED


async def test_a_result_that_arrives_after_a_cancel_request_completes_the_job(
    stage: Stage, jobs: Jobs
) -> None:
    @jobs.handler("finish")
    async def finish(ctx: Context, payload: Payload) -> Payload:
        try:
            await asyncio.sleep(1_000)
        except asyncio.CancelledError:
            pass
        return {"finished": True}

    async with stage.engine(jobs) as running:
        job_id = await stage.submit("finish")
        await stage.wait(job_id, JobState.RUNNING)
        await store.cancel(stage.database, job_id, reason="")
        running.engine.cancel(job_id)
        assert await stage.result(job_id) == {"finished": True}


@pytest.mark.parametrize("kind", ["async", "thread", "swallows"])
async def test_an_attempt_that_runs_too_long_is_timed_out(
    stage: Stage, jobs: Jobs, kind: str
) -> None:
    async def wait_async(ctx: Context, payload: Payload) -> None:
        await asyncio.sleep(1_000)

    async def swallow(ctx: Context, payload: Payload) -> Payload:
        try:
            await asyncio.sleep(1_000)
        except asyncio.CancelledError:
            pass
        return {"late": True}

    def wait_in_thread(ctx: Context, payload: Payload) -> Payload:
        while not ctx.cancelled:
            time.sleep(0.01)
        return {"late": True}

    functions = {"async": wait_async, "thread": wait_in_thread, "swallows": swallow}
    jobs.handler("wait", timeout=timedelta(seconds=0.2), max_attempts=2, initial_backoff=HASTE)(
        functions[kind]
    )
    async with stage.engine(jobs):
        job = await stage.wait(await stage.submit("wait"))
    assert job.state is JobState.DEAD
    assert job.error is not None
    assert (job.error.type, job.attempt) == ("Timeout", 2)


async def test_a_timeout_of_the_handlers_own_is_a_plain_failure(stage: Stage, jobs: Jobs) -> None:
    @jobs.handler("impatient", max_attempts=1, timeout=timedelta(seconds=30))
    async def impatient(ctx: Context, payload: Payload) -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(1_000)

    async with stage.engine(jobs):
        job = await stage.wait(await stage.submit("impatient"))
    assert job.error is not None
    assert job.error.type == "TimeoutError"


async def test_progress_is_sent_as_hints_and_kept_on_the_row(stage: Stage, jobs: Jobs) -> None:
    hold = asyncio.Event()

    @jobs.handler("work")
    def work(ctx: Context, payload: Payload) -> None:
        for number in range(20_000):
            ctx.progress(number + 1, 20_000, step="count", message=f"at {number + 1}")
        asyncio.run_coroutine_threadsafe(hold.wait(), loop).result(10)

    loop = asyncio.get_running_loop()
    async with stage.engine(jobs):
        job_id = await stage.submit("work")

        async def saved() -> bool:
            progress = (await stage.job(job_id)).progress
            return progress is not None and progress.done == 20_000

        await eventually(saved)
        hold.set()
        job = await stage.wait(job_id, JobState.COMPLETED)
        hints = await eventually(
            lambda: [hint for hint in stage.hints if isinstance(hint, ProgressHint)]
        )
    assert job.progress is not None
    assert (job.progress.step, job.progress.message) == ("count", "at 20000")
    assert len(hints) < 100, "not coalesced"
    assert {(hint.job_id, hint.run_epoch) for hint in hints} == {(job_id, 1)}


async def test_each_event_sends_a_hint(stage: Stage, jobs: Jobs) -> None:
    @jobs.handler("quick")
    async def quick(ctx: Context, payload: Payload) -> None: ...

    async with stage.engine(jobs):
        job_id = await stage.submit("quick")
        job = await stage.wait(job_id, JobState.COMPLETED)
        await eventually(lambda: EventHint(job_id, job.sequence, done=True) in stage.hints)


async def test_a_job_of_a_type_that_nobody_here_has_is_declined_and_waits(
    stage: Stage, jobs: Jobs
) -> None:
    @jobs.handler("known")
    async def known(ctx: Context, payload: Payload) -> None: ...

    later = Jobs()

    @later.handler("unknown")
    async def unknown(ctx: Context, payload: Payload) -> None: ...

    async with stage.engine(jobs):
        job_id = await stage.submit("unknown")
        await eventually(lambda: was_declined(stage, job_id))
        job = await stage.job(job_id)
        assert (job.state, job.attempt) == (JobState.PENDING, 0)
        assert (await stage.wait(await stage.submit("known"))).state is JobState.COMPLETED
    async with stage.engine(later):
        assert (await stage.wait(job_id)).state is JobState.COMPLETED


async def was_declined(stage: Stage, job_id: object) -> bool:
    return "DECLINED" in await stage.history(job_id)  # type: ignore[arg-type]


async def test_an_async_handler_may_use_threads_and_a_plain_one_loops(
    stage: Stage, jobs: Jobs
) -> None:
    @jobs.handler("mixed")
    async def mixed(ctx: Context, payload: Payload) -> Payload:
        return {"slept": await asyncio.to_thread(lambda: time.sleep(0.01) or True)}

    @jobs.handler("looped")
    def looped(ctx: Context, payload: Payload) -> Payload:
        async def inner() -> bool:
            await asyncio.sleep(0.01)
            return True

        return {"slept": asyncio.run(inner())}

    async with stage.engine(jobs):
        first, second = await stage.submit("mixed"), await stage.submit("looped")
        assert await stage.result(first) == {"slept": True}
        assert await stage.result(second) == {"slept": True}
