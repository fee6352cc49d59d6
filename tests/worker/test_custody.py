"""A delivery is acked after a commit and never before, whatever is away."""

import asyncio
import threading
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from headway_core import claims, leases, runs
from headway_core.claims import ClaimRequest
from headway_core.leases import LeaseEnd
from headway_core.states import JobState
from headway_dev.services import Services
from headway_worker import Context, Jobs
from tests.service.proxy import proxied
from tests.worker.stage import PATIENCE, Stage, eventually

Payload = dict[str, Any]


class Gate:
    """A handler that runs until the test lets go, and counts its runs."""

    def __init__(self, **policy: Any) -> None:
        self.jobs = Jobs()
        self.begun: list[int] = []
        self.open = asyncio.Event()

        @self.jobs.handler("hold", **policy)
        async def hold(ctx: Context, payload: Payload) -> Payload:
            self.begun.append(ctx.attempt)
            await self.open.wait()
            return {"runs": len(self.begun)}


async def test_the_broker_holds_the_delivery_of_a_running_job(stage: Stage) -> None:
    gate = Gate()
    async with proxied(stage.amqp_url) as (proxy, url):
        direct = stage.environ["HEADWAY_AMQP_URL"]
        async with stage.engine(gate.jobs, HEADWAY_AMQP_URL=url):
            job_id = await stage.submit("hold")
            await stage.wait(job_id, JobState.RUNNING)
            assert await stage.message_count() == 0
            proxy.cut()
            await eventually(lambda: ready(stage, 1))  # it was unacked: the broker has it again
            proxy.heal()
            await eventually(lambda: ready(stage, 0))  # the copy found the job RUNNING: acked
            gate.open.set()
            assert await stage.result(job_id) == {"runs": 1}
        assert direct == stage.amqp_url
    assert await stage.history(job_id) == ["SUBMITTED", "STARTED", "COMPLETED"]
    await eventually(lambda: ready(stage, 0))


async def ready(stage: Stage, count: int) -> bool:
    return await stage.message_count() == count


async def test_a_job_that_ends_while_postgres_is_away_is_acked_only_when_it_is_back(
    stage: Stage,
) -> None:
    gate = Gate()
    async with (
        proxied(stage.database_url) as (postgres, database_url),
        proxied(stage.amqp_url) as (rabbit, amqp_url),
    ):
        stage.database_url = database_url
        async with stage.engine(gate.jobs, HEADWAY_AMQP_URL=amqp_url) as running:
            job_id = await stage.submit("hold")
            await stage.wait(job_id, JobState.RUNNING)
            postgres.cut()
            gate.open.set()
            await eventually(lambda: [run for run in running.engine.runs if run.settling])
            await asyncio.sleep(0.3)
            assert running.engine.consumer.held == 1
            rabbit.cut()
            await eventually(lambda: ready(stage, 1))  # it was unacked
            rabbit.heal()
            postgres.heal()
            assert await stage.result(job_id) == {"runs": 1}
            await eventually(lambda: ready(stage, 0))
            await eventually(lambda: running.engine.consumer.held == 0)
    assert await stage.history(job_id) == ["SUBMITTED", "STARTED", "COMPLETED"]


async def test_a_long_job_is_handed_off_and_completes_once(
    stage: Stage, services: Services
) -> None:
    """Acked at the broker, so a lost channel brings nothing back."""
    if not services.has_rabbitmq:
        pytest.skip("what a broker that is not ours has unacked cannot be asked")
    gate = Gate()
    async with (
        proxied(stage.amqp_url) as (rabbit, url),
        stage.engine(gate.jobs, HEADWAY_AMQP_URL=url, HEADWAY_HANDOFF_SECONDS="1") as running,
    ):
        job_id = await stage.submit("hold")
        await stage.wait(job_id, JobState.RUNNING)
        consumer = running.engine.consumer
        await eventually(lambda: consumer.held == 0)
        await eventually(lambda: nothing_unacked(stage, services))
        rabbit.cut()
        await eventually(lambda: not consumer.consuming.is_set())
        rabbit.heal()
        await eventually(consumer.consuming.is_set)
        assert await stage.message_count() == 0
        gate.open.set()
        assert await stage.result(job_id) == {"runs": 1}
    assert await stage.history(job_id) == ["SUBMITTED", "STARTED", "COMPLETED"]


