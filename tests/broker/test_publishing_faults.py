"""A broker that dies, freezes or is out of memory costs time, and no confirmed message."""

import asyncio
from uuid import UUID

import pytest
from pydantic import SecretStr

from headway_core import publishing
from headway_core.broker import connected, open_channel
from headway_core.job import Dispatch
from headway_core.messages import Delivered, decode
from headway_core.publishing import Publisher
from headway_core.topology import job_queue
from headway_dev.services import Services
from tests.broker.conftest import PATIENCE_SECONDS, dispatch, running, until
from tests.broker.test_publishing import publisher

pytestmark = [pytest.mark.faults, pytest.mark.slow]


async def publish_until_confirmed(publishes: Publisher, dispatches: list[Dispatch]) -> None:
    """What a relay does, without its database."""
    left = dispatches
    while left:
        await publishes.wait_ready()
        outcomes = await publishes.publish(left[:500])
        confirmed = {one.job_id for one, ok in zip(left, outcomes, strict=False) if ok}
        left = [one for one in left if one.job_id not in confirmed]


async def waiting_jobs(url: SecretStr, queue: str) -> set[UUID]:
    found = set()
    async with connected(url, name="test") as connection:
        channel, _ = await open_channel(connection)
        waiting = await channel.declare_queue(job_queue(queue), passive=True)
        count = waiting.declaration_result.message_count
        assert count
        async with waiting.iterator(no_ack=True) as messages:
            async for message in messages:
                outcome = decode(message)
                assert isinstance(outcome, Delivered)
                found.add(outcome.job_id)
                count -= 1
                if not count:
                    return found
    raise AssertionError("the consumer was cancelled")


async def test_every_message_arrives_though_the_broker_is_killed_on_the_way(
    fault_services: Services,
) -> None:
    url = SecretStr(fault_services.amqp_url)
    dispatches = [dispatch("mail") for _ in range(5_000)]
    publishes = publisher(url)
    async with running(publishes.run()):
        await publish_until_confirmed(publishes, [dispatch("mail")])  # declares the queue
        await asyncio.to_thread(fault_services.rabbitmq.sync_definitions)
        work = asyncio.create_task(publish_until_confirmed(publishes, dispatches))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(fault_services.rabbitmq.kill)
        assert await publishes.publish([dispatch("mail")]) == [False]
        await asyncio.to_thread(fault_services.rabbitmq.start)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await publishes.wait_ready()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await work
    assert await waiting_jobs(url, "mail") >= {one.job_id for one in dispatches}


async def test_an_alarm_for_memory_pauses_and_piles_up_nothing(
    fault_services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker stops reading, keeps the connection, and confirms all of it once there is room."""
    url = SecretStr(fault_services.amqp_url)
    publishes = publisher(url)
    async with running(publishes.run()):
        await publishes.wait_ready()
        assert await publishes.publish([dispatch("mail")]) == [True]
        monkeypatch.setattr(publishing, "PUBLISH_SECONDS_MAX", 1.0)
        await asyncio.to_thread(
            fault_services.rabbitmqctl, "set_vm_memory_high_watermark", "absolute", "1"
        )
        try:
            # The alarm reaches the connection at its first publish.
            ours = [dispatch("mail") for _ in range(300)]
            work = asyncio.create_task(publish_until_confirmed(publishes, ours))
            await until(lambda: not publishes.ready)
            assert not work.done()
            monkeypatch.setattr(publishing, "PUBLISH_SECONDS_MAX", 100.0)
            async with asyncio.timeout(PATIENCE_SECONDS):  # nothing is waited for
                assert await publishes.publish([dispatch("mail")]) == [False]
        finally:
            await asyncio.to_thread(
                fault_services.rabbitmqctl, "set_vm_memory_high_watermark", "0.4"
            )
        async with asyncio.timeout(PATIENCE_SECONDS):
            await work
        count = await publishes.ready_count("mail")
        assert count is not None
        assert 301 <= count <= 301 + 256


async def test_a_frozen_broker_is_survived(fault_services: Services) -> None:
    url = SecretStr(fault_services.amqp_url)
    publishes = publisher(url)
    async with running(publishes.run()):
        await publishes.wait_ready()
        assert await publishes.publish([dispatch("mail")]) == [True]
        await asyncio.to_thread(fault_services.rabbitmq.pause)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await publishes.publish([dispatch("mail")]) == [False]
        finally:
            await asyncio.to_thread(fault_services.rabbitmq.resume)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await publish_until_confirmed(publishes, [dispatch("mail")])
