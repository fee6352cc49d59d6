"""The barest path that could work: the same steps as Headway's, without events, leases or tracing.

    Submit -> one commit of job and outbox row -> reply
    relay -> confirmed publish -> one commit that deletes the outbox row
    worker: delivery -> one commit that claims -> one commit that completes -> ack

Whatever happens at the same time shares a commit and a write. A request is bytes: 200 for each job.
"""

import asyncio
import os
import sys
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiormq
import asyncpg
import grpc
import uvloop
from aiormq.abc import ChannelFrame, DeliveredMessage
from google.protobuf.wrappers_pb2 import BytesValue
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from bench import program
from bench.floors.serving import serve

SERVICE = "bench.Composite"
QUEUE = "bench.composite"
PAYLOAD_BYTES = 200
BATCH_MAX = 256
LINGER_SECONDS = 0.001
PERSISTENT = Basic.Properties(delivery_mode=2)

SCHEMA = """
CREATE TABLE jobs (
    id uuid PRIMARY KEY, payload bytea NOT NULL, state smallint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    start_time timestamptz, end_time timestamptz
);
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, job_id uuid NOT NULL
);
CREATE INDEX ON outbox (job_id);
"""
SUBMIT = """
WITH job AS (
    INSERT INTO jobs (id, payload) SELECT * FROM unnest($1::uuid[], $2::bytea[]) RETURNING id
) INSERT INTO outbox (job_id) SELECT id FROM job
"""
SENT = "DELETE FROM outbox WHERE job_id = ANY($1::uuid[])"
CLAIM = """
UPDATE jobs SET state = 3, start_time = clock_timestamp()
WHERE id = ANY($1::uuid[]) AND state = 1 RETURNING id, payload
"""
COMPLETE = """
UPDATE jobs SET state = 4, end_time = clock_timestamp()
WHERE id = ANY($1::uuid[]) AND state = 3 RETURNING id
"""

Flush = Callable[[list[Any]], Awaitable[object]]


class Group:
    """Items that come while a flush is under way share the next one."""

    def __init__(self, flush: Flush) -> None:
        self._flush = flush
        self._items: deque[tuple[object, asyncio.Future[None] | None]] = deque()
        self._filled = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_end_with)

    def add(self, item: object) -> None:
        """Leave an item to the next flush."""
        self._items.append((item, None))
        self._filled.set()

    async def done(self, item: object) -> None:
        """Wait for the flush of this item."""
        future = asyncio.get_running_loop().create_future()
        self._items.append((item, future))
        self._filled.set()
        await future

    def stop(self) -> None:
        """Flush no more."""
        self._task.cancel()

    async def _run(self) -> None:
        last = 0
        while True:
            await self._filled.wait()
            if last > 1:  # under load only: alone, waiting would gain nothing
                await asyncio.sleep(LINGER_SECONDS)
            batch = [self._items.popleft() for _ in range(min(BATCH_MAX, len(self._items)))]
            if not self._items:
                self._filled.clear()
            last = len(batch)
            await self._flush([item for item, _ in batch])
            for _, future in batch:
                if future is not None:
                    future.set_result(None)


def _end_with(task: asyncio.Task[None]) -> None:
    """A flush that fails ends the process: nobody would answer any more."""
    if not task.cancelled():
        sys.stderr.write(f"composite: {task.exception()!r}\n")
        os._exit(1)


async def publish(channel: Any, ids: Sequence[uuid.UUID]) -> None:
    """Publish messages in one write and wait for all confirms."""
    header = ContentHeader(properties=PERSISTENT, body_size=16)
    frames: list[Any] = []
    confirms = []
    async with channel.lock:
        for job_id in ids:
            channel.delivery_tag += 1
            confirms.append(channel.create_future())
            channel.confirmations[channel.delivery_tag] = confirms[-1]
            publish_frame = Basic.Publish(exchange="", routing_key=QUEUE)
            frames += [publish_frame, header, ContentBody(job_id.bytes)]
        marshalled = ChannelFrame.marshall(
            frames=frames, channel_number=channel.number, drain_future=None
        )
        await channel.write_queue.put(marshalled)
    await asyncio.gather(*confirms)


async def run_server(pool: "asyncpg.Pool[asyncpg.Record]", channel: Any) -> None:
    """Take jobs and relay them."""

    async def send(ids: list[uuid.UUID]) -> None:
        await publish(channel, ids)
        await pool.execute(SENT, ids)

    async def commit(requests: list[tuple[list[uuid.UUID], list[bytes]]]) -> None:
        ids = [job_id for some, _ in requests for job_id in some]
        await pool.execute(SUBMIT, ids, [payload for _, some in requests for payload in some])
        for job_id in ids:
            relay.add(job_id)

    relay = Group(send)
    submits = Group(commit)

    async def submit(request: BytesValue, _context: object) -> BytesValue:
        data = request.value
        starts = range(0, len(data), PAYLOAD_BYTES)
        ids = [uuid.uuid4() for _ in starts]
        await submits.done((ids, [data[start : start + PAYLOAD_BYTES] for start in starts]))
        return BytesValue(value=b"".join(job_id.bytes for job_id in ids))

    handler = grpc.unary_unary_rpc_method_handler(
        submit, BytesValue.FromString, BytesValue.SerializeToString
    )
    server, address = await serve(SERVICE, {"Submit": handler})
    program.say_ready(address=address)
    await program.until_told()
    await server.stop(None)
    submits.stop()
    relay.stop()


async def run_worker(pool: "asyncpg.Pool[asyncpg.Record]", channel: Any, *, slots: int) -> None:
    """Run jobs that do nothing, so many at a time."""
    await channel.basic_qos(prefetch_count=slots)
    claims = Group(lambda ids: pool.fetch(CLAIM, ids))
    completions = Group(lambda ids: pool.fetch(COMPLETE, ids))

    async def run(message: DeliveredMessage) -> None:
        job_id = uuid.UUID(bytes=message.body)
        await claims.done(job_id)
        await completions.done(job_id)
        assert isinstance(message.delivery, Basic.Deliver)
        await channel.basic_ack(message.delivery.delivery_tag, wait=False)

    await channel.basic_consume(QUEUE, run)
    program.say_ready()
    await program.until_told()
    claims.stop()
    completions.stop()


async def main() -> None:
    """Be a server or a worker until the parent ends."""
    asked = program.options()
    pool = await asyncpg.create_pool(asked["database_url"], min_size=4, max_size=4)
    connection = await aiormq.connect(asked["amqp_url"])
    channel = await connection.channel()
    await channel.queue_declare(QUEUE, durable=True, arguments={"x-max-priority": 9})
    if asked["role"] == "server":
        await pool.execute(SCHEMA)
        await run_server(pool, channel)
    else:
        await run_worker(pool, channel, slots=asked["slots"])
    await connection.close()
    await pool.close()


if __name__ == "__main__":
    uvloop.run(main())
