"""Payloads arrive and results are stored as what they are, or not at all."""

import dataclasses
import json
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration

from headway_core.content import CONTENT_BYTES_MAX, Content, ContentKind
from headway_worker import PermanentError
from headway_worker.values import payload_value, result_content, step_content, stored_value


def test_a_payload_of_each_kind_reaches_the_handler() -> None:
    packed = AnyMessage()
    packed.Pack(Duration(seconds=5))
    message = Content(ContentKind.MESSAGE, packed.SerializeToString())
    assert payload_value(None) == {}
    assert payload_value(Content(ContentKind.JSON, b'{"n":2026}')) == {"n": 2026}
    assert payload_value(Content(ContentKind.DATA, b"\x00\xff")) == b"\x00\xff"
    arrived = payload_value(message)
    assert isinstance(arrived, AnyMessage)
    assert arrived == packed


def test_results_of_each_kind_are_stored() -> None:
    assert result_content(None) is None
    assert result_content({"a": [1, None, "x"]}) == Content(ContentKind.JSON, b'{"a":[1,null,"x"]}')
    assert result_content(bytearray(b"ab")) == Content(ContentKind.DATA, b"ab")
    stored = result_content(Duration(seconds=5))
    assert stored is not None
    assert stored.kind is ContentKind.MESSAGE
    unpacked = Duration()
    assert stored_value(stored).Unpack(unpacked)
    assert unpacked.seconds == 5


@dataclasses.dataclass
class Thing:
    number: int


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "is a list"),
        ("done", "is a str"),
        (12, "is a int"),
        (Thing(1), "is a Thing"),
        (object(), "is a object"),
        ({"at": float("nan")}, "at"),
        ({"at": {1: 2}}, "at"),
        ({"at": 2**60}, "at"),
        ({"at": {1, 2}}, "at"),
        ({"at": "\ud800"}, "at"),
        ({"big": "x" * CONTENT_BYTES_MAX}, "bytes"),
        (b"x" * (CONTENT_BYTES_MAX + 1), "bytes"),
    ],
)
def test_a_result_that_cannot_be_stored_is_refused_for_good(value: object, said: str) -> None:
    with pytest.raises(PermanentError, match=said):
        result_content(value)


def test_a_result_nested_in_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    with pytest.raises(PermanentError):
        result_content(value)


@pytest.mark.parametrize("value", [None, True, 1.5, "x", [1, [2]], {"a": 1}, b"\x00"])
def test_any_json_value_is_a_step_result(value: object) -> None:
    assert stored_value(step_content(value, step="s")) == value


def test_a_step_result_comes_back_as_it_was_stored() -> None:
    """The same in the run that computes it and in the next one."""
    assert stored_value(step_content((1, 2), step="s")) == json.loads("[1, 2]")


def test_a_refused_step_result_names_its_step() -> None:
    with pytest.raises(PermanentError, match="step 'fetch'"):
        step_content({1, 2}, step="fetch")
