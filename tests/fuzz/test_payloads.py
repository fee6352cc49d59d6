"""Payloads at the bounds of what is taken: a worker gets them and gives them back as they were."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import Data, InvalidRequest, JobState, v1
from headway_core.content import CONTENT_BYTES_MAX, JSON_DEPTH_MAX
from tests.fuzz.effort import effort, thrown
from tests.fuzz.live import Live

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
"""NUL among them: payloads are bytes to Postgres."""
NUMBERS = st.one_of(
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0),
)
JSON = st.dictionaries(
    TEXTS,
    st.recursive(
        st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)
        ),
        max_leaves=20,
    ),
    max_size=6,
)
WITHOUT_TEXT_BYTES = len(orjson.dumps({"a": ""}))


def deep(levels: int) -> dict[str, object]:
    """So many objects, each inside the last."""
    found: dict[str, object] = {}
    for _ in range(levels - 1):
        found = {"\0": found}
    return found


LARGEST = {
    "text": {"a": "x" * (CONTENT_BYTES_MAX - WITHOUT_TEXT_BYTES)},
    "keys": {f"{number:06}": None for number in range(18_000)},
    "numbers": {"a": list(range(40_000))},
    "NUL": {"\0": "\0" * 40_000},
    "depth": deep(JSON_DEPTH_MAX),
    "bytes": Data(bytes(range(256)) * 1024),
    "no bytes": Data(b""),
    "a type that is odd": Data(b"\0", content_type="é" * 256),
}
TOO_LARGE = {
    "text": {"a": "x" * (CONTENT_BYTES_MAX - WITHOUT_TEXT_BYTES + 1)},
    "depth": deep(JSON_DEPTH_MAX + 1),
    "bytes": Data(bytes(CONTENT_BYTES_MAX + 1)),
}


def check_handed_back(live: Live, payload: object) -> None:
    thrown["payloads"] += 1
    job = live.wait(live.client.submit("hand_back", payload))
    assert job.state is JobState.COMPLETED, job.error
    assert job.payload == payload
    assert job.result == payload


@pytest.mark.parametrize("payload", LARGEST.values(), ids=LARGEST)
def test_the_largest_payloads_come_back(live: Live, payload: object) -> None:
    check_handed_back(live, payload)


@pytest.mark.parametrize("payload", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_little_more_is_refused(live: Live, payload: object) -> None:
    """Or else the largest would not be the largest."""
    with pytest.raises(InvalidRequest):
        live.client.submit("hand_back", payload)


@effort(15)
@given(payload=st.one_of(JSON, st.binary(max_size=300).map(Data)))
def test_payloads_of_any_kind_come_back(live: Live, payload: object) -> None:
    check_handed_back(live, payload)


def test_a_message_of_an_unknown_type_comes_back(live: Live) -> None:
    payload = v1.Payload()
    payload.message.type_url = "type.example/" + "é" * 100
    payload.message.value = bytes(range(256))
    job = live.wait(live.client.submit("hand_back", payload))
    assert job.result == payload.message


@pytest.fixture(autouse=True)
def _logs(live: Live):
    live.skip_logs()
    yield
    live.check_logs()
