"""The supervisor's end of an executor: its process and its pipe."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self
from uuid import UUID

from headway_core.errors import Defect
from headway_worker.control import (
    LINE_BYTES_MAX,
    Broken,
    Hello,
    Pulse,
    Ready,
    Stuck,
    ToExecutor,
    ToSupervisor,
    Trouble,
    decode,
    encode,
)
from headway_worker.executor_options import Options


class ExecutorProcess:
    """One executor, from its start to its end."""

    def __init__(
        self,
        worker_id: UUID,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.worker_id = worker_id
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(
        cls, *, target: str, worker_id: UUID, number: int, slots: int, queues: tuple[str, ...]
    ) -> Self:
        """Start a fresh interpreter. Raises OSError if there is no room for one."""
        ours, theirs = socket.socketpair()
        with theirs:
            options = Options(
                target=target,
                worker_id=worker_id,
                number=number,
                slots=slots,
                queues=queues,
                pipe=theirs.fileno(),
                parent=os.getpid(),
            )
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "headway_worker.executor", *options.arguments()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    # A Ctrl-C in the terminal is for the supervisor, and not for programs that
                    # handlers have started: they are to finish in the drain.
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES_MAX)
        return cls(worker_id, process, reader, writer)

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self._process.pid

    def send(self, message: ToExecutor) -> None:
        """Tell it something. Does not wait: what is sent is little, and a dead one is noticed."""
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def messages(self) -> AsyncIterator[ToSupervisor]:
        """What it says, until its end."""
        while True:
            try:
                line = await self._reader.readline()
            except ConnectionError:
                return
            if not line.endswith(b"\n"):
                return  # it died in the middle of a word
            message = decode(line)
            if not isinstance(message, Hello | Broken | Ready | Trouble | Pulse | Stuck):
                raise Defect(f"an executor said {type(message).__name__}")
            yield message

    def kill(self) -> None:
        """End it at once, and the programs that its handlers have started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for its end. Returns its exit code, negative for a signal."""
        code = await self._process.wait()
        self._writer.close()
        return code
