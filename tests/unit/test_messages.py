"""A message says which job and which dispatch; whatever else is no message of ours."""

import struct
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import orjson
import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from headway_core import lenient_frames, messages, trace_context
from headway_core.messages import (
    BODY_BYTES_MAX,
    DISPATCH_NO_MAX,
    Delivered,
    Malformed,
    decode,
    decode_written,
)
from tests.broker.conftest import dispatch

JOB = "0199f0a1-7c1e-7000-8000-000000000001"
CONTEXT = trace_context.TraceContext(
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=b"
)

SENT = dispatch()
MESSAGE_ID = b"\x12" + b"0123456789abcdef-1"


def read(properties: bytes) -> Basic.Properties:
    """As pamqp reads what stands before the message ID."""
    header = ContentHeader()
    header.unmarshal(struct.pack("!HHQ", 60, 0, 4) + properties + MESSAGE_ID)
    assert header.properties.message_id == MESSAGE_ID[1:].decode()
    return header.properties


@dataclass
class Received:
    body: bytes
    headers: dict[str, object] = field(default_factory=dict)


@given(job_id=st.uuids(), dispatch_no=st.integers(1, DISPATCH_NO_MAX))
def test_what_is_written_is_read(job_id: UUID, dispatch_no: int) -> None:
    sent = SENT._replace(job_id=job_id, dispatch_no=dispatch_no)
    body = messages.body(sent)
    properties = messages.properties(sent, CONTEXT)
    headers = read(properties).headers
    assert orjson.loads(body) == {"job_id": str(job_id), "dispatch_no": dispatch_no}
    assert len(body) < BODY_BYTES_MAX / 2
    assert headers == {"traceparent": CONTEXT.traceparent, "tracestate": "a=b"}
    found = Delivered(job_id, dispatch_no, CONTEXT)
    assert decode(Received(body, dict(headers))) == found
    assert decode_written(properties + MESSAGE_ID, body) is None  # for its tracestate
    plain = messages.properties(sent, CONTEXT._replace(tracestate=""))
    assert decode_written(plain + MESSAGE_ID, body) == found._replace(
        context=CONTEXT._replace(tracestate="")
    )


def test_a_context_that_nobody_records_does_not_travel() -> None:
    """The job's row has it."""
    unsampled = trace_context.new(sampled=False)
    properties = messages.properties(SENT, unsampled)
    assert read(properties).headers is None
    found = Delivered(SENT.job_id, SENT.dispatch_no, None)
    assert decode_written(properties + MESSAGE_ID, messages.body(SENT)) == found
    assert decode(Received(messages.body(SENT))) == found


@pytest.mark.parametrize("reason", ["x" * 20_000, {"k": "x" * 20_000}, None])
def test_a_stranger_who_writes_our_header_does_not_fill_the_log(reason: object) -> None:
    found = decode(Received(b"junk", {lenient_frames.UNREADABLE: reason}))
    assert isinstance(found, Malformed)
    assert len(found.reason) < 120


SOUND_DEATH = {"queue": "q", "reason": "rejected", "count": 1}


@pytest.mark.parametrize(
    ("deaths", "movable"),
    [
        ([], True),
        ([SOUND_DEATH, {}, {"count": None}], True),
        ("rejected", True),
        ({"queue": "q"}, True),
        ([SOUND_DEATH, "rejected"], False),
        ([None], False),
        ([[SOUND_DEATH]], False),
        ([SOUND_DEATH | {"count": "1"}], False),
        ([SOUND_DEATH | {"count": True}], False),
        ([SOUND_DEATH | {"count": 1.5}], False),
    ],
)
def test_what_the_broker_cannot_move_is_told(deaths: object, movable: bool) -> None:
    """Whatever the body: a job that dies has its message rejected, too."""
    found = decode(Received(b"junk", {"x-death": deaths}))
    assert isinstance(found, Malformed)
    assert found.movable == movable
    sound = decode(Received(messages.body(SENT), {"x-death": deaths}))
    assert isinstance(sound, Delivered) == movable


