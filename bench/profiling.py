"""Where the time goes: py-spy on one process of Headway while a row is measured."""

import asyncio
import signal
import sysconfig
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

PY_SPY = Path(sysconfig.get_path("scripts"), "py-spy")
RATE = 200
TOP = 15
START_SECONDS = 1.0
STOP_SECONDS = 30.0


@asynccontextmanager
async def profiled(pid: int, path: Path) -> AsyncIterator[None]:
    """Sample a process; write folded stacks to `path` and print the costliest functions.

    Folded stacks are what flame graph tools and speedscope.app read. Sampling slows the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [str(PY_SPY), "record", "--pid", str(pid), "--rate", str(RATE)]
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
