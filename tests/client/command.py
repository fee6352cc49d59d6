"""Runs the real `headway` command against the scripted server."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path

HEADWAY = str(Path(sys.executable).parent / "headway")
WITHIN = 60
ROOT = Path(__file__).parents[2]
UNWANTED = {
    *("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "HEADWAY_TARGET"),
    "PYTHONDONTWRITEBYTECODE",  # these tests start many processes; compiling anew takes longest
}
WANTED = {
    "TERM": "xterm-256color",
    "LANG": "C.UTF-8",
    "PYTHONUTF8": "1",
    "PYTHONPYCACHEPREFIX": str(ROOT / ".cache" / "bytecode"),
}
# Ctrl-C reaches only who controls the terminal. Not by preexec_fn: gRPC, which runs in this
# process, does not survive a real fork.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Ran:
    """What a finished command said."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


def environment(target: str | None) -> dict[str, str]:
    """That of this process, without what would change the output, and with the target."""
    kept = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    added = {"HEADWAY_TARGET": target} if target else {}
    return kept | added | WANTED


async def start(
    target: str | None, *arguments: str, stdin: int | None = None
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        HEADWAY, *arguments, stdin=stdin, stdout=PIPE, stderr=PIPE, env=environment(target)
    )


async def run(target: str | None, *arguments: str, stdin: bytes = b"") -> Ran:
    """Run to the end."""
    process = await start(target, *arguments, stdin=PIPE)
    return await finish(process, stdin)


async def finish(process: asyncio.subprocess.Process, stdin: bytes | None = None) -> Ran:
    async with asyncio.timeout(WITHIN):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return Ran(process.returncode, out, err.decode())


class Terminal:
    """A command in a pseudo-terminal, as a person would run it."""

    def __init__(self, rows: int = 24, columns: int = 120) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(rows, columns)
        self.raw = b""
        self._grown = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, target: str, *arguments: str) -> None:
        """Start the command, with all its streams on the terminal."""
        asyncio.get_running_loop().add_reader(self._master, self._read)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", TAKE_TERMINAL, HEADWAY, *arguments),
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=environment(target),
            start_new_session=True,
        )
        os.close(self._slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    async def until(self, pattern: str) -> str:
        """Wait until what was written so far, without escapes, has the pattern."""
        async with asyncio.timeout(WITHIN):
            while not re.search(pattern, self.text):
                self._grown.clear()
                await self._grown.wait()
        return self.text

    async def end(self) -> None:
        """Kill what still runs, as after a failed test."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self.wait()

    async def wait(self) -> int:
        """The exit code."""
        assert self._process is not None
        async with asyncio.timeout(WITHIN):
            code = await self._process.wait()
        self._read()
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
        return code

    @property
    def text(self) -> str:
        return ESCAPES.sub("", self.raw.decode(errors="replace"))

    def frames(self) -> list[list[str]]:
        """Every drawing of the block of lines."""
        drawn = self.raw.decode(errors="replace").split("\x1b[J")
        return [ESCAPES.sub("", frame).replace("\r", "").split("\n")[:-1] for frame in drawn]

    def _read(self) -> None:
        try:
            self.raw += os.read(self._master, 65536)
        except OSError:  # the last one who had it open has closed it
            asyncio.get_running_loop().remove_reader(self._master)
        self._grown.set()
