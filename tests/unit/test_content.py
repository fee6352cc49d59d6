"""What can be stored, and how it is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_core.content import CONTENT_BYTES_MAX, JSON_DEPTH_MAX, json_content, storable_text
from headway_core.errors import ContentRefused


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({"a": float("nan")}, r"\$\.a is nan"),
        ({"a": [1, float("inf")]}, r"\$\.a\[1\] is inf"),
        ({"a": 2**53 + 1}, "beyond 2"),
        ({1: "a"}, "keys are text"),
        ({"a": {1, 2}}, "is a set"),
        ({"a": b"x"}, "is a bytes"),
        ({"a": "\ud800"}, "not valid Unicode"),
        ({"\ud800": 1}, "not valid Unicode"),
        (nested(JSON_DEPTH_MAX + 1), "deeper"),
        (nested(5000), "deeper"),
        ("x" * CONTENT_BYTES_MAX, "bytes"),
    ],
)
def test_what_cannot_be_stored_is_refused_precisely(value: object, word: str) -> None:
    """The message says which part and why."""
    with pytest.raises(ContentRefused, match=word):
        json_content(value)


def test_the_bounds_themselves_are_accepted() -> None:
    """28 levels, 2^53, and exactly the largest size."""
    json_content(nested(JSON_DEPTH_MAX))
    json_content([2**53, -(2**53), 1.5, None, True, "ü\x00"])
    json_content("x" * (CONTENT_BYTES_MAX - 2))


@given(st.text(max_size=300), st.integers(1, 64))
def test_storable_text_always_fits(text: str, bytes_max: int) -> None:
    """No NUL, no lone surrogate, no half character, no more than the bound."""
    stored = storable_text(text, bytes_max)
    assert len(stored.encode()) <= bytes_max
    assert "\x00" not in stored
