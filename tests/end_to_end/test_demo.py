"""`headway demo` and `headway dev`: they work, and however they end they leave nothing running."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headway.client import Client
from tests.end_to_end.foreground import Foreground

DEMO_SECONDS_MAX = 200.0
START_SECONDS_MAX = 100.0
STOP_SECONDS_MAX = 60.0
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

RunIn = Callable[..., Foreground]

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path: Path) -> Iterator[RunIn]:
    """Make commands that can run beside each other; nothing of them may be left at the end."""
    made: list[Foreground] = []

    def make(*arguments: str) -> Foreground:
        made.append(Foreground(*arguments, directory=tmp_path / str(len(made))))
        return made[-1]

    yield make
    assert [line for one in made for line in one.processes()] == []


async def test_the_demo_shows_it_all_in_time_and_leaves_nothing_but_its_files(
    command: RunIn,
) -> None:
    demo = command("demo")
    await demo.start()
    assert await demo.ended(seconds=DEMO_SECONDS_MAX) == 0, demo.text
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


async def test_ctrl_c_stops_the_demo_with_130_at_any_moment(command: RunIn) -> None:
    """While services start, and in the middle of jobs; two demos at once, to save time."""

    async def interrupted(demo: Foreground, begun: Callable[[], object]) -> None:
        await demo.start()
        await demo.until(begun, seconds=START_SECONDS_MAX)
        demo.interrupt()
        assert await demo.ended(seconds=STOP_SECONDS_MAX) == 130, demo.text
        assert "nothing is left running" in demo.text
        assert "Traceback" not in demo.text

    starting, live = command("demo"), command("demo")
    await asyncio.gather(
        interrupted(starting, (starting.data / "rabbitmq.log").exists),
        # A watch that begins a moment later is first told that it is RUNNING.
        interrupted(live, lambda: re.search(r"video\.transcode (STARTED|RUNNING)", live.text)),
    )


async def test_dev_runs_jobs_until_ctrl_c_which_it_ends_with_0(command: RunIn) -> None:
    """One line says `ready` and the addresses."""
    dev = command("dev", "--listen", "127.0.0.1:0", "--app", "tests.end_to_end.handlers:jobs")
    await dev.start()
    ready = await dev.until(
        lambda: re.search(r"^ready grpc=(\S+) ", dev.text, re.MULTILINE),
        seconds=START_SECONDS_MAX,
    )
    async with Client(ready[1]) as client:
        job = await client.submit("e2e.work", {"echo": "dev"})
        assert await client.result(job.id, timeout=60) == {"attempt": 1, "echo": "dev"}
    dev.interrupt()
    assert await dev.ended(seconds=STOP_SECONDS_MAX) == 0, dev.text
