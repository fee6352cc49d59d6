"""P1, P2, P4, P6: a real server or worker loses the reply to a COMMIT, and asks again by itself."""

from functools import partial

import pytest

from headway import JobState
from headway.client import Client
from tests.faults.proxy import Deed, proxied
from tests.faults.rig import Rig
from tests.faults.waiting import insist, until

DELAY_SECONDS = 1.0
"""Shorter than a call may take."""


@pytest.mark.parametrize("deed", [Deed.RESET, Deed.DELAY], ids=lambda deed: deed.name)
@pytest.mark.parametrize("statement", ["claims.claim", "runs.settle"])
async def test_a_worker_that_loses_a_reply_has_what_it_did(
    rig: Rig, statement: str, deed: Deed
) -> None:
    """P2, P4: the run is its own: it is executed once, and not ended by its own heartbeat as one
    that nobody holds.
    """
    async with proxied(rig.stack.database_url) as proxy:
        await rig.worker("--concurrency", "4", HEADWAY_DATABASE_URL=proxy.url)
        fault = proxy.on(f"committed {statement}", deed, times=2, seconds=DELAY_SECONDS)
        async with rig.client() as client:
            jobs = []
            for _ in range(2):
                jobs += await rig.submit(client, 4)
                await rig.done()
            assert fault.struck.is_set()
            assert fault.count >= 2
            for job in jobs:
                assert await rig.history(job.id) == ["SUBMITTED", "STARTED", "COMPLETED"]
        await rig.judge(without_fault=True)


async def test_a_server_that_loses_a_reply_has_what_it_did(rig: Rig) -> None:
    """P1, P6: a submit and a replay, whose callers ask again at most: one job, one new life."""
    await rig.worker()
    gate = rig.gate()
    async with proxied(rig.stack.database_url) as proxy:
        await rig.start_elsewhere(HEADWAY_DATABASE_URL=proxy.url)
        async with Client(rig.elsewhere) as client:
            submitted = proxy.on("committed submissions.submit", Deed.RESET)
            payload = {"until": str(gate)}
            submit = partial(client.submit, "fault.unless", payload, idempotency_key="once")
            job = await insist(submit)
            await until(submitted.struck.is_set, "the reply is lost")
            rig.accept([job], followed=0)
            await rig.done()
            assert (await client.get(job.id)).state is JobState.DEAD
            gate.touch()
            replayed = proxy.on("committed dead_letters.replay", Deed.RESET)
            await insist(lambda: client.replay(job.id))
            await until(replayed.struck.is_set, "the reply is lost")
            await rig.done()
        rig.follow([job.id])
        assert await rig.history(job.id) == [
            *("SUBMITTED", "STARTED", "DEAD"),
            *("REPLAYED", "STARTED", "COMPLETED"),
        ]
        assert len(await rig.query("SELECT id FROM jobs")) == 1
        await rig.judge()
