"""Frames from the broker, many to a read, and small deliveries past aiormq.

aiormq reads each frame by itself, in three awaits under a lock, and a delivery is three frames.
Here all that has arrived is read at once and cut into frames without another await. Whoever
registers for a channel is given its small deliveries as they are cut out: neither pamqp's objects
nor aiormq's queue and task are made for them then.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

import aiormq.connection
import pamqp.frame
from aiormq.connection import FrameReceiver, ReceivedFrame
from aiormq.exceptions import AMQPConnectionError, InvalidFrameError
from pamqp.exceptions import PAMQPException
from pamqp.heartbeat import Heartbeat

from headway_core.amqp_frames import (
    BODY,
    CONTENT,
    DELIVER,
    DELIVERY_TAG,
    END,
    HEAD,
    HEADER,
    METHOD,
    METHOD_NAME,
)

READ_BYTES: Final = 65_536
DIRECT_BODY_BYTES_MAX: Final = 16_384
"""Larger deliveries are left to aiormq, and those of several frames."""

Direct = Callable[[bytes, int, bytes, bytes], bool]
"""Takes a delivery: consumer tag, delivery tag, flags and values of its properties, body. What it
does not take goes to aiormq, as do others that it is not asked for: without a body, or with a large
one. What it raises ends the connection.
"""
directs: ContextVar[dict[int, Direct]] = ContextVar("directs")
"""By number of the channel, for a connection that is made in this context."""


def install() -> None:
    """Read so from now on, on all new connections of the process. Harmless a second time."""
    aiormq.connection.FrameReceiver = BufferedFrames  # type: ignore[misc]


class BufferedFrames(FrameReceiver):
    """What aiormq reads a connection with; a single task does, for its whole life."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        super().__init__(reader)
        self._read = b""
        self._at = 0
        self._directs = directs.get({})
        directs.set({})  # aiormq's reader, and all that it starts, inherit this context
        self._passed_on = False

    async def get_frame(self) -> ReceivedFrame:
        """Return the next frame. Raises AMQPConnectionError when there is none any more."""
        while (end := self._next_end()) > len(self._read):
            if self._passed_on:
                # A broker that delivers sends no heartbeats; aiormq wants to see something.
                self._passed_on = False
                return 0, 0, Heartbeat()
            await self._read_more()
        frame, self._at = self._read[self._at : end], end
        try:
            return pamqp.frame.unmarshal(frame)
        except PAMQPException as error:
            raise InvalidFrameError(str(error)) from error

    def _next_end(self) -> int:
        """Pass on what aiormq need not see, and return where the next frame for it ends.

        If that is beyond what is read, so much is needed to go on.
        """
        while (end := self._end_of(self._at)) <= len(self._read) and self._directs:
            delivery_end = self._pass_on(end)
            if delivery_end is None:
                break
            if delivery_end > len(self._read):
                return delivery_end
            self._at, self._passed_on = delivery_end, True
        return end

    def _end_of(self, at: int) -> int:
        """Where the frame ends that begins there, or where at least its head would."""
        if len(self._read) - at < HEAD.size:
            return at + HEAD.size
        _, _, length = HEAD.unpack_from(self._read, at)
        return at + HEAD.size + int(length) + 1

    def _pass_on(self, header_at: int) -> int | None:
        """Pass on the delivery that begins here, and return where it ends.

        None: it is for aiormq. An end beyond what is read: so much is needed first.
        """
        read, at = self._read, self._at
        kind, channel, _ = HEAD.unpack_from(read, at)
        direct = self._directs.get(channel)
        named_at, tag_at = at + HEAD.size, at + HEAD.size + METHOD_NAME.size
        if direct is None or kind != METHOD or read[named_at:tag_at] != DELIVER:
            return None
        if (body_at := self._end_of(header_at)) > len(read):
            return body_at
        if HEAD.unpack_from(read, header_at)[:2] != (HEADER, channel):
            return None
        size = int(CONTENT.unpack_from(read, header_at + HEAD.size)[2])
        if not 0 < size <= DIRECT_BODY_BYTES_MAX:
            return None
        if (end := body_at + HEAD.size + size + 1) > len(read):
            return end
        if HEAD.unpack_from(read, body_at) != (BODY, channel, size) or not (
            read[header_at - 1] == read[body_at - 1] == read[end - 1] == END
        ):
            return None
        tag_end = tag_at + 1 + read[tag_at]
        taken = direct(
            read[tag_at + 1 : tag_end],
            DELIVERY_TAG.unpack_from(read, tag_end)[0],
            read[header_at + HEAD.size + CONTENT.size : body_at - 1],
            read[body_at + HEAD.size : end - 1],
        )
        return end if taken else None

    async def _read_more(self) -> None:
        try:
            more = await self.reader.read(READ_BYTES)
        except OSError as error:
            raise AMQPConnectionError(f"the connection failed: {error!r}") from error
        if not more:
            raise AMQPConnectionError("the broker closed the connection")
        self._read, self._at = self._read[self._at :] + more, 0
