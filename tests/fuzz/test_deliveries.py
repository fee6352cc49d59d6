"""P12 for the work queues: what strangers put there ends in the dead queue, and stops nobody.

Properties are sent as bytes, because a client library sends only what it can read itself.
"""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random

import pytest

from headway_core.topology import job_queue
from tests.fuzz.effort import ASKED, thrown
from tests.fuzz.raw_amqp import RawPublisher, Refused, long, short
from tests.worker.stage import Stage, WorkerProcess, eventually, stage

SEED = 20_26
VOLLEYS, VOLLEY = (max(ASKED // 100, 1), 100) if ASKED else (3, 60)
GOOD_WITHIN_SECONDS = 30.0
HEADERS, CONTENT_TYPE, TIMESTAMP, EXPIRATION = 1 << 13, 1 << 15, 1 << 6, 1 << 8
PRIORITY = 1 << 11
JOB_ID = "01919191-0000-7000-8000-000000000000"
SOUND = {"job_id": JOB_ID, "dispatch_no": 1}


def header_values(random: Random) -> bytes:
    """One value of a headers table, of any type of AMQP 0-9-1 and of RabbitMQ's own."""
    kinds: list[Callable[[], bytes]] = [
        lambda: b"t" + random.randbytes(1),
        lambda: b"b" + random.randbytes(1),
        lambda: b"s" + random.randbytes(2),
        lambda: b"I" + random.randbytes(4),
        lambda: b"l" + random.randbytes(8),
        lambda: b"f" + random.randbytes(4),
        lambda: b"d" + random.randbytes(8),
        lambda: b"D" + random.randbytes(5),
        lambda: b"T" + random.randbytes(8),
        lambda: b"S" + long(random.randbytes(random.randrange(40))),
        lambda: b"x" + long(random.randbytes(random.randrange(40))),
        lambda: b"V",
        lambda: b"A" + long(b"I" + random.randbytes(4)),
        lambda: b"F" + long(table_entry(random)),
        lambda: nested(random.choice((2, 50, 400, 3_000))),
    ]
    return random.choice(kinds)()


def table_entry(random: Random) -> bytes:
    keys = (b"traceparent", b"tracestate", b"x-death", b"", b"\xff\xfe", b"k" * 128, b"CC", b"BCC")
    key = random.choice(keys)
    if key in {b"CC", b"BCC"}:  # these name further queues, and must be arrays of text
        return short(key) + b"A" + long(b"S" + long(b"nowhere"))
    return short(key) + header_values(random)


def nested(depth: int) -> bytes:
    found = b"V"
    for _ in range(depth):
        found = b"F" + long(short(b"k") + found)
    return found


def properties(random: Random) -> bytes:
    """Flags and values, sound or hostile, as the broker may let them pass."""
    pairs = [
        (0, b""),
        (CONTENT_TYPE, short(random.randbytes(random.randrange(30)))),
        (HEADERS, long(b"".join(table_entry(random) for _ in range(random.randrange(4))))),
        (PRIORITY, random.randbytes(1)),
        (EXPIRATION, short(random.choice((b"0", b"600000", b"x", b"-1")))),
        (TIMESTAMP, random.choice((b"\xff" * 8, b"\x7f" + b"\xff" * 7, random.randbytes(8)))),
    ]
    flags, values = random.choice(pairs)
    return struct.pack("!H", flags) + values


def body(random: Random) -> bytes:
    """Bodies that no relay of ours has written."""
    choice = random.randrange(10)
    if choice < 3:
        return random.randbytes(random.choice((0, 1, 20, 256, 257, 5_000, 300_000)))
    if choice < 6:
        wrong: list[object] = [
            None,
            True,
            -1,
            0,
            2**31,
            1.5,
            "1",
            "",
            [],
            {},
            JOB_ID[:-1],
            JOB_ID.upper().replace("1", "A"),
            "{" + JOB_ID + "}",
            "\0",
            "é" * 60,
        ]
        field = random.choice(list(SOUND))
        return json.dumps(SOUND | {field: random.choice(wrong)}).encode()
    if choice < 8:
        text = json.dumps(SOUND).encode()
        return text[: random.randrange(len(text))] + random.randbytes(random.randrange(4))
    return random.choice(
        (
            b"[" * 250,
            b'{"a":' * 50,
            b"null",
            b"NaN",
            b"[]",
            b"{}",
            b"\xff\xfe\0\0",
            json.dumps([SOUND]).encode(),
            json.dumps(SOUND | {"more": 1}).encode(),
            b'{"job_id":"%s","job_id":1}' % JOB_ID.encode(),
        )
    )


class Volleys:
    """Throws, and remembers what the broker took."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._random = Random() if ASKED else Random(SEED)
        self.taken = 0

    def throw(self, count: int) -> None:
        """Throw so many messages at the default queue; some the broker itself refuses."""
        left = count
        while left:
            with RawPublisher(self._url) as publisher, suppress(Refused):
                while left:
                    left -= 1
                    thrown["messages, refused by the broker"] += 1
                    publisher.publish(
                        body(self._random),
                        routing_key=job_queue("default").encode(),
                        properties=properties(self._random),
                    )
                    thrown["messages, refused by the broker"] -= 1
                    thrown["messages, work queue"] += 1
                    self.taken += 1


@asynccontextmanager
async def a_worker(database_url: str, amqp_url: str) -> AsyncIterator[tuple[Stage, WorkerProcess]]:
    async with (
        stage(database_url, amqp_url) as found,
        found.worker("tests.worker.handlers:jobs", "--concurrency", "3") as worker,
    ):
        await worker.ready()
        yield found, worker


@pytest.mark.timeout(0 if ASKED else 120)
async def test_messages_of_strangers_end_in_the_dead_queue_and_a_good_job_runs_after_each_volley(
    database_url: str, amqp_url: str
) -> None:
    """The good one waits behind the volley: a message that wedges the worker stops it, too."""
    async with a_worker(database_url, amqp_url) as (found, worker):
        executors = {child.pid for child in worker.children()}
        volleys = Volleys(amqp_url)
        for number in range(VOLLEYS):
            await asyncio.to_thread(volleys.throw, VOLLEY)
            job = await found.submit("echo", {"number": number})
            await found.wait(job, within=GOOD_WITHIN_SECONDS)
            assert (await found.result(job))["number"] == number
        # What expired at the broker went to the same place. It may have taken a message, and then
        # closed the connection without a confirm.
        await eventually(lambda: _count_is_at_least(found, volleys.taken))
        assert await found.message_count() == 0
        assert await found.message_count(dead=True) <= VOLLEYS * VOLLEY
        assert {child.pid for child in worker.children()} == executors, "an executor has died"
        letter = await found.take_message(dead=True)
        assert letter.headers["x-death"][0]["reason"] in {"rejected", "expired"}


async def _count_is_at_least(found: Stage, count: int) -> bool:
    return await found.message_count(dead=True) >= count


async def _count_is(found: Stage, count: int) -> bool:
    return await found.message_count(dead=True) == count


UNREADABLE = {
    "text that is not UTF-8": struct.pack("!H", CONTENT_TYPE) + short(b"\xff\xfe"),
    "a time beyond the calendar": struct.pack("!H", TIMESTAMP) + b"\x7f" + b"\xff" * 7,
    "a header's time beyond the calendar": struct.pack("!H", HEADERS)
    + long(short(b"t") + b"T" + b"\x7f" + b"\xff" * 7),
    "a header's name that is not UTF-8": struct.pack("!H", HEADERS) + long(short(b"\xff") + b"V"),
    "tables three thousand levels deep": struct.pack("!H", HEADERS)
    + long(short(b"k") + nested(3_000)),
}


async def test_properties_that_the_client_library_cannot_read_cost_no_connection(
    database_url: str, amqp_url: str
) -> None:
    """Pamqp raises and aiormq gives up the connection: the broker would deliver it for ever."""
    async with a_worker(database_url, amqp_url) as (found, _):
        for count, (name, hostile) in enumerate(UNREADABLE.items(), 1):
            with RawPublisher(amqp_url) as publisher:
                await asyncio.to_thread(
                    publisher.publish,
                    b"junk",
                    routing_key=job_queue("default").encode(),
                    properties=hostile,
                )
            await eventually(lambda count=count: _count_is(found, count))
            job = await found.submit("echo", {"after": name})
            await found.wait(job, within=GOOD_WITHIN_SECONDS)
