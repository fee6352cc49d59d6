"""The thumbnails are real pictures of the sizes asked for, each made once."""

from pathlib import Path

import pytest
from PIL import Image

from examples import thumbnails
from headway_worker import PermanentError
from headway_worker.handler_errors import JobCancelled


def test_every_photograph_is_shrunk_to_every_width(context, files_left) -> None:
    ctx = context(blocking=True)
    result = thumbnails.thumbnails(ctx, {})
    pictures = len(thumbnails.PHOTOGRAPHS)
    assert result["pictures"] == pictures
    assert len(result["files"]) == len(files_left()) == 3 * pictures
    for file in result["files"]:
        with Image.open(file["path"]) as picture:
            picture.load()
            assert picture.format == "JPEG"
            assert picture.size == (file["width"], file["height"])
            assert file["width"] <= int(Path(file["path"]).stem.rpartition("-")[2])
        assert file["size_bytes"] == Path(file["path"]).stat().st_size
    assert ctx.progress_told == [(n, pictures) for n in range(pictures + 1)]


def test_shape_is_kept_and_nothing_is_enlarged(context) -> None:
    result = thumbnails.thumbnails(
        context(blocking=True), {"pictures": ["coffee"], "widths": [300, 2000]}
    )
    sizes = [(file["width"], file["height"]) for file in result["files"]]
    assert sizes == [(300, 200), (600, 400)]


def test_rerun_makes_only_the_missing_pictures(context, history) -> None:
    payload = {"pictures": ["coffee", "moon", "rocket"], "widths": [64]}
    first = context(blocking=True, lose_step="shrink moon")
    with pytest.raises(ConnectionAbortedError):
        thumbnails.thumbnails(first, payload)
    second = context(blocking=True, attempt=2)
    result = thumbnails.thumbnails(second, payload)
    assert first.steps_run == ["shrink coffee", "shrink moon"]
    assert second.steps_run == ["shrink moon", "shrink rocket"]
    assert [Path(file["path"]).name for file in result["files"]] == [
        "coffee-64.jpg",
        "moon-64.jpg",
        "rocket-64.jpg",
    ]


def test_cancelled_run_keeps_whole_pictures_only(context, files_left) -> None:
    ctx = context(blocking=True, cancel_when=lambda ctx: len(ctx.steps_run) == 2)
    with pytest.raises(JobCancelled):
        thumbnails.thumbnails(ctx, {"widths": [32]})
    assert files_left() == ["astronaut-32.jpg", "brick-32.jpg"]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"pictures": ["lena"]}, "pictures holds 'lena'; known are astronaut, brick"),
        ({"widths": [5]}, "widths is 5; expected a whole number from 16 to 2000"),
    ],
)
def test_bad_payload_is_permanent(context, payload, message) -> None:
    with pytest.raises(PermanentError, match=message):
        thumbnails.thumbnails(context(blocking=True), payload)
