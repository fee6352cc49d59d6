"""The reader of AMQP frames gives what aiormq's own gives, however the bytes arrive."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pamqp.frame
import pytest
from aiormq.connection import ReceivedFrame
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from headway_core.buffered_frames import DIRECT_BODY_BYTES_MAX, BufferedFrames, Direct, directs

BODY = b"x" * 300
FRAMES = [
    Basic.Deliver("tag", 7, exchange="exchange", routing_key="route"),
    ContentHeader(body_size=len(BODY), properties=Basic.Properties(headers={"a": "b"})),
    ContentBody(BODY),
    Heartbeat(),
    Basic.Ack(9, multiple=True),
]
CHANNELS = [1, 1, 1, 0, 3]
DATA = b"".join(map(pamqp.frame.marshal, FRAMES, CHANNELS))


def reader_of(
    chunks: Sequence[bytes], registered: dict[int, Direct] | None = None
) -> BufferedFrames:
    stream = asyncio.StreamReader()

    async def feed() -> None:
        for chunk in chunks:
            stream.feed_data(chunk)
            await asyncio.sleep(0)
        stream.feed_eof()

    token = directs.set(registered or {})
    reader = BufferedFrames(stream)
    directs.reset(token)
    reader.feeding = asyncio.create_task(feed())  # type: ignore[attr-defined]
    return reader


def described(frames: Sequence[ReceivedFrame]) -> list[tuple[int, str, object]]:
    return [
        (channel, frame.name, frame.value if isinstance(frame, ContentBody) else None)
        for _, channel, frame in frames
    ]


@pytest.mark.parametrize("size", [1, 2, 7, 8, 100, len(DATA) - 1, len(DATA)])
async def test_frames_are_found_however_they_are_cut(size: int) -> None:
    chunks = [DATA[at : at + size] for at in range(0, len(DATA), size)]
    reader = reader_of(chunks)
    found = [await reader.get_frame() for _ in FRAMES]
    assert [weight for weight, *_ in found] == [
        len(pamqp.frame.marshal(frame, 1)) for frame in FRAMES
    ]
    assert described(found) == [
        (channel, frame.name, BODY if isinstance(frame, ContentBody) else None)
        for frame, channel in zip(FRAMES, CHANNELS, strict=True)
    ]
    deliver, ack = found[0][2], found[-1][2]
    assert isinstance(deliver, Basic.Deliver)
    assert deliver.delivery_tag == 7
    assert isinstance(ack, Basic.Ack)
    assert (ack.delivery_tag, ack.multiple) == (9, True)


def delivery(tag: int, *bodies: bytes, channel: int = 1) -> bytes:
    frames: list[pamqp.frame.FrameTypes] = [
        Basic.Deliver("consumer", tag, exchange="exchange", routing_key="route"),
        ContentHeader(body_size=sum(map(len, bodies)), properties=Basic.Properties(priority=3)),
    ]
    frames += map(ContentBody, bodies)
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in frames)


PRIORITY_3 = b"\x08\x00\x03"
DELIVERIES = b"".join(
    [
        delivery(1, b"first"),
        pamqp.frame.marshal(Basic.Ack(9), 1),
        delivery(2, b"of a channel that nobody registered for", channel=2),
        delivery(3),
        delivery(4, b"x" * (DIRECT_BODY_BYTES_MAX + 1)),
        delivery(5, b"refused"),
        delivery(6, b"x" * DIRECT_BODY_BYTES_MAX),
        delivery(7, b"in two", b"frames"),
        delivery(8, b"last"),
    ]
)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 30, 100, len(DELIVERIES)])
async def test_small_deliveries_go_past_aiormq_to_who_registered(size: int) -> None:
    taken: list[tuple[bytes, int, bytes, int]] = []

    def direct(consumer_tag: bytes, tag: int, properties: bytes, body: bytes) -> bool:
        if body == b"refused":
            return False
        taken.append((consumer_tag, tag, properties, len(body)))
        return True

    reader = reader_of(
        [DELIVERIES[at : at + size] for at in range(0, len(DELIVERIES), size)], {1: direct}
    )
    found = []
    with suppress(AMQPConnectionError):
        while True:
            found.append(await reader.get_frame())
    assert taken == [
        (b"consumer", 1, PRIORITY_3, 5),
        (b"consumer", 6, PRIORITY_3, DIRECT_BODY_BYTES_MAX),
        (b"consumer", 8, PRIORITY_3, 4),
    ]
    for_aiormq = [frame for _, _, frame in found if not isinstance(frame, Heartbeat)]
    tags = [frame.delivery_tag for frame in for_aiormq if isinstance(frame, Basic.Deliver)]
    assert tags == [2, 3, 4, 5, 7]
    assert [frame.name for frame in for_aiormq] == [
        "Basic.Ack",
        *["Basic.Deliver", "ContentHeader", "ContentBody"],
        *["Basic.Deliver", "ContentHeader"],
        *["Basic.Deliver", "ContentHeader", "ContentBody"] * 3,
        "ContentBody",
    ]


async def test_a_connection_that_only_delivers_shows_signs_of_life() -> None:
    """Aiormq ends one on which it has seen no frame for thirty seconds."""
    chunks = [delivery(number, b"x") * 20 for number in range(3)]
    reader = reader_of(chunks, {1: lambda *_: True})
    for _ in chunks:
        _, channel, frame = await reader.get_frame()
        assert (channel, type(frame)) == (0, Heartbeat)
    with pytest.raises(AMQPConnectionError):
        await reader.get_frame()


async def test_a_delivery_that_is_never_finished_waits() -> None:
    """What was passed on before it is told of meanwhile."""
    whole = delivery(1, b"x")
    taken: list[int] = []

    def direct(_consumer: bytes, tag: int, _properties: bytes, _body: bytes) -> bool:
        taken.append(tag)
        return True

    reader = reader_of([whole + delivery(2, b"y")[:-1]], {1: direct})
    _, _, frame = await reader.get_frame()
    assert isinstance(frame, Heartbeat)
    with pytest.raises(AMQPConnectionError, match="closed the connection"):
        await reader.get_frame()
    assert taken == [1]


@pytest.mark.parametrize(
    "data", [b"", DATA, DATA[:-3]], ids=["at once", "between frames", "within"]
)
async def test_the_end_is_a_lost_connection(data: bytes) -> None:
    reader = reader_of([data])
    with pytest.raises(AMQPConnectionError, match="closed the connection"):
        async for _ in reader:
            pass


async def test_a_frame_without_its_last_byte_is_refused() -> None:
    with pytest.raises(InvalidFrameError):
        await reader_of([pamqp.frame.marshal(FRAMES[0], 1)[:-1] + b"\0"]).get_frame()


async def test_an_error_of_the_socket_is_a_lost_connection() -> None:
    reader = BufferedFrames(asyncio.StreamReader())
    reader.reader.set_exception(ConnectionResetError("by the peer"))
    with pytest.raises(AMQPConnectionError, match="by the peer"):
        await reader.get_frame()