async def nothing_unacked(stage: Stage, services: Services) -> bool:
    """An ack has no answer, so the broker is asked what it waits for."""
    vhost = urlsplit(stage.amqp_url).path.lstrip("/")
    ask = ("list_queues", "-p", vhost, "messages_unacknowledged", "--no-table-headers")
    counts = (await asyncio.to_thread(services.rabbitmqctl, *ask)).split()
    return bool(counts) and set(counts) == {"0"}


async def test_a_handed_off_job_that_dies_still_reaches_the_dead_queue(stage: Stage) -> None:
    jobs = Jobs()
    go_on = asyncio.Event()

    @jobs.handler("poison", max_attempts=1)
    async def poison(ctx: Context, payload: Payload) -> None:
        await go_on.wait()
        raise ValueError("no")

    async with stage.engine(jobs, HEADWAY_HANDOFF_SECONDS="0.5") as running:
        job_id = await stage.submit("poison")
        await stage.wait(job_id, JobState.RUNNING)
        await eventually(lambda: running.engine.consumer.held == 0)
        go_on.set()
        assert (await stage.wait(job_id)).state is JobState.DEAD
        message = await eventually(lambda: dead_message(stage))
    assert str(job_id).encode() in message.body


async def dead_message(stage: Stage) -> Any:
    return await stage.message_count(dead=True) and await stage.take_message(dead=True)


async def test_the_slot_of_a_handed_off_job_stays_taken(stage: Stage) -> None:
    gate = Gate()
    async with stage.engine(gate.jobs, slots=1, HEADWAY_HANDOFF_SECONDS="0.2") as running:
        first = await stage.submit("hold")
        await stage.wait(first, JobState.RUNNING)
        second = await stage.submit("hold")
        await eventually(lambda: running.engine.consumer.held == 0)
        await stage.wait(second, JobState.QUEUED)
        await asyncio.sleep(0.3)
        assert len(gate.begun) == 1
        gate.open.set()
        await stage.wait(second, JobState.COMPLETED)


async def test_a_worker_whose_lease_lapsed_leaves_its_deliveries_to_others(
    stage: Stage,
) -> None:
    mine, others = Gate(), Gate()
    others.open.set()
    async with stage.engine(mine.jobs, lease=timedelta(seconds=1), beats=0.2) as running:
        running.keep = False
        await eventually(lambda: not running.engine._lease.live)
        job_id = await stage.submit("hold")
        async with stage.engine(others.jobs):
            assert await stage.result(job_id) == {"runs": 1}
        assert mine.begun == []
        # It consumes again after a confirmed heartbeat.
        running.keep = True
        mine.open.set()
        assert await stage.result(await stage.submit("hold")) == {"runs": 1}


async def test_a_claim_refused_by_the_database_for_its_lease_acks_nothing(stage: Stage) -> None:
    """Its own clock still calls the lease live; the database has the last word."""
    mine, others = Gate(), Gate()
    others.open.set()
    async with stage.engine(mine.jobs) as running:
        running.keep = False
        await leases.end(
            stage.database, running.worker_id, how=LeaseEnd.STOPPED, message="for the test"
        )
        job_id = await stage.submit("hold")
        async with stage.engine(others.jobs):
            assert await stage.result(job_id) == {"runs": 1}
        assert mine.begun == []


async def test_a_run_in_our_name_that_we_do_not_hold_is_interrupted(stage: Stage) -> None:
    """A claim whose reply was lost, and whose delivery went with its channel."""
    gate = Gate()
    async with stage.engine(gate.jobs, beats=0.2) as running:
        running.engine.consumer.quiet("drain")
        await running.engine.consumer.wait_quiet()
        job_id = await stage.submit("hold")
        await claims.claim(
            stage.database,
            [ClaimRequest(job_id, UUID(int=1), 1)],
            worker_id=running.worker_id,
            types=["hold"],
        )
        await eventually(lambda: was(stage, job_id, "INTERRUPTED"))
        running.engine.consumer.resume("drain")
        gate.open.set()
        assert await stage.result(job_id) == {"runs": 1}
    assert (await stage.job(job_id)).attempt == 1


async def was(stage: Stage, job_id: UUID, event: str) -> bool:
    return event in await stage.history(job_id)


