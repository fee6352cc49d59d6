"""A publisher that sends the bytes of properties as they are: client libraries send sound ones."""

import socket
import struct
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from pamqp import commands, frame, header

CHANNEL = 1
CLASS_BASIC = 60
FRAME_HEADER, FRAME_BODY, FRAME_END = 2, 3, b"\xce"
FRAME_BYTES_MAX = 131_072
PATIENCE_SECONDS = 20.0


class Refused(Exception):
    """The broker has closed the connection: it does not take such bytes."""


class RawPublisher:
    """One connection and channel, with confirms."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection(
            (parts.hostname or "", parts.port or 5672), PATIENCE_SECONDS
        )
        self._stream = self._socket.makefile("rb")
        login = f"\0{unquote(parts.username or '')}\0{unquote(parts.password or '')}"
        self._socket.sendall(header.ProtocolHeader().marshal())
        self._expect(commands.Connection.Start)
        self._send(commands.Connection.StartOk({}, "PLAIN", login), channel=0)
        self._expect(commands.Connection.Tune)
        self._send(commands.Connection.TuneOk(16, FRAME_BYTES_MAX, 0), channel=0)
        self._send(commands.Connection.Open(unquote(parts.path[1:]) or "/"), channel=0)
        self._expect(commands.Connection.OpenOk)
        self._send(commands.Channel.Open())
        self._expect(commands.Channel.OpenOk)
        self._send(commands.Confirm.Select())
        self._expect(commands.Confirm.SelectOk)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._socket.close()

    def publish(
        self, body: bytes, *, routing_key: bytes, exchange: bytes = b"", properties: bytes = b"\0\0"
    ) -> None:
        """Publish and wait for the confirm. `properties` are flags and values. Raises Refused."""
        arguments = struct.pack("!HHH", CLASS_BASIC, 40, 0) + short(exchange) + short(routing_key)
        content = struct.pack("!HHQ", CLASS_BASIC, 0, len(body)) + properties
        frames = [_frame(1, arguments + b"\0"), _frame(FRAME_HEADER, content)]
        step = FRAME_BYTES_MAX - 8
        frames += [
            _frame(FRAME_BODY, body[start : start + step]) for start in range(0, len(body), step)
        ]
        try:
            self._socket.sendall(b"".join(frames))
            self._expect(commands.Basic.Ack)
        except OSError as error:
            raise Refused(str(error)) from error

    def count(self, queue: str) -> int:
        """The messages that are ready in a queue."""
        self._send(commands.Queue.Declare(queue=queue, passive=True))
        found = self._expect(commands.Queue.DeclareOk)
        assert isinstance(found, commands.Queue.DeclareOk)
        return found.message_count or 0

    def _send(self, method: frame.FrameTypes, *, channel: int = CHANNEL) -> None:
        self._socket.sendall(frame.marshal(method, channel))

    def _expect(self, kind: type) -> frame.FrameTypes:
        head = self._stream.read(7)
        if len(head) < 7:
            raise Refused("the connection is closed")
        rest = self._stream.read(struct.unpack("!BHI", head)[2] + 1)
        _, _, found = frame.unmarshal(head + rest)
        if not isinstance(found, kind):
            raise Refused(repr(found))
        return found


def short(text: bytes) -> bytes:
    """A short string of AMQP."""
    return bytes([len(text)]) + text


def long(text: bytes) -> bytes:
    """A long string of AMQP; a table is one that holds its entries."""
    return struct.pack("!I", len(text)) + text


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("!BHI", kind, CHANNEL, len(payload)) + payload + FRAME_END
