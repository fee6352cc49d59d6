"""Several server processes behind one address (`--processes N`): the kernel shares the connections.

The parent serves nothing. It keeps the address, starts the others, says `ready` once all are, passes
signals on, and ends with an error if one of them ends by itself: who restarts it restarts all.
A child is told to go by SIGTERM, and by the end of its standard input, so that none outlives a
parent that was killed.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog

from headway_core.errors import HeadwayError
from headway_core.settings import Address
from headway_server.listening import AddressRefused, probe

PROCESSES_MAX: Final = 64
CHILD_OPTION: Final = "--child"
READY: Final = b"ready "

log = structlog.get_logger(__name__)

Process = asyncio.subprocess.Process


class ProcessEnded(HeadwayError):
    """A server process ended that should not have."""

    def __init__(self, pid: int, code: int) -> None:
        super().__init__(f"server process {pid} ended with exit code {code}")


@asynccontextmanager
async def several(
    count: int, address: Address, *, environ: Mapping[str, str], stopping: asyncio.Event
) -> AsyncIterator[Address]:
    """Run `count` servers on one address inside the block, until `stopping`.

    Raises AddressRefused, or ProcessEnded if one of them ends before.
    """
    probe(address)
    with _held(address) as (held, taken):
        del held
        yield taken
