"""A TCP proxy that understands Postgres messages and AMQP frames, and fails at an exact one.

    async with proxied(database_url) as proxy:
        fault = proxy.on("committed runs.settle", Deed.RESET)
        … a client of proxy.url settles; its COMMIT is done, and the reply never comes …
        await fault.struck.wait()

What passes has a name. Postgres: `sent NAME` (a statement of ours on its way to the server, named
by its `-- table.query` comment) and `committed NAME` (the ReadyForQuery after which it is durable,
not one after an error or a ROLLBACK; `COMMIT` is a name, too). AMQP: `> basic.publish`,
`> basic.ack` (client to broker), `< basic.deliver`, `< basic.ack` (a confirm) and so on; a method
counts with its content. `only` is a pattern: it restricts a fault to connections in whose name
(application_name, connection_name) it is found.
"""

import asyncio
import re
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol
from urllib.parse import urlsplit, urlunsplit

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


class Deed(Enum):
    """What happens at the frame."""

    DROP = auto()
    """It is swallowed; all else passes."""
    DELAY = auto()
    """It, and all behind it on this connection, comes later."""
    RESET = auto()
    """It does not pass, and both sides get a RST."""
    BLACK_HOLE = auto()
    """From it on nothing passes on this connection, and nothing is closed."""
    HALF_CLOSE = auto()
    """It does not pass, and its receiver sees the end of the stream; the other way stays open."""
    COUNT = auto()
    """It passes."""


@dataclass(slots=True, eq=False)
class Fault:
    """A deed for frames of a name, from the `first` to the `last` that match."""

    name: str
    deed: Deed
    only: str = ""
    first: int = 1
    last: int = 1
    seconds: float = 0.0
    count: int = 0
    """Frames that matched so far."""
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the first deed: the fault has really happened."""

    def strikes(self, name: str, connection: str) -> bool:
        if name != self.name or not re.search(self.only, connection):
            return False
        self.count += 1
        if not self.first <= self.count <= self.last:
            return False
        self.struck.set()
        return True


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


class Proxy:
    """Passes everything but what a fault asks for."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._kind: type[Postgres | Amqp] = Postgres if "postgres" in parts.scheme else Amqp
        self._faults: list[Fault] = []
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing: str | None = None
        self._frozen: str | None = None
        self._thawed = asyncio.Event()
        self.seen: Counter[str] = Counter()
        """How often a frame of each name came by, whether it passed or not."""
        self.url = ""

    def on(
        self,
        name: str,
        deed: Deed,
        *,
        only: str = "",
        first: int = 1,
        times: int = 1,
        seconds: float = 0.0,
    ) -> Fault:
        """Do this at the `first` frame of that name from now on, and `times` - 1 more."""
        fault = Fault(name, deed, only, first, first + times - 1, seconds)
        self._faults.append(fault)
        return fault

    def forget(self, fault: Fault) -> None:
        """Strike no more."""
        self._faults.remove(fault)

    def cut(self, only: str = "") -> int:
        """Reset the connections whose name matches `only`, and refuse such. Returns how many."""
        self._refusing = only
        hit = [link for link in self._links if re.search(only, link.connection)]
        for link in hit:
            link.reset()
        return len(hit)

    def freeze(self, only: str = "") -> None:
        """Pass nothing more on connections whose name matches `only`; close nothing."""
        self._frozen = only
        self._thawed.clear()

    def heal(self) -> None:
        """Pass everything again."""
        self._refusing = self._frozen = None
        self._thawed.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link = _Link(self._kind(), writer)
        try:
            if self._refusing == "":
                return
            far_reader, link.server = await asyncio.open_connection(*self._target)
            self._links.add(link)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(link, reader, link.server, up=True))
                group.create_task(self._carry(link, far_reader, writer, up=False))
        except* (OSError, EOFError):
            pass
        finally:
            self._links.discard(link)
            self._tasks.discard(task)
            link.abort()

    async def close(self) -> None:
        """End what is left."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(
        self,
        link: "_Link",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        up: bool,
    ) -> None:
        while data := await reader.read(65_536):
            for piece in link.protocol.up(data) if up else link.protocol.down(data):
                await self._pass(link, piece, writer)
            await writer.drain()
        raise EOFError

    async def _pass(self, link: "_Link", piece: Piece, writer: asyncio.StreamWriter) -> None:
        name = link.connection
        if self._refusing is not None and name and re.search(self._refusing, name):
            link.reset()
            raise EOFError
        while self._frozen is not None and re.search(self._frozen, name):
            await self._thawed.wait()
        self.seen.update(piece.names)
        passes = True
        for fault in list(self._faults):
            if any(fault.strikes(name_, name) for name_ in piece.names):
                passes = await self._do(fault, link, writer) and passes
        if link.swallowing:
            await asyncio.get_running_loop().create_future()
        if passes:
            writer.write(piece.data)

    async def _do(self, fault: Fault, link: "_Link", writer: asyncio.StreamWriter) -> bool:
        """Returns whether the frame passes."""
        match fault.deed:
            case Deed.COUNT:
                return True
            case Deed.DROP:
                return False
            case Deed.DELAY:
                await asyncio.sleep(fault.seconds)
                return True
            case Deed.RESET:
                link.reset()
                raise EOFError
            case Deed.BLACK_HOLE:
                link.swallowing = True
                return False
            case Deed.HALF_CLOSE:
                writer.write_eof()
                await asyncio.get_running_loop().create_future()
        return True


class _Link:
    """One connection and its far side."""

    def __init__(self, protocol: Stream, client: asyncio.StreamWriter) -> None:
        self.protocol = protocol
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.swallowing = False

    @property
    def connection(self) -> str:
        """What its client calls it, once that is known."""
        return self.protocol.connection

    def reset(self) -> None:
        """RST to both sides: what they still have in their buffers is lost."""
        for writer in filter(None, (self.client, self.server)):
            opened = writer.get_extra_info("socket")
            if opened is not None and opened.fileno() >= 0:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        for writer in filter(None, (self.client, self.server)):
            writer.transport.abort()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the service of a URL; its own `url` leads through it."""
    proxy = Proxy(url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(url)
    login, _, _ = parts.netloc.rpartition("@")
    query = "sslmode=disable" if "postgres" in parts.scheme else parts.query
    proxy.url = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}", query=query))
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()


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
