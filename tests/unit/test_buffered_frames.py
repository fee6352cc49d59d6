"""The reader of AMQP frames gives what aiormq's own gives, however the bytes arrive."""

import asyncio
from collections.abc import Sequence

import pamqp.frame
import pytest
from aiormq.connection import ReceivedFrame
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from headway_core.buffered_frames import BufferedFrames

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


def reader_of(chunks: Sequence[bytes]) -> BufferedFrames:
    stream = asyncio.StreamReader()

    async def feed() -> None:
        for chunk in chunks:
            stream.feed_data(chunk)
            await asyncio.sleep(0)
        stream.feed_eof()

    reader = BufferedFrames(stream)
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
