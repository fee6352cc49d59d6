"""How long things take on an idle machine, percentiles."""

from collections.abc import Sequence

from bench.measurements.composite import Composite
from bench.measurements.plan import Measurement, Plan
from bench.program import Program
from bench.stage import Headway

SLOTS = 50
IDLE_ROUNDS = 300
PROGRESS_JOBS = 20
PROGRESS_REPORTS = 40
PROGRESS_SECONDS = 0.15
"""Apart: longer than the 100 ms that a stream leaves between two by default, so none is held."""
SEEN_MIN = 0.9


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed, in milliseconds for seconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3


async def idle_latencies(plan: Plan) -> dict[str, list[float]]:
    """Seconds of echoes, commits, replies and completions taken in turn, then the composite's."""
    async with (
        plan.stage.place(migrated=False) as bare,
        await Program.start("bench.floors.echo") as echo,
        Composite.running(plan.stage, slots=SLOTS) as composite,
        Headway.running(plan.stage, slots=SLOTS) as headway,
        await Program.start(
            "bench.clients.idle",
            echo=echo.address,
            address=headway.address,
            database_url=bare.database_url,
            composite=composite.address,
            composite_database_url=composite.place.database_url,
            rounds=plan.jobs(IDLE_ROUNDS),
        ) as client,
    ):
        return await client.go()


async def idle(plan: Plan) -> None:
    """Submit to reply, and to COMPLETED on WatchJob, beside a bare echo, a bare commit, and the
    composite.
    """
    found = await idle_latencies(plan)
    floor = percentile(found["echoes"], 0.5) + percentile(found["commits"], 0.5)
    plan.samples.add_floor(["idle_reply_p50"], floor)
    plan.samples.add("idle_reply_p50", percentile(found["replies"], 0.5))
    plan.samples.add("idle_completed_p50", percentile(found["completions"], 0.5))
    plan.samples.add("idle_completed_p99", percentile(found["completions"], 0.99))
    plan.samples.add("composite_idle_reply_p50", percentile(found["composite_replies"], 0.5))
    plan.samples.add(
        "composite_idle_completed_p50", percentile(found["composite_completions"], 0.5)
    )
    plan.samples.add(
        "composite_idle_completed_p99", percentile(found["composite_completions"], 0.99)
    )


async def progress_ages(plan: Plan) -> list[float]:
    """Seconds from `ctx.progress` to the client, 20 jobs that report 7 times a second each.

    Raises RuntimeError if many reports were not seen: the ages of the others would mean nothing.
    """
    reports = plan.jobs(PROGRESS_REPORTS)
    async with (
        Headway.running(plan.stage, slots=SLOTS) as headway,
        await Program.start(
            "bench.clients.progress",
            address=headway.address,
            jobs=PROGRESS_JOBS,
            payload={"reports": reports, "seconds": PROGRESS_SECONDS},
        ) as client,
    ):
        ages: list[float] = (await client.go())["ages"]
    if len(ages) < SEEN_MIN * reports * PROGRESS_JOBS:
        raise RuntimeError(f"{len(ages)} of {reports * PROGRESS_JOBS} reports were seen")
    return ages


async def progress(plan: Plan) -> None:
    """From `ctx.progress` in a handler to the client's stream."""
    ages = await progress_ages(plan)
    plan.samples.add("progress_p50", percentile(ages, 0.5))
    plan.samples.add("progress_p99", percentile(ages, 0.99))


MEASUREMENTS = (
    Measurement(
        (
            "idle_reply_p50",
            "idle_completed_p50",
            "idle_completed_p99",
            "composite_idle_reply_p50",
            "composite_idle_completed_p50",
            "composite_idle_completed_p99",
        ),
        idle,
    ),
    Measurement(("progress_p50", "progress_p99"), progress),
)
