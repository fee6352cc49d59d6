"""The smallest handler: a function from a payload to a result."""

from headway_worker import Context, Jobs

jobs = Jobs()


@jobs.handler("hello")
async def hello(ctx: Context, payload: dict[str, object]) -> dict[str, object]:
    """Greet somebody: `{"name": "Ada"}`."""
    return {"greeting": f"Hello, {payload.get('name', 'world')}! I am job {ctx.job_id}."}
