"""The registry that `examples.app:jobs` names, and the README that speaks of it."""

import json
import re
from pathlib import Path

import pytest

from examples.app import jobs

README = Path(__file__).parents[2] / "examples" / "README.md"
ROWS = re.findall(r"^\| `([a-z.]+)`[^|]*\| `(\{.*?\})` \|", README.read_text(), re.MULTILINE)


def test_readme_has_a_row_for_every_type() -> None:
    assert sorted(type_ for type_, _ in ROWS) == sorted(jobs.handlers)


@pytest.mark.parametrize(("type_", "payload"), ROWS)
def test_payload_in_the_readme_has_only_fields_that_the_handler_knows(type_, payload) -> None:
    source = Path(jobs.handlers[type_].function.__code__.co_filename).read_text()
    assert all(f'"{name}"' in source or f"'{name}'" in source for name in json.loads(payload))


def test_handlers_run_where_their_work_belongs() -> None:
    """What blocks is a `def` in a thread, what computes is in a child process."""
    handlers = jobs.handlers
    assert not handlers["report.pdf"].is_async
    assert not handlers["image.thumbnails"].is_async
    assert handlers["airports.import"].is_async
    assert handlers["video.transcode"].is_async
    assert {type_ for type_ in handlers if handlers[type_].isolated} == {"demo.primes"}
    assert {type_ for type_ in handlers if handlers[type_].queue != "default"} == {
        "video.transcode"
    }
