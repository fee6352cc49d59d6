"""Jobs that fail, to see what Headway makes of it: a retry, and a dead letter that is replayed."""

from datetime import timedelta
from pathlib import Path

from examples.fields import Fields
from examples.output import output_directory
from headway_worker import Context, Jobs

jobs = Jobs()

FAILURES_MAX = 1_000


@jobs.handler("demo.flaky", max_attempts=5, initial_backoff=timedelta(seconds=0.5))
async def flaky(ctx: Context, payload: dict[str, object]) -> dict[str, object]:
    """Fail in the first `failures` attempts, succeed in the next: `{"failures": 2}`."""
    failures = Fields(payload, known=("failures",)).integer(
        "failures", default=2, minimum=0, maximum=FAILURES_MAX
    )
    if ctx.attempt <= failures:
        raise ConnectionResetError("rates.example:443 closed the connection before it answered")
    return {"attempt": ctx.attempt}


@jobs.handler("demo.poison", max_attempts=3, initial_backoff=timedelta(seconds=0.5), multiplier=1.0)
async def poison(ctx: Context, payload: dict[str, object]) -> dict[str, object]:
    """Fail until a file is there: `{"needs": "prices.csv"}`, in the output directory or absolute.

    The job ends as a dead letter that names the cause. Put the file there, replay the job, and it
    completes.
    """
    needed = output_directory() / Path(Fields(payload, known=("needs",)).text("needs"))
    if not needed.is_file():
        raise FileNotFoundError(f"{needed} is missing; put it there and replay this job")
    return {"path": str(needed), "attempt": ctx.attempt}
