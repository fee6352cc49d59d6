"""Another program run for a job: read line by line, and gone when the run is."""

import asyncio
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

LAST_LINES_MAX = 10

# Linux kills the program when its parent dies, even by SIGKILL (1 is PR_SET_PDEATHSIG). A small
# Python asks for that and then becomes the program: a preexec_fn may deadlock in a process with
# threads. Elsewhere the program of a killed worker runs on to its end.
LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execv(sys.argv[1], sys.argv[1:])
"""


async def run_program(command: Sequence[str], on_line: Callable[[str], None]) -> None:
    """Run a program to its end, each line of its output (and of its errors) passed on.

    The program is given by its absolute path. It never outlives this call: whatever ends the
    wait, a cancelled task or an error out of on_line, kills it, with SIGKILL, since there is
    nothing to save of a result that is thrown away. RuntimeError with its last lines if it fails.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", LAUNCHER, *command),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,  # one pipe to read, so that none fills up unread
        start_new_session=True,  # a Ctrl-C in the terminal is for the worker to act on
    )
    assert process.stdout is not None
    last_lines: deque[str] = deque(maxlen=LAST_LINES_MAX)
    try:
        async for output in process.stdout:
            line = output.decode(errors="replace").strip()
            if not re.match(r"\w+=", line):  # progress like `frame=12` explains no failure
                last_lines.append(line)
            on_line(line)
        code = await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()  # empties the pipe: wait() alone may hang on a full one
    if code != 0:
        program = Path(command[0]).name
        raise RuntimeError(f"{program} ended with code {code}: {' / '.join(last_lines)}")
