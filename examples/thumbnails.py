"""Thumbnails of real photographs: a step per picture, so a re-run goes on where the last one was.

Pillow blocks, so the handler is a plain `def` and runs in a thread. A cancelled run ends at the
next step, which is where `ctx.step` looks.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from PIL import Image

from examples.fields import Fields
from examples.installed_data import installed_file
from examples.output import job_directory, written_whole
from headway_worker import Context, Jobs

jobs = Jobs()

PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "clock": "clock_motion.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "moon": "moon.png",
    "motorcycle-left": "motorcycle_left.png",
    "motorcycle-right": "motorcycle_right.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
    "tissue": "ihc.png",
}
"""The photographs that ship with scikit-image, by the name a payload may use."""
WIDTH_PIXELS_MAX = 2_000
WIDTHS_MAX = 8


@jobs.handler("image.thumbnails", timeout=timedelta(minutes=5))
def thumbnails(ctx: Context, payload: dict[str, object]) -> dict[str, object]:
    """Shrink `{"pictures": ["coffee"], "widths": [320]}`; all pictures in three widths if empty."""
    fields = Fields(payload, known=("pictures", "widths"))
    pictures = fields.choices("pictures", PHOTOGRAPHS)
    widths = fields.integers(
        "widths",
        default=[160, 320, 480],
        minimum=16,
        maximum=WIDTH_PIXELS_MAX,
        length_max=WIDTHS_MAX,
    )

    directory = job_directory(ctx)
    files: list[dict[str, object]] = []
    for done, name in enumerate(pictures):
        ctx.progress(done, len(pictures), step="shrink", message=name)
        source = installed_file("skimage", f"data/{PHOTOGRAPHS[name]}")
        files += ctx.step(f"shrink {name}", shrink, source, directory, widths)
    ctx.progress(len(pictures), len(pictures), step="shrink")
    return {"pictures": len(pictures), "files": files}


def shrink(source: Path, directory: Path, widths: Sequence[int]) -> list[dict[str, object]]:
    """Write one JPEG per width, never larger than the original; returns what was written."""
    files: list[dict[str, object]] = []
    with Image.open(source) as original:
        picture = original.convert("RGB")
    for width in widths:
        thumbnail = picture.copy()
        # Only the width binds: the height may be anything up to that of the original.
        thumbnail.thumbnail((width, picture.height), Image.Resampling.LANCZOS)
        path = directory / f"{source.stem}-{width}.jpg"
        with written_whole(path) as partial:
            thumbnail.save(partial, quality=85, optimize=True)
        files.append(
            {
                "path": str(path),
                "width": thumbnail.width,
                "height": thumbnail.height,
                "size_bytes": path.stat().st_size,
            }
        )
    return files
