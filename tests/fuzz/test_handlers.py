"""What handlers return and raise: the job ends with a precise error, and the worker lives on."""

from headway_core.job import Job
from headway_core.states import JobState
from tests.fuzz.effort import thrown
from tests.fuzz.handlers import ERRORS, RESULTS
from tests.worker.stage import stage

TARGET = "tests.fuzz.handlers:jobs"
CHILDREN = (
    "result: itself",
    "result: a dict that breaks",
    "result: a class that breaks",
    "error: a text that exits",
    "error: a text that raises",
    "error: an exit",
    "error: a text of 10 MB",
    "error: half a character",
    "error: a chain without an end",
    "error: a class with a long name",
)
"""Those that a child tells in its own way; each costs a start of Python."""


def check_precise(how: str, job: Job) -> None:
    assert job.state is JobState.DEAD, how
    assert job.error is not None, how
    assert 0 < len(job.error.type) <= 256, how
    assert len(job.error.message.encode()) <= 4_096, how
    if how.startswith("result: "):
        assert job.error.type in {"ResultRefused", "PermanentError"}, (how, job.error)
        assert job.error.message.startswith("the result"), (how, job.error)
        assert not job.error.retryable
    elif how != "error: for good":
        assert job.attempt == 2, (how, job.attempt)


async def test_whatever_handlers_do_their_jobs_end_and_others_run_on(
    database_url: str, amqp_url: str
) -> None:
    everything = [f"result: {how}" for how in RESULTS] + [f"error: {how}" for how in ERRORS]
    here = ("hostile.loop", "hostile.thread", "hostile.step")
    cases = [(type_, how) for type_ in here for how in everything]
    # Asked whether it is awaitable, this one raises in the handler itself, inside `ctx.step`.
    cases.remove(("hostile.step", "result: a class that breaks"))
    cases += [("hostile.child", how) for how in CHILDREN]
    async with (
        stage(database_url, amqp_url) as found,
        found.worker(TARGET, "--concurrency", "8") as worker,
    ):
        await worker.ready()
        executors = {child.pid for child in worker.children()}
        before = await found.result(await found.submit("echo", {}))
        jobs = {case: await found.submit(case[0], {"how": case[1]}) for case in cases}
        for (type_, how), job_id in jobs.items():
            job = await found.wait(job_id, within=60)
            check_precise(how, job)
            thrown["ends of handlers"] += 1
            assert "INTERRUPTED" not in await found.history(job_id), (type_, how)
        after = await found.result(await found.submit("echo", {}))
        assert after == before, "the executor was replaced"
        assert {child.pid for child in worker.children()} == executors
