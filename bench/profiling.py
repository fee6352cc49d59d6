"""Where the time goes: py-spy on one process of Headway while a row is measured, if it is there."""

import asyncio
import shutil
import signal
import sysconfig
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

RATE = 200
TOP = 15
START_SECONDS = 1.0
STOP_SECONDS = 30.0


def py_spy() -> str | None:
    """Find it beside this Python, or on the path."""
    return shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")


@asynccontextmanager
async def profiled(pid: int, path: Path) -> AsyncIterator[None]:
    """Sample a process; write folded stacks to `path` and print the costliest functions.

    Folded stacks are what flame graph tools and speedscope.app read. Sampling slows the process.
    """
    program = py_spy()
    if program is None:
        raise RuntimeError("py-spy is not installed: .venv/bin/python -m pip install py-spy")
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [program, "record", "--pid", str(pid), "--rate", str(RATE)]
    command += ["--format", "raw", "--output", str(path)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    await asyncio.sleep(START_SECONDS)  # it says nothing when it has begun
    try:
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
    _show(path)


def _show(path: Path) -> None:
    print(f"{path}\n{summary(path.read_text())}")


def summary(folded: str) -> str:
    """Name the functions in which most samples were taken themselves."""
    itself: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        itself[stack.rpartition(";")[2]] += int(count)
    total = itself.total() or 1
    return "\n".join(f"  {count / total:6.1%}  {name}" for name, count in itself.most_common(TOP))
