"""`headway demo`: it passes, it says what it did, and however it ends it leaves nothing running."""

import asyncio
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from headway_dev.services import AMQP_VARIABLE, DATABASE_VARIABLE
from tests.end_to_end.stack import ROOT, eventually, headway

DEMO_SECONDS_MAX = 100.0
STOP_SECONDS_MAX = 20.0
MARK = "HEADWAY_TEST_DEMO"
TYPES = (
    "report.pdf",
    "image.thumbnails",
    "airports.import",
    "video.transcode",
    "demo.primes",
    "hello",
    "demo.flaky",
    "demo.poison",
)


class Demo:
    """One run of it, in its own directories; its processes are known by a mark they inherit."""

    def __init__(self, directory: Path) -> None:
        self.output = directory / "output"
        self.data = directory / "data"
        self._log = directory / "demo.log"
        self._mark = uuid.uuid4().hex
        self._process: asyncio.subprocess.Process | None = None

    @property
    def text(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    async def start(self) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in {DATABASE_VARIABLE, AMQP_VARIABLE}
        }
        environment |= {MARK: self._mark, "HEADWAY_EXAMPLES_OUTPUT": str(self.output)}
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(headway(), "demo", "--data", self.data),
                stdout=log,
                stderr=log,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )

    async def ended(self, *, seconds: float) -> int:
        assert self._process is not None
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    def interrupt(self) -> None:
        """As a terminal does: the whole foreground group is told."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGINT)

    def processes(self) -> list[str]:
        """Everything that the demo has started and that still runs; services forget the mark, but
        they name their directory.
        """
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                marked = process.environ().get(MARK) == self._mark
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if marked or str(self.data) in line:
                found.append(f"{process.pid} {line}")
        return found


@pytest.fixture
def new_demo(tmp_path: Path) -> Iterator[Callable[[], Demo]]:
    """Make demos that can run beside each other; nothing of them may be left at the end."""
    made: list[Demo] = []

    def make() -> Demo:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Demo(directory))
        return made[-1]

    yield make
    assert [line for demo in made for line in demo.processes()] == []


async def test_the_demo_shows_it_all_in_time_and_leaves_nothing_but_its_files(
    new_demo: Callable[[], Demo],
) -> None:
    demo = new_demo()
    await demo.start()
    code = await demo.ended(seconds=DEMO_SECONDS_MAX)
    assert code == 0, demo.text
    for type_ in TYPES:
        row = rf"^[0-9a-f-]{{36}}  {re.escape(type_)} +COMPLETED +\d+ "
        assert re.search(row, demo.text, re.MULTILINE), f"no row of {type_}:\n{demo.text}"
    for words in (
        "RETRY_SCHEDULED  ConnectionResetError",
        "headway.v1.default.dead holds 1 message",
        "headway.v1.JobService/SubmitJob",
        "└─ settle default",
    ):
        assert words in demo.text
    assert "\x1b" not in demo.text
    written = [path.suffix for path in demo.output.rglob("*") if path.is_file()]
    assert (written.count(".pdf"), written.count(".jpg"), written.count(".mp4")) == (1, 48, 1)


async def test_ctrl_c_stops_the_demo_with_130_at_any_moment(new_demo: Callable[[], Demo]) -> None:
    """While services start, and in the middle of jobs; two demos at once, to save time."""

    async def interrupted(demo: Demo, begun: Callable[[], bool]) -> None:
        await demo.start()
        await eventually(begun, what="the demo is far enough", seconds=60)
        demo.interrupt()
        assert await demo.ended(seconds=STOP_SECONDS_MAX) == 130, demo.text
        assert "nothing is left running" in demo.text
        assert "Traceback" not in demo.text

    starting, live = new_demo(), new_demo()
    await asyncio.gather(
        interrupted(starting, (starting.data / "rabbitmq.log").exists),
        interrupted(live, lambda: "video.transcode STARTED" in live.text),
    )
