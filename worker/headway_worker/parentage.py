"""Dying with one's parent, and leaving signals to it.

For processes that are obeyed through a pipe: executors and their children.
"""

import ctypes
import os
import signal
import socket
import sys
from types import FrameType
from typing import Final

PR_SET_PDEATHSIG: Final = 1
ORPHANED: Final = 70
"""Exit code of a process whose parent is gone."""


def bind_to_parent(parent_pid: int) -> None:
    """Be killed when the parent dies, where Linux can do that; leave SIGINT and SIGTERM to the
    parent.

    Elsewhere the end of the pipe to the parent has to do, which a process notices as soon as it
    looks. Call it from the main thread, before any user code is imported.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not SIG_IGN: that is inherited by the programs that user code starts, which could then
        # not be terminated. A handler is reset to the default in them.
        signal.signal(number, _leave_it_to_the_parent)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(ORPHANED)  # it died before we asked


def own_pipe(descriptor: int) -> socket.socket:
    """Take over the pipe that the parent passed, and keep it from programs that user code starts:
    they would hold it open when we are gone.
    """
    pipe = socket.socket(fileno=descriptor)
    pipe.set_inheritable(False)
    return pipe


def end_orphan() -> None:
    """End this process at once: its parent is gone, and its runs are somebody else's to judge."""
    os._exit(ORPHANED)


def _leave_it_to_the_parent(_number: int, _frame: FrameType | None) -> None:
    pass
