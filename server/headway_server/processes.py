"""Several server processes behind one address (`--processes N`): the kernel shares the connections.

The parent serves nothing. It holds the address, starts the children, says `ready` once all are,
passes its signals on, and ends with an error if a child ends by itself: who restarts one restarts
all. A child goes at SIGTERM, and at the end of its standard input, so that none outlives a parent
that was killed. Children are sessions of their own, or Ctrl-C would reach each of them twice.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

from headway_core.errors import HeadwayError
from headway_core.settings import Address
from headway_server.listening import AddressRefused, probe
from headway_server.settings import ServerSettings

PROCESSES_MAX: Final = 64
CHILD_OPTION: Final = "--child"

log = structlog.get_logger(__name__)

Process = asyncio.subprocess.Process


class ProcessEnded(HeadwayError):
    """A server process ended that should not have, or could not begin."""

    def __init__(self, pid: int, code: int) -> None:
        super().__init__(f"server process {pid} ended with exit code {code}")


async def serve_by_several(
    count: int,
    settings: ServerSettings,
    *,
    environ: Mapping[str, str],
    stopping: asyncio.Event,
    at_once: asyncio.Event,
    announce: Callable[[Address], None],
) -> None:
    """Serve by `count` processes until `stopping`, then drain them; kill them if `at_once` is set.

    `announce` gets the address when all are ready. Raises AddressRefused, ProcessEnded.
    """
    children: list[Process] = []
    with _held(settings.listen) as address:
        try:
            for index in range(count):
                # One by one: if one cannot be started, the others are known.
                children.append(await _start(index, settings, address, environ))  # noqa: PERF401
            async with asyncio.TaskGroup() as group:
                ends = [group.create_task(_watch(child, stopping)) for child in children]
                killing = group.create_task(_kill_when(at_once, children))
                begun = group.create_task(_announce(children, address, announce))
                await stopping.wait()
                begun.cancel()
                _send(children, signal.SIGTERM)
                await asyncio.wait(ends)
                killing.cancel()
        except* ProcessEnded as errors:
            raise errors.exceptions[0] from None
        finally:
            # Those that are left if one failed: they drain, as their input ends with this process.
            _send(children, signal.SIGTERM)


@contextmanager
def _held(address: Address) -> Iterator[Address]:
    """Bind the address without listening: the port is ours, and the connections the children's."""
    probe(address)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((address.host, address.port))
        except OSError as error:
            raise AddressRefused(address, str(error)) from error
        yield Address(address.host, holder.getsockname()[1])


async def _start(
    index: int, settings: ServerSettings, address: Address, environ: Mapping[str, str]
) -> Process:
    own = {"HEADWAY_LISTEN": str(address)}
    if settings.metrics_listen is not None:
        host, port = settings.metrics_listen
        own["HEADWAY_METRICS_LISTEN"] = str(Address(host, port + index if port else 0))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "headway_server.app",
        CHILD_OPTION,
        env={**environ, **own},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def _announce(
    children: list[Process], address: Address, announce: Callable[[Address], None]
) -> None:
    for child in children:
        assert child.stdout is not None
        if not await child.stdout.readline():
            return  # it has ended, which its watch tells
    announce(address)


async def _watch(child: Process, stopping: asyncio.Event) -> None:
    code = await child.wait()
    if code != 0 or not stopping.is_set():
        raise ProcessEnded(child.pid, code)


async def _kill_when(at_once: asyncio.Event, children: list[Process]) -> None:
    await at_once.wait()
    _send(children, signal.SIGKILL)


def _send(children: list[Process], number: signal.Signals) -> None:
    for child in children:
        if child.returncode is None:
            child.send_signal(number)
