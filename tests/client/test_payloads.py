"""Payloads keep their meaning on the way to a message and back."""

import copy
import pickle

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as some

from headway import Data, InvalidRequest, v1
from headway.payloads import decode, encode

JSON = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-(2**53), 2**53)
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(alphabet=some.characters(codec="utf-8")),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(alphabet="abc."), inner),
    max_leaves=20,
)


@settings(max_examples=50)
@given(some.dictionaries(some.text(alphabet="abc"), JSON))
def test_json_comes_back_equal(value: dict[str, object]) -> None:
    message = encode(value)
    assert message is not None
    assert decode(v1.Payload.FromString(message.SerializeToString())) == value


@pytest.mark.parametrize("number", [0, 1, -1, 2**53, -(2**53)])
def test_whole_numbers_come_back_as_int(number: int) -> None:
    message = encode({"n": number})
    assert message is not None
    payload = decode(message)
    assert isinstance(payload, dict)
    assert type(payload["n"]) is int


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": {"b": [1, 2**53 + 1]}}, "payload.json.a.b[1]"),
        ({"a": float("nan")}, "payload.json.a"),
        ({"a": float("inf")}, "payload.json.a"),
        ({"a": b"bytes"}, "payload.json.a"),
        ({"a": {1: 2}}, "payload.json.a"),
        ({"a": {1, 2}}, "payload.json.a"),
        ([1], "payload"),
        ("text", "payload"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_path(value: object, path: str) -> None:
    """Silently changed data is worse than an error."""
    with pytest.raises(InvalidRequest) as caught:
        encode(value)  # type: ignore[arg-type]
    assert caught.value.violations[0].field == path


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: dict[str, object] = {}
    loop["again"] = loop
    with pytest.raises(InvalidRequest, match="nested"):
        encode(loop)
    chain: list[object] = []
    chain.append(chain)
    with pytest.raises(InvalidRequest, match="nested"):
        encode({"a": chain})


def test_messages_of_the_contract_are_taken_as_they_are() -> None:
    ready = v1.Payload(data=b"x", content_type="a/b")
    assert encode(ready) is ready
    struct = Struct()
    struct["a"] = 1
    encoded = encode(struct)
    assert encoded is not None
    assert decode(encoded) == {"a": 1}


def test_a_message_of_an_unknown_type_stays_an_any() -> None:
    packed = Any(type_url="type.googleapis.com/not.known.Here", value=b"\x08\x01")
    encoded = encode(packed)
    assert encoded is not None
    assert decode(encoded) == packed


def test_an_unset_kind_is_an_empty_object() -> None:
    assert decode(v1.Payload()) == {}
    assert encode(None) is None


def test_data_is_bytes_with_a_media_type() -> None:
    data = Data(b"abc", "text/plain")
    assert data == b"abc"
    for copied in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert (copied, copied.content_type) == (b"abc", "text/plain")
