"""Handlers that do nothing: what is left is Headway's own cost."""

from headway_worker import Context, Jobs

jobs = Jobs()


@jobs.handler("noop")
async def noop(_ctx: Context, _payload: object) -> dict[str, int]:
    """Return at once, with a small result."""
    return {"pages": 12}
