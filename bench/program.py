"""Python processes of the benchmark: started with options, ready, told to go, done.

The parent holds `Program`; the child calls `options`, `say_ready` and `until_told`. They speak one
JSON document a line. A child whose parent dies reads the end of its input and ends.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent
READY_SECONDS = 60.0
RESULT_SECONDS = 180.0
STOP_SECONDS = 10.0
LINE_BYTES_MAX = 64 * 2**20


class Program:
    """The parent's handle on `python -m MODULE OPTIONS`."""

    def __init__(self, module: str, process: asyncio.subprocess.Process) -> None:
        self._module = module
        self._process = process
        self.greeting: dict[str, Any] = {}

    @classmethod
    async def start(
        cls,
        module: str,
        *,
        python: str | Path = sys.executable,
        environment: Mapping[str, str] | None = None,
        **options: object,
    ) -> Self:
        """Start it and wait until it says that it is ready. `environment` is all it gets."""
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", module, json.dumps(options)),
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            limit=LINE_BYTES_MAX,
            start_new_session=True,  # a Ctrl-C is for the parent, which then ends it
        )
        program = cls(module, process)
        try:
            program.greeting = await program._answer(READY_SECONDS)
        except BaseException:
            await program.stop()
            raise
        return program

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self._process.pid

    @property
    def address(self) -> str:
        """Where it listens, if it is a server."""
        return str(self.greeting["address"])

    async def go(self, **message: object) -> dict[str, Any]:
        """Tell it to go, and return what it says next."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()
        return await self._answer(RESULT_SECONDS)

    async def stop(self) -> None:
        """End it: its input ends, and SIGKILL if that is not enough."""
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} ended early; its words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def options() -> dict[str, Any]:
    """What the parent has asked this process for."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def say(message: Mapping[str, object]) -> None:
    """Answer the parent."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def say_ready(**facts: object) -> None:
    """Say that the next word may come; the parent finds the facts in `greeting`."""
    say({"ready": True, **facts})


async def until_told() -> dict[str, Any] | None:
    """Wait for the parent's next word; None: there is none any more, and it is time to end."""
    line = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(line) if line else None