@pytest.mark.parametrize(
    "properties",
    [
        b"\x00\x40\xff\xff\xff\xff\xff\xff\xff\xff",  # a time beyond the calendar
        b"\x20\x00\x00\x00\x00\x03\x01\xffV",  # a header's name that is no UTF-8
        b"\x20\x00\x00\x00\x00\x0b\x01aT\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\x20\x00\x00\x00\x00\x99",  # a table longer than the frame
    ],
)
def test_properties_that_cannot_be_read_make_a_message_malformed(properties: bytes) -> None:
    """Raised at, they cost the connection, at every delivery: aiormq gives it up."""
    lenient_frames.install()
    payload = struct.pack("!HHQ", 60, 0, 4) + properties
    raw = struct.pack("!BHI", 2, 1, len(payload)) + payload + b"\xce"
    _, _, header = pamqp.frame.unmarshal(raw)
    assert isinstance(header, ContentHeader)
    assert header.body_size == 4
    found = decode(Received(b"junk", dict(header.properties.headers or {})))
    assert isinstance(found, Malformed)
    assert "properties cannot be read" in found.reason


def test_priority_is_always_set_even_to_nothing() -> None:
    """A message without one is the lowest on a classic queue, whatever was meant."""
    assert read(messages.properties(dispatch(priority=0), CONTEXT)).priority == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"job_id":"' + JOB.encode() + b'","dispatch_no":1}trailing', "not JSON"),
        (b"null", "not an object of just"),
        (b"[]", "not an object of just"),
        (orjson.dumps({"job_id": JOB}), "not an object of just"),
        (orjson.dumps({"job_id": JOB, "dispatch_no": 1, "payload": 1}), "not an object of just"),
        (orjson.dumps({"job_id": 7, "dispatch_no": 1}), "job_id is not text"),
        (orjson.dumps({"job_id": JOB, "dispatch_no": "1"}), "dispatch_no is not a whole"),
        (orjson.dumps({"job_id": JOB, "dispatch_no": 1.0}), "dispatch_no is not a whole"),
        (orjson.dumps({"job_id": JOB, "dispatch_no": True}), "dispatch_no is not a whole"),
        (orjson.dumps({"job_id": JOB, "dispatch_no": 0}), "from 1 to"),
        (orjson.dumps({"job_id": JOB, "dispatch_no": 2**31}), "from 1 to"),
        (orjson.dumps({"job_id": "nonsense", "dispatch_no": 1}), "job_id is not a UUID"),
        (orjson.dumps({"job_id": JOB.upper(), "dispatch_no": 1}), "usual form"),
        (orjson.dumps({"job_id": f"{{{JOB}}}", "dispatch_no": 1}), "usual form"),
        (orjson.dumps({"job_id": JOB, "dispatch_no": 1}) + b" " * 300, "bytes; at most"),
        (b"[" * 200, "not JSON"),
    ],
)
def test_what_is_not_ours_is_refused_with_the_reason(body: bytes, reason: str) -> None:
    outcome = decode(Received(body))
    assert isinstance(outcome, Malformed)
    assert reason in outcome.reason


PLAIN = messages.properties(SENT, CONTEXT._replace(tracestate=""))
WHOLE = PLAIN + MESSAGE_ID


@given(where=st.integers(0, len(WHOLE) - 1), what=st.integers(0, 255))
def test_properties_of_others_are_left_to_pamqp_or_mean_the_same(where: int, what: int) -> None:
    """The short cut is for what is ours, to the byte; it must never read what is not there."""
    changed = WHOLE[:where] + bytes([what]) + WHOLE[where + 1 :]
    found = decode_written(changed, messages.body(SENT))
    if found is not None:
        header = ContentHeader()
        header.unmarshal(struct.pack("!HHQ", 60, 0, 4) + changed)
        headers = dict(header.properties.headers or {})
        assert decode(Received(messages.body(SENT), headers)) == found


@pytest.mark.parametrize("cut", [1, 10, 40, len(WHOLE)])
def test_cut_properties_are_left_to_pamqp(cut: int) -> None:
    assert decode_written(WHOLE[:-cut] if cut > 18 else WHOLE[cut:], messages.body(SENT)) is None


@given(st.binary(max_size=300))
def test_no_body_makes_reading_fail(body: bytes) -> None:
    assert isinstance(decode(Received(body)), Malformed)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": 7},
        {"traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        {"traceparent": "nonsense", "tracestate": 7},
        {"traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01"},
    ],
)
def test_a_message_without_a_sound_trace_is_a_message_all_the_same(
    headers: dict[str, object],
) -> None:
    sent = dispatch(job_id=uuid4())
    assert decode(Received(messages.body(sent), headers)) == Delivered(sent.job_id, 1, None)
