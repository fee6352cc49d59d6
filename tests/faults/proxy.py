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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import urlsplit, urlunsplit

from tests.faults.wire import Amqp, Piece, Postgres, Stream


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
