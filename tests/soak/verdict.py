"""The checker's verdict, when all faults are over."""

import asyncio
import time
from contextlib import suppress
from typing import Final

import aio_pika

from headway_core.database import Database
from headway_core.topology import job_queue
from tests.faults.history import check
from tests.soak.handlers import ROUGH
from tests.soak.ledger import Ledger
from tests.soak.onlooker import UNFINISHED, Onlooker

REST_SECONDS_MAX: Final = 180.0
"""Until all is done: a lost message is swept up after half a minute, a backlog takes its time."""
LOOK_SECONDS: Final = 0.3
CRASHES_MAX: Final = 3

# What jobs of a type may end as. 4 COMPLETED, 6 DEAD, 7 CANCELLED.
ENDS: Final = """
SELECT type, state, count(*) AS count, min(id::text) AS one
FROM jobs
WHERE NOT CASE
    WHEN type = 'soak.poison' THEN state = 6 AND crashes >= $1
    WHEN type = 'soak.hopeless' THEN state = 6
    WHEN type = 'soak.endless' THEN state IN (4, 7) OR (state = 6 AND crashes >= $1)
    ELSE state = 4 OR (state = 6 AND crashes >= $1)
END
GROUP BY type, state
"""
COUNTS: Final = """
SELECT type, state, count(*), sum(run_epoch) AS runs, count(*) FILTER (WHERE run_epoch > 1) AS again
FROM jobs GROUP BY type, state ORDER BY type, state
"""


async def rest(database_url: str, ledger: Ledger) -> float:
    """Wait until every job is done and the outbox is empty; returns how long that took."""
    onlooker = Onlooker(database_url)
    begun = time.monotonic()
    try:
        while True:
            left = await onlooker.number(UNFINISHED)
            rows = await onlooker.number("SELECT count(*) FROM outbox")
            took = time.monotonic() - begun
            if left == 0 and rows == 0:
                return took
            if took > REST_SECONDS_MAX:
                ledger.complain(
                    f"{left} jobs are not done, {rows} outbox rows left, {took:.0f} s after all"
                )
                return took
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        onlooker.close()


async def judge(database_url: str, ledger: Ledger) -> None:
    """Complain of whatever is wrong with any job, once the fleet has left."""
    database = await Database.connect(database_url, name="judge", size=2, timeout_seconds=60)
    try:
        for violation in await check(database, at_rest=True):
            ledger.complain(violation)
        for page in ledger.pages():
            lost = await database.fetch(
                "SELECT id FROM unnest($1::uuid[]) AS accepted (id) "
                "WHERE NOT EXISTS (SELECT FROM jobs WHERE jobs.id = accepted.id)",
                page,
            )
            for row in lost:
                ledger.complain(f"{row['id']}: accepted, and lost")
        for row in await database.fetch(ENDS, CRASHES_MAX):
            ledger.complain(
                f"{row['count']} of {row['type']} ended in state {row['state']}: {row['one']}"
            )
        for row in await database.fetch(COUNTS):
            kind = f"{row['type']} {row['state']}"
            ledger.counts[f"jobs {kind}"] = row["count"]
            ledger.counts["jobs"] += row["count"]
            ledger.counts["runs"] += int(row["runs"])
            ledger.counts["run again"] += row["again"]
    finally:
        await database.close()


async def no_message_left(amqp_url: str, ledger: Ledger) -> None:
    """Complain of messages in the work queues: of what was in a hand unacked, too, by now."""
    async with await aio_pika.connect(amqp_url) as connection:
        for queue in ("default", ROUGH):
            channel = await connection.channel()
            with suppress(aio_pika.exceptions.ChannelNotFoundEntity):
                found = await channel.declare_queue(job_queue(queue), passive=True)
                if count := found.declaration_result.message_count:
                    ledger.complain(f"{count} messages left in {queue}")
