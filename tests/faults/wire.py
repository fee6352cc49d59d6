"""Postgres messages and AMQP frames, cut out of a stream and named; proxy.py says how."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

AMQP_GREETING_BYTES: Final = 8
AMQP_HEADER: Final = struct.Struct(">BHI")
PG_HEADER: Final = struct.Struct(">cI")
METHODS: Final = {
    (10, 11): "connection.start-ok",
    (20, 40): "channel.close",
    (50, 10): "queue.declare",
    (60, 20): "basic.consume",
    (60, 21): "basic.consume-ok",
    (60, 30): "basic.cancel",
    (60, 31): "basic.cancel-ok",
    (60, 40): "basic.publish",
    (60, 50): "basic.return",
    (60, 60): "basic.deliver",
    (60, 80): "basic.ack",
    (60, 90): "basic.reject",
    (60, 120): "basic.nack",
}
WITH_CONTENT: Final = frozenset({(60, 40), (60, 50), (60, 60), (60, 71)})


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that pass or fail together, and what they are called."""

    data: bytes
    names: tuple[str, ...] = ()


class Stream(Protocol):
    """Cuts one connection's two streams into pieces."""

    connection: str

    def up(self, data: bytes) -> Iterator[Piece]:
        """From the client."""

    def down(self, data: bytes) -> Iterator[Piece]:
        """From the server."""


class Postgres:
    """Of a session without TLS (`sslmode=disable`)."""

    def __init__(self) -> None:
        self.connection = ""
        self._up = b""
        self._down = b""
        self._started = False
        self._statements: dict[bytes, str] = {}
        self._since_commit: list[str] = []

    def up(self, data: bytes) -> Iterator[Piece]:
        self._up += data
        if not self._started:
            if len(self._up) < 4 or len(self._up) < (size := struct.unpack(">I", self._up[:4])[0]):
                return
            startup, self._up = self._up[:size], self._up[size:]
            parts = startup[8:].split(b"\0")
            if b"application_name" in parts:
                self.connection = parts[parts.index(b"application_name") + 1].decode()
            self._started = True
            yield Piece(startup)
        while (message := _take(self._up, PG_HEADER, 1)) is not None:
            self._up = self._up[len(message) :]
            yield Piece(message, self._sent(message))

    def down(self, data: bytes) -> Iterator[Piece]:
        self._down += data
        while (message := _take(self._down, PG_HEADER, 1)) is not None:
            self._down = self._down[len(message) :]
            names: tuple[str, ...] = ()
            if message[:1] == b"E" or (message[:1] == b"C" and message[5:13] == b"ROLLBACK"):
                self._since_commit = []
            if message[:1] == b"Z" and message[5:6] == b"I":
                names = tuple(f"committed {name}" for name in self._since_commit)
                self._since_commit = []
            yield Piece(message, names)

    def _sent(self, message: bytes) -> tuple[str, ...]:
        kind, body = message[:1], message[5:]
        if kind == b"P":
            statement, query, _ = body.split(b"\0", 2)
            self._statements[statement] = _name(query)
        elif kind == b"B":
            name = self._statements.get(body.split(b"\0", 2)[1], "")
            self._since_commit.append(name)
            return (f"sent {name}",)
        elif kind == b"Q":
            name = _name(body)
            self._since_commit.append(name)
            return (f"sent {name}",)
        return ()


class Amqp:
    """AMQP 0-9-1."""

    def __init__(self) -> None:
        self.connection = ""
        self._greeted = False
        self._buffers = {">": b"", "<": b""}
        self._unfinished: dict[tuple[str, int], tuple[bytes, str, int | None]] = {}

    def up(self, data: bytes) -> Iterator[Piece]:
        if not self._greeted:
            self._buffers[">"] += data
            if len(self._buffers[">"]) < AMQP_GREETING_BYTES:
                return
            greeting = self._buffers[">"][:AMQP_GREETING_BYTES]
            data, self._buffers[">"] = self._buffers[">"][AMQP_GREETING_BYTES:], b""
            self._greeted = True
            yield Piece(greeting)
        yield from self._frames(">", data)

    def down(self, data: bytes) -> Iterator[Piece]:
        yield from self._frames("<", data)

    def _frames(self, way: str, data: bytes) -> Iterator[Piece]:
        self._buffers[way] += data
        while (frame := _take(self._buffers[way], AMQP_HEADER, 8)) is not None:
            self._buffers[way] = self._buffers[way][len(frame) :]
            kind, channel, _ = AMQP_HEADER.unpack(frame[:7])
            if kind == 1:
                numbers = struct.unpack(">HH", frame[7:11])
                name = f"{way} {METHODS.get(numbers, f'{numbers[0]}.{numbers[1]}')}"
                if numbers == (10, 11):
                    self._learn_name(frame)
                if numbers in WITH_CONTENT:
                    self._unfinished[way, channel] = (frame, name, None)
                else:
                    yield Piece(frame, (name,))
            elif kind in (2, 3) and (way, channel) in self._unfinished:
                whole, name, left = self._unfinished.pop((way, channel))
                left = struct.unpack(">Q", frame[11:19])[0] if kind == 2 else left
                assert left is not None
                left -= len(frame) - 8 if kind == 3 else 0
                if left > 0:
                    self._unfinished[way, channel] = (whole + frame, name, left)
                else:
                    yield Piece(whole + frame, (name,))
            else:
                yield Piece(frame)

    def _learn_name(self, start_ok: bytes) -> None:
        found = re.search(rb"connection_nameS(....)", start_ok, re.DOTALL)
        if found:
            size = struct.unpack(">I", found[1])[0]
            self.connection = start_ok[found.end() : found.end() + size].decode()


def _take(buffer: bytes, header: struct.Struct, more: int) -> bytes | None:
    """One whole message or frame: its length field, plus `more`."""
    if len(buffer) < header.size:
        return None
    size = int(header.unpack(buffer[: header.size])[-1]) + more
    return buffer[:size] if len(buffer) >= size else None


def _name(query: bytes) -> str:
    """`runs.settle` for a query of ours; otherwise its first word, `COMMIT` for one."""
    text = query.rstrip(b"\0").decode(errors="replace").strip()
    if text.startswith("-- "):
        return text.splitlines()[0][3:]
    return text.split()[0].rstrip(";").upper() if text else ""
