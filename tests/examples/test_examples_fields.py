"""A payload that cannot be right is refused in a sentence that says what to change."""

import pytest

from examples.fields import Fields
from headway_worker import PermanentError


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x00", "the payload is bytes; expected a JSON object"),
        (None, "the payload is NoneType; expected a JSON object"),
        ({"contry": "FR"}, "unknown field 'contry'; known are country, limit"),
    ],
)
def test_payload_of_another_shape_is_refused(payload: object, message: str) -> None:
    with pytest.raises(PermanentError, match=message):
        Fields(payload, known=("country", "limit"))


@pytest.mark.parametrize("value", [0, 11, -1, True, 2.5, "3", None, [3]])
def test_number_out_of_bounds_or_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(PermanentError, match=r"limit is .*; expected a whole number from 1 to 10"):
        Fields({"limit": value}, known=("limit",)).integer(
            "limit", default=1, minimum=1, maximum=10
        )


@pytest.mark.parametrize("value", [None, "", 3, ["FR"]])
def test_missing_or_empty_text_is_refused(value: object) -> None:
    with pytest.raises(PermanentError, match=r"country is .*; expected a text"):
        Fields({"country": value}, known=("country",)).text("country")


@pytest.mark.parametrize("value", [[], "coffee", [1] * 4, {}])
def test_list_of_a_wrong_length_or_kind_is_refused(value: object) -> None:
    with pytest.raises(PermanentError, match=r"sizes is .*; expected a list of 1 to 3"):
        Fields({"sizes": value}, known=("sizes",)).integers(
            "sizes", default=[1], minimum=1, maximum=9, length_max=3
        )


def test_unknown_choice_is_refused_with_the_known_ones() -> None:
    fields = Fields({"preset": "fastest", "pictures": [["a"], "b"]}, known=("preset", "pictures"))
    with pytest.raises(PermanentError, match="preset is 'fastest'; expected one of fast, slow"):
        fields.choice("preset", ("fast", "slow"), default="fast")
    with pytest.raises(PermanentError, match=r"pictures holds \['a'\]; known are a, b"):
        fields.choices("pictures", ("a", "b"))


def test_absent_fields_take_their_defaults() -> None:
    fields = Fields({}, known=("width", "preset", "pictures"))
    assert fields.integer("width", default=640, minimum=64, maximum=1920) == 640
    assert fields.choice("preset", ("fast", "slow"), default="slow") == "slow"
    assert fields.choices("pictures", ("a", "b")) == ["a", "b"]


def test_repeated_choices_count_once() -> None:
    assert Fields({"p": ["b", "a", "b"]}, known=("p",)).choices("p", ("a", "b")) == ["b", "a"]
