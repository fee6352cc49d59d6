"""Payloads: what is stored, what is refused, and what comes back."""

import math
from typing import Any

import orjson
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from headway.v1 import (
    BatchSubmitJobsRequest,
    Job,
    JobEvent,
    Payload,
    SubmitJobRequest,
    WatchJobResponse,
)
from headway_core.content import CONTENT_BYTES_MAX, JSON_DEPTH_MAX, Content, ContentKind
from headway_server.payloads import PayloadRefused, from_content, to_content

WHOLE = 2**53


def struct(fields: dict[str, Any]) -> Struct:
    found = Struct()
    found.update(fields)
    return found


def nested(levels: int) -> dict[str, Any]:
    """An object so many levels deep."""
    found: dict[str, Any] = {}
    for _ in range(levels - 1):
        found = {"a": found}
    return found


def stored(fields: dict[str, Any]) -> Any:
    content = to_content(Payload(json=struct(fields)))
    assert content.kind is ContentKind.JSON
    return orjson.loads(content.data)


def test_whole_numbers_are_stored_as_integers() -> None:
    """A Struct has doubles only; a handler that is given 2026 wants an int."""
    found = stored({"year": 2026, "half": 0.5, "big": WHOLE, "huge": 1e300, "least": -WHOLE})
    assert found == {"year": 2026, "half": 0.5, "big": WHOLE, "huge": 1e300, "least": -WHOLE}
    assert {key: type(value) for key, value in found.items()} == {
        "year": int,
        "half": float,
        "big": int,
        "huge": float,
        "least": int,
    }


def test_every_kind_of_json_value_survives() -> None:
    """Empty containers, null and text with a NUL included: the store keeps bytes."""
    value: dict[str, Any] = {
        "null": None,
        "no": False,
        "text": "a\x00é",
        "list": [[], {}, [1, "x"]],
        "object": {},
    }
    assert stored(value) == value


def test_a_payload_of_no_kind_is_an_empty_object() -> None:
    """As payload.proto says."""
    assert to_content(Payload()) == Content(ContentKind.JSON, b"{}")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"a": {"b": [1, math.nan]}}, "json.a.b[1]"),
        ({"a": math.inf}, "json.a"),
        ({"a": [-math.inf]}, "json.a[0]"),
    ],
)
def test_numbers_that_json_cannot_say_are_refused(fields: dict[str, Any], path: str) -> None:
    """The path leads to the very value."""
    with pytest.raises(PayloadRefused) as refused:
        to_content(Payload(json=struct(fields)))
    assert refused.value.path == path


def test_a_value_without_a_kind_is_refused() -> None:
    """struct.proto calls its absence an error."""
    with pytest.raises(PayloadRefused) as refused:
        to_content(Payload(json=Struct(fields={"a": Value()})))
    assert refused.value.path == "json.a"


def test_depth_is_bounded_in_time_and_every_answer_can_hold_it() -> None:
    """Parsers stop at 100 message levels: the deepest payload taken must fit the deepest answer."""
    deepest = nested(JSON_DEPTH_MAX)
    content = to_content(Payload(json=struct(deepest)))
    assert orjson.loads(content.data) == deepest
    request = SubmitJobRequest(type="t", payload=Payload(json=struct(deepest)))
    batch = BatchSubmitJobsRequest(requests=[request])
    assert BatchSubmitJobsRequest.FromString(batch.SerializeToString()) == batch
    answer = WatchJobResponse(event=JobEvent(job=Job(result=from_content(content))))
    assert WatchJobResponse.FromString(answer.SerializeToString()) == answer
    with pytest.raises(PayloadRefused, match="28 levels"):
        to_content(Payload(json=struct(nested(JSON_DEPTH_MAX + 1))))


def test_the_size_that_counts_is_the_stored_one() -> None:
    """A Struct of numbers is five times its JSON."""
    content = to_content(Payload(data=b"x" * CONTENT_BYTES_MAX))
    assert content.kind is ContentKind.DATA
    with pytest.raises(PayloadRefused) as refused:
        to_content(Payload(data=b"x" * (CONTENT_BYTES_MAX + 1)))
    assert refused.value.path == "data"
    with pytest.raises(PayloadRefused) as refused:
        to_content(Payload(json=struct({"a": "x" * CONTENT_BYTES_MAX})))
    assert refused.value.path == "json"


def test_messages_and_bytes_come_back_as_they_were() -> None:
    """The Any still packed, the bytes untouched."""
    packed = AnyMessage()
    packed.Pack(Timestamp(seconds=7))
    for payload in (
        Payload(message=packed, content_type="x"),
        Payload(data=b"\x00\xff", content_type="image/png"),
        Payload(message=AnyMessage()),
        Payload(data=b""),
    ):
        back = from_content(to_content(payload))
        assert back == payload
        assert back.WhichOneof("kind") == payload.WhichOneof("kind")


def test_a_result_that_is_no_object_is_sent_as_json_bytes() -> None:
    """A Struct cannot hold it, and wrapping it would tell a lie."""
    back = from_content(Content(ContentKind.JSON, b"[1,2]"))
    assert back == Payload(data=b"[1,2]", content_type="application/json")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-WHOLE, WHOLE)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@example({"minus zero": -0.0})
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=4))
def test_any_json_object_survives_the_way_there_and_back(value: dict[str, Any]) -> None:
    """Through the wire, the store and the wire again, equal as JSON."""
    sent = Payload.FromString(Payload(json=struct(value)).SerializeToString())
    content = to_content(sent)
    assert orjson.loads(content.data) == value
    assert from_content(content) == sent
