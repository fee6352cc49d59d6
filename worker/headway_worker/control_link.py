"""An executor's end of the pipe to its supervisor."""

import asyncio
import socket
import threading
from collections.abc import Callable

from headway_core.errors import Defect
from headway_worker.control import (
    CancelRun,
    Drain,
    LeaseConfirmed,
    ToExecutor,
    ToSupervisor,
    decode,
    encode,
)
from headway_worker.parentage import end_orphan


class ControlLink:
    """Reads in a thread of its own, so that a supervisor's end is noticed while the loop is
    blocked.
    """

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._write_lock = threading.Lock()

    def listen(
        self, loop: asyncio.AbstractEventLoop, receive: Callable[[ToExecutor], None]
    ) -> None:
        """Begin to read; `receive` is called on the loop. The end of the pipe ends this process."""

        def read() -> None:
            with self._pipe.makefile("rb") as lines:
                try:
                    for line in lines:
                        message = decode(line)
                        if not isinstance(message, LeaseConfirmed | CancelRun | Drain):
                            raise Defect(f"a supervisor said {type(message).__name__}")
                        loop.call_soon_threadsafe(receive, message)
                except (ConnectionError, RuntimeError):
                    pass  # the pipe is broken, or the loop is closed
            end_orphan()

        threading.Thread(target=read, name="headway-control", daemon=True).start()

    def send(self, message: ToSupervisor) -> None:
        """Tell the supervisor; from any thread. May block for a moment if it does not read."""
        with self._write_lock:
            try:
                self._pipe.sendall(encode(message))
            except ConnectionError:
                end_orphan()
