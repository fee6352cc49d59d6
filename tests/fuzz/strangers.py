"""Messages of strangers: bodies, headers and properties that no relay of ours writes."""

import json
import struct
from collections.abc import Callable, Sequence
from random import Random

from headway_core.lenient_frames import UNREADABLE
from headway_core.topology import job_queue
from tests.fuzz.raw_amqp import long, short

JOB_ID = "01919191-0000-7000-8000-000000000000"
SOUND = {"job_id": JOB_ID, "dispatch_no": 1}
DISPATCH_NUMBERS = (0, 1, 2, 3, 2**31 - 1, 2**31, -1)


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
    keys = (
        b"traceparent",
        b"tracestate",
        UNREADABLE.encode(),
        b"x-death",
        b"",
        b"\xff\xfe",
        b"k" * 128,
        b"CC",
        b"BCC",
    )
    key = random.choice(keys)
    if key in {b"CC", b"BCC"}:  # these name further queues, and must be arrays of text
        return short(key) + b"A" + long(b"S" + long(b"nowhere"))
    value = header_values(random)
    while key == b"x-death" and value.startswith(b"A"):  # see DEADLY
        value = header_values(random)
    return short(key) + value


def _text(value: bytes) -> bytes:
    return b"S" + long(value)


def _table(entries: dict[bytes, bytes]) -> bytes:
    return b"F" + long(b"".join(short(key) + value for key, value in entries.items()))


def deaths(*values: bytes) -> bytes:
    """A headers table with a list of deaths."""
    return long(short(b"x-death") + b"A" + long(b"".join(values)))


_REJECTED = {b"queue": _text(job_queue("default").encode()), b"reason": _text(b"rejected")}
SOUND_DEATHS = {
    "no death": deaths(),
    "a death that says nothing": deaths(_table({})),
    "a rejection without a count": deaths(_table(_REJECTED)),
    "a rejection": deaths(_table(_REJECTED | {b"count": b"l" + bytes(8)})),
}
"""Lists of deaths to which RabbitMQ can add one."""
DEADLY = {
    "a number": deaths(b"I" + bytes(4)),
    "a text": deaths(_text(b"rejected")),
    "a list": deaths(b"A" + long(_table(_REJECTED))),
    "one of them sound": deaths(_table(_REJECTED), b"V"),
    "a count that is true": deaths(_table(_REJECTED | {b"count": b"t\x01"})),
    "two lists of them": long(
        deaths(b"I" + bytes(4))[4:] + deaths(_table(_REJECTED))[4:],
    ),
    "a count in words": deaths(_table(_REJECTED | {b"count": _text(b"one")})),
    "a time beyond the calendar": deaths(b"T\x7f" + b"\xff" * 7),
}
"""Lists of deaths at which the process of RabbitMQ's queue ends if it is to add one, and, once it
has started anew with the message still in it, ends again.
"""


def nested(depth: int) -> bytes:
    found = b"V"
    for _ in range(depth):
        found = b"F" + long(short(b"k") + found)
    return found


def properties(random: Random) -> bytes:
    """Flags and values of some of the 14, sound or hostile, as the broker may let them pass."""
    flags, values = 0, b""
    for bit, (chance, value) in PROPERTIES.items():
        if random.random() < chance:
            flags |= 1 << bit
            values += value(random)
    if random.random() < CONTINUED:
        return struct.pack("!HH", flags | 1, random.choice((0, 1, 0xFFFF))) + values
    return struct.pack("!H", flags) + values


def _short_text(random: Random) -> bytes:
    return short(random.choice((b"", b"\xff\xfe", b"text", b"\0", random.randbytes(255))))


CONTINUED = 0.02
PROPERTIES: dict[int, tuple[float, Callable[[Random], bytes]]] = {
    15: (0.3, _short_text),  # content type
    14: (0.2, _short_text),  # content encoding
    13: (0.4, lambda random: long(b"".join(table_entry(random) for _ in range(3)))),
    12: (0.3, lambda random: random.randbytes(1)),  # delivery mode
    11: (0.3, lambda random: random.randbytes(1)),  # priority
    10: (0.2, _short_text),  # correlation ID
    9: (0.1, _short_text),  # reply to
    8: (0.1, lambda random: short(random.choice((b"0", b"600000", b"x", b"-1")))),
    7: (0.2, _short_text),  # message ID
    6: (0.3, lambda random: random.choice((b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 8))),
    5: (0.2, _short_text),  # type
    4: (0.03, _short_text),  # user ID: the broker refuses any but the publisher's own
    3: (0.2, _short_text),  # app ID
    2: (0.1, _short_text),  # cluster ID
}
"""By bit: how often it is there, and its value."""


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


def forged(random: Random, job_ids: Sequence[str]) -> bytes:
    """A body that names a job there is, and a dispatch that is past, current, or never was."""
    dispatch_no = random.choice(DISPATCH_NUMBERS)
    return json.dumps({"job_id": random.choice(job_ids), "dispatch_no": dispatch_no}).encode()