async def test_a_run_that_another_has_judged_is_stopped_at_the_next_heartbeat(
    stage: Stage,
) -> None:
    gate = Gate()
    stopped = asyncio.Event()

    @gate.jobs.handler("wait")
    async def wait(ctx: Context, payload: Payload) -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            stopped.set()

    async with stage.engine(gate.jobs, beats=0.2) as running:
        job_id = await stage.submit("wait")
        claimed = await stage.wait(job_id, JobState.RUNNING)
        await runs.interrupt_unheld(
            stage.database, running.worker_id, [(job_id, claimed.run_epoch)]
        )
        async with asyncio.timeout(PATIENCE):
            await stopped.wait()


async def test_two_copies_of_a_message_make_one_run(stage: Stage) -> None:
    gate = Gate()
    async with stage.engine(gate.jobs):
        job_id = await stage.submit("hold")
        await stage.wait(job_id, JobState.RUNNING)
        for _ in range(3):
            await stage.publish(b'{"job_id":"%s","dispatch_no":1}' % str(job_id).encode())
        await eventually(lambda: ready(stage, 0))
        gate.open.set()
        assert await stage.result(job_id) == {"runs": 1}


async def test_a_message_for_a_job_that_is_not_there_is_acked(stage: Stage) -> None:
    gate = Gate()
    gate.open.set()
    async with stage.engine(gate.jobs):
        await stage.publish(b'{"job_id":"%s","dispatch_no":1}' % str(UUID(int=5)).encode())
        assert await stage.result(await stage.submit("hold")) == {"runs": 1}
        await eventually(lambda: ready(stage, 0))
    assert await stage.message_count(dead=True) == 0


async def test_a_malformed_message_ends_in_the_dead_queue(stage: Stage) -> None:
    gate = Gate()
    gate.open.set()
    async with stage.engine(gate.jobs, slots=1):
        await stage.publish(b"\xff not ours")
        assert await stage.result(await stage.submit("hold")) == {"runs": 1}
        await eventually(lambda: has_dead(stage))


async def has_dead(stage: Stage) -> bool:
    return await stage.message_count(dead=True) == 1


async def test_a_redelivered_copy_of_a_dead_job_is_dead_lettered_too(stage: Stage) -> None:
    """The notice in the dead queue survives a channel lost between commit and reject."""
    jobs = Jobs()

    @jobs.handler("poison", max_attempts=1)
    async def poison(ctx: Context, payload: Payload) -> None:
        raise ValueError("no")

    async with stage.engine(jobs):
        job_id = await stage.submit("poison")
        assert (await stage.wait(job_id)).state is JobState.DEAD
        await eventually(lambda: has_dead(stage))
        await stage.publish(b'{"job_id":"%s","dispatch_no":1}' % str(job_id).encode())
        await eventually(lambda: dead_letters(stage, 2))


async def dead_letters(stage: Stage, count: int) -> bool:
    return await stage.message_count(dead=True) == count


async def test_drained_jobs_finish_or_are_interrupted_and_cost_nothing(stage: Stage) -> None:
    jobs = Jobs()
    cleaned = threading.Event()

    @jobs.handler("short")
    async def short(ctx: Context, payload: Payload) -> Payload:
        await asyncio.sleep(0.3)
        return {"finished": True}

    @jobs.handler("long")
    async def long(ctx: Context, payload: Payload) -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            cleaned.set()

    async with stage.engine(jobs) as running:
        running.drain_seconds = 1
        first, second = await stage.submit("short"), await stage.submit("long")
        await stage.wait(first, JobState.RUNNING)
        await stage.wait(second, JobState.RUNNING)
    assert await stage.result(first) == {"finished": True}
    assert cleaned.is_set()
    job = await stage.job(second)
    assert job.state in (JobState.PENDING, JobState.QUEUED)
    assert (await stage.history(second))[-1] == "INTERRUPTED"


@pytest.mark.parametrize("away", [0.2, 2.5])
async def test_a_claim_whose_reply_is_lost_runs_once(stage: Stage, away: float) -> None:
    """Postgres goes away around the claim; whether it committed is unknown, and asked again."""
    gate = Gate()
    gate.open.set()
    async with proxied(stage.database_url) as (proxy, url):
        stage.database_url = url
        async with stage.engine(gate.jobs):
            proxy.freeze()
            job_id = await stage.submit("hold")
            await stage.wait(job_id, JobState.QUEUED, JobState.RUNNING)
            await asyncio.sleep(away)
            proxy.cut()
            await asyncio.sleep(0.1)
            proxy.heal()
            assert await stage.result(job_id) == {"runs": 1}
