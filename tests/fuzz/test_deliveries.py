"""P12 for the work queues: what strangers put there ends in the dead queue, and stops nobody.

Properties are sent as bytes, because a client library sends only what it can read itself.
"""

import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import pytest

from headway import JobState
from headway_core.topology import dead_queue, job_queue
from tests.fuzz.effort import ASKED, thrown
from tests.fuzz.forgeries import NOBODYS, rows_of, starts_of, still_jobs
from tests.fuzz.live import Live
from tests.fuzz.raw_amqp import RawPublisher, Refused, long, short
from tests.fuzz.strangers import DEADLY, SOUND_DEATHS, body, forged, nested, properties

SEED = 20_26
VOLLEYS, VOLLEY = (max(ASKED // 100, 1), 100) if ASKED else (2, 80)
COPIES = 10
HEADERS, CONTENT_TYPE, TIMESTAMP, DELIVERY_MODE = 1 << 13, 1 << 15, 1 << 6, 1 << 12
WORK, DEAD = job_queue("default"), dead_queue("default")

pytestmark = pytest.mark.timeout(0 if ASKED else 120)


@pytest.fixture(autouse=True)
def _lives_on(live: Live) -> Iterator[None]:
    live.skip_logs()
    yield
    live.check_logs("message_malformed")


def random() -> Random:
    return Random() if ASKED else Random(SEED)


def volley(url: str, messages: list[tuple[bytes, bytes]]) -> int:
    """Throw bodies with properties at the work queue; return how many the broker took for sure."""
    taken, left = 0, iter(messages)
    while True:
        with RawPublisher(url) as publisher, suppress(Refused):
            for text, hostile in left:
                thrown["messages, refused by the broker"] += 1
                publisher.publish(text, routing_key=WORK.encode(), properties=hostile)
                thrown["messages, refused by the broker"] -= 1
                thrown["messages, work queue"] += 1
                taken += 1
            return taken


def test_messages_of_strangers_end_in_the_dead_queue_and_a_good_job_runs_after_each_volley(
    live: Live,
) -> None:
    """The good one waits behind the volley: a message that wedges the worker stops it, too."""
    with RawPublisher(live.amqp_url) as onlooker:
        before, taken, chance = onlooker.count(DEAD), 0, random()
        for _ in range(VOLLEYS):
            messages = [(body(chance), properties(chance)) for _ in range(VOLLEY)]
            taken += volley(live.amqp_url, messages)
            live.run_good_job()
        assert taken > VOLLEYS * VOLLEY / 2, "the broker itself refuses nearly all"
        # What expired at the broker went to the same place. It may have taken a message, and then
        # closed the connection without a confirm.
        live.until(lambda: onlooker.count(DEAD) - before >= taken)
        assert onlooker.count(WORK) == 0
        assert onlooker.count(DEAD) - before <= VOLLEYS * VOLLEY


def test_forged_messages_move_no_job_and_run_a_waiting_one_once(live: Live) -> None:
    """Whatever they say of the dispatch: the row alone decides."""
    still = still_jobs(live)
    live.skip_logs()  # two of their handlers raise
    waiting = [live.client.submit("echo", {}, queue=NOBODYS).id for _ in range(3)]
    live.until(lambda: all(live.client.get(id_).state is JobState.QUEUED for id_ in waiting))
    rows, chance = rows_of(live, still.values()), random()
    ids = [*still.values(), *waiting]
    for _ in range(VOLLEYS):
        messages = [
            (forged(chance, ids), chance.choice((b"\0\0", properties(chance))))
            for _ in range(VOLLEY)
        ]
        messages += [
            (json.dumps({"job_id": id_, "dispatch_no": number}).encode(), b"\0\0")
            for id_ in waiting
            for number in range(1, COPIES)
        ]
        chance.shuffle(messages)
        volley(live.amqp_url, messages)
    with RawPublisher(live.amqp_url) as onlooker:
        live.until(lambda: onlooker.count(WORK) == 0)
    for id_ in waiting:
        assert live.wait(live.client.get(id_)).state is JobState.COMPLETED
        assert starts_of(live, id_) == 1
    live.run_good_job()  # all that was delivered before it has been looked at
    assert rows_of(live, still.values()) == rows
    assert {live.client.get(id_).state: id_ for id_ in still.values()} == still


UNREADABLE = {
    "text that is not UTF-8": struct.pack("!H", CONTENT_TYPE) + short(b"\xff\xfe"),
    "a time beyond the calendar": struct.pack("!H", TIMESTAMP) + b"\x7f" + b"\xff" * 7,
    "a header's time beyond the calendar": struct.pack("!H", HEADERS)
    + long(short(b"t") + b"T" + b"\x7f" + b"\xff" * 7),
    "a header's name that is not UTF-8": struct.pack("!H", HEADERS) + long(short(b"\xff") + b"V"),
    "tables three thousand levels deep": struct.pack("!H", HEADERS)
    + long(short(b"k") + nested(3_000)),
    "our own word for what cannot be read": struct.pack("!H", HEADERS)
    + long(short(b"x-headway-unreadable") + b"S" + long(b"x" * 20_000)),
}


def with_headers(table: bytes) -> bytes:
    """The properties of a message that outlives the queue's process."""
    return struct.pack("!H", HEADERS | DELIVERY_MODE) + table + b"\2"


DIED_BEFORE = {name: with_headers(deaths) for name, deaths in SOUND_DEATHS.items()}


@pytest.mark.parametrize(
    "hostile", (UNREADABLE | DIED_BEFORE).values(), ids=UNREADABLE | DIED_BEFORE
)
def test_odd_properties_cost_no_connection_and_end_in_the_dead_queue(
    live: Live, hostile: bytes
) -> None:
    """Where pamqp raises, aiormq gives up the connection: the broker would deliver it for ever."""
    with RawPublisher(live.amqp_url) as publisher:
        before = publisher.count(DEAD)
        publisher.publish(b"junk", routing_key=WORK.encode(), properties=hostile)
        live.until(lambda: publisher.count(DEAD) == before + 1)
    live.run_good_job()


@pytest.mark.parametrize("deaths", DEADLY.values(), ids=DEADLY)
def test_messages_that_would_end_the_brokers_own_queue_are_dropped(
    live: Live, deaths: bytes
) -> None:
    """Rejected, each would take all consumers off the queue, again and again."""
    with RawPublisher(live.amqp_url) as publisher:
        before = publisher.count(DEAD)
        for _ in range(COPIES):
            publisher.publish(b"junk", routing_key=WORK.encode(), properties=with_headers(deaths))
        live.run_good_job()
        assert publisher.count(WORK) == 0
        assert publisher.count(DEAD) == before
