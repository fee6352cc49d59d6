"""The checker's verdict, when all faults are over."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aio_pika

from headway_core.database import Database
from headway_core.states import JobState
from headway_core.topology import job_queue
from tests.faults.history import check
from tests.soak.ledger import Ledger
from tests.soak.onlooker import UNFINISHED, Onlooker

REST_SECONDS_MAX: Final = 180.0
"""Until all is done: a lost message is swept up after half a minute, a backlog takes its time."""
LOOK_SECONDS: Final = 0.3
CRASHES_MAX: Final = 3
LOAD_HELD_MIN: Final = 0.1
"""Of the jobs that the callers would have submitted without a fault."""
BROKEN: Final = re.compile(r"Traceback|never retrieved|never awaited|rpc_failed|engine_broken")

# What jobs of a type may end as. 4 COMPLETED, 6 DEAD, 7 CANCELLED.
ENDS: Final = """
SELECT id, type, state, crashes
FROM jobs
WHERE NOT CASE
    WHEN type = 'soak.poison' THEN state = 6 AND crashes >= $1
    WHEN type = 'soak.hopeless' THEN state = 6
    WHEN type = 'soak.endless' THEN state IN (4, 7)
    ELSE state = 4
END
"""
HITS_MIN: Final = CRASHES_MAX - 1
"""Strikes that an innocent job has met before it may be DEAD; poison next to it may be the third,
after which a job runs alone."""
COMPLETED_BEFORE: Final = (
    "SELECT count(*) FROM jobs WHERE state = 4 AND end_time <= to_timestamp($1)"
)
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


async def judge(database_url: str, ledger: Ledger, *, load_ended: float) -> None:
    """Complain of whatever is wrong with any job, once the fleet has left.

    `load_ended`, Unix time: completions are counted up to it.
    """
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
            hits = ledger.hits[row["id"]]
            if row["state"] == JobState.DEAD and row["crashes"] >= CRASHES_MAX:
                ledger.counts["innocent jobs struck dead"] += 1
                if hits + ledger.blind_strikes >= HITS_MIN:
                    continue
            state = JobState(row["state"]).name
            ledger.complain(
                f"{row['id']}: {row['type']} is {state} in the end, struck {hits} times"
            )
        ledger.counts["completed under load"] = await database.fetchval(
            COMPLETED_BEFORE, load_ended
        )
        for row in await database.fetch(COUNTS):
            kind = f"{row['type']} {row['state']}"
            ledger.counts[f"jobs {kind}"] = row["count"]
            ledger.counts["jobs"] += row["count"]
            ledger.counts["runs"] += int(row["runs"])
            ledger.counts["run again"] += row["again"]
    finally:
        await database.close()


async def no_message_left(amqp_url: str, queues: Sequence[str], ledger: Ledger) -> None:
    """Complain of messages in the work queues: of what was in a hand unacked, too, by now."""
    async with await aio_pika.connect(amqp_url) as connection:
        for queue in queues:
            channel = await connection.channel()
            try:
                found = await channel.declare_queue(job_queue(queue), passive=True)
            except aio_pika.exceptions.ChannelNotFoundEntity:
                ledger.complain(f"there is no queue {queue}")
                continue
            if count := found.declaration_result.message_count:
                ledger.complain(f"{count} messages left in {queue}")


def enough_was_done(ledger: Ledger, *, wanted: float, strikes: int, survived: Counter[str]) -> None:
    """Complain if the load was hardly there, or a strike is not among those recovered from."""
    if ledger.accepted < LOAD_HELD_MIN * wanted:
        ledger.complain(f"{ledger.accepted} jobs were accepted, of about {wanted:.0f}")
    if survived.total() != strikes:
        ledger.complain(f"{strikes} strikes, and {survived.total()} recovered from")


def nothing_broken(logs: Path, ledger: Ledger) -> None:
    """Complain of what no fault may make a process say."""
    for path in sorted(logs.glob("*.log")):
        with path.open(errors="replace") as file:
            found = [line.strip() for line in file if BROKEN.search(line)]
        if found:
            ledger.complain(f"{path.name} says, {len(found)} times: {found[0][:300]}")
