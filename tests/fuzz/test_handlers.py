"""What handlers return and raise: the job ends with a precise error, and the worker lives on."""

from headway import Job, JobState
from tests.fuzz.effort import ASKED, thrown
from tests.fuzz.handlers import ERRORS, RESULTS
from tests.fuzz.live import Live

END_SECONDS = 60.0
EVERYTHING = (*(f"result: {how}" for how in RESULTS), *(f"error: {how}" for how in ERRORS))
CHILDREN = (
    "result: a dict that breaks",
    "result: a class that breaks",
    "error: a text that exits",
    "error: an exit",
    "error: half a character",
)
"""Those that a child tells in its own way; each costs a start of Python or two."""


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


def test_whatever_handlers_do_their_jobs_end_and_others_run_on(live: Live) -> None:
    here = ("hostile.loop", "hostile.thread", "hostile.step")
    cases = [(type_, how) for type_ in here for how in EVERYTHING]
    # Asked whether it is awaitable, this one raises in the handler itself, inside `ctx.step`.
    cases.remove(("hostile.step", "result: a class that breaks"))
    cases += [("hostile.child", how) for how in (EVERYTHING if ASKED else CHILDREN)]
    executors = live.executors()
    jobs = {case: live.client.submit(case[0], {"how": case[1]}) for case in cases}
    for (_, how), job in jobs.items():
        check_precise(how, live.wait(job, seconds=END_SECONDS))
        thrown["ends of handlers"] += 1
    live.run_good_job()
    assert live.executors() == executors, "the executor was replaced"
    assert not live.query("SELECT FROM job_events WHERE type = 6"), "a run was interrupted"
