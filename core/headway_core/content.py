"""Payloads and results as they are stored: a kind, bytes, a media type."""

import re
from enum import IntEnum
from math import isfinite
from typing import Final, NamedTuple

import orjson

from headway_core.errors import ContentRefused

CONTENT_BYTES_MAX: Final = 262_144
JSON_MEDIA_TYPE: Final = "application/json"
JSON_DEPTH_MAX: Final = 28
"""A JSON object costs three message levels in a Struct, and Protobuf parsers stop at 100."""
WHOLE_NUMBER_MAX: Final = 2**53

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class ContentKind(IntEnum):
    """What the bytes are."""

    JSON = 1
    """UTF-8 JSON text."""
    MESSAGE = 2
    """A serialised `google.protobuf.Any`."""
    DATA = 3
    """Raw bytes."""


class Content(NamedTuple):
    """A payload or a result, at most CONTENT_BYTES_MAX bytes."""

    kind: ContentKind
    data: bytes
    content_type: str = ""


def json_content(value: object) -> Content:
    """Encode a JSON value.

    Raises ContentRefused, saying which part and why: not a JSON type, a key that is no string, NaN
    or infinity, a whole number beyond 2^53, text that is no Unicode, more than JSON_DEPTH_MAX
    levels, or more than CONTENT_BYTES_MAX bytes.
    """
    _check(value, "$", 0)
    return checked_size(Content(ContentKind.JSON, orjson.dumps(value)))


def checked_size(content: Content) -> Content:
    """Return the content, or raise ContentRefused if it is too large to be stored."""
    if len(content.data) > CONTENT_BYTES_MAX:
        raise ContentRefused(
            f"is {len(content.data)} bytes; at most {CONTENT_BYTES_MAX} are stored"
        )
    return content


def storable_text(text: str, bytes_max: int) -> str:
    """Make text fit a Postgres column: no NUL, no lone surrogate, at most `bytes_max` of UTF-8."""
    clean = _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text[: bytes_max + 1])
    encoded = clean.encode()
    if len(encoded) <= bytes_max:
        return clean
    return encoded[:bytes_max].decode(errors="ignore")


def _check(value: object, path: str, depth: int) -> None:
    match value:
        case None | bool():
            return
        case str():
            if not value.isascii() and re.search("[\ud800-\udfff]", value):
                raise ContentRefused(f"{path} is not valid Unicode text")
        case int():
            if abs(value) > WHOLE_NUMBER_MAX:
                raise ContentRefused(f"{path} is a whole number beyond 2^53; send it as text")
        case float():
            if not isfinite(value):
                raise ContentRefused(f"{path} is {value}, which JSON cannot say")
        case dict() | list() | tuple():
            _check_inside(value, path, depth)
        case _:
            raise ContentRefused(f"{path} is a {type(value).__name__}, which is not JSON")


def _check_inside(
    value: dict[object, object] | list[object] | tuple[object, ...], path: str, depth: int
) -> None:
    if depth >= JSON_DEPTH_MAX:
        raise ContentRefused(f"is nested deeper than {JSON_DEPTH_MAX} levels")
    if not isinstance(value, dict):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]", depth + 1)
        return
    for key, item in value.items():
        if not isinstance(key, str):
            raise ContentRefused(f"{path} has the key {key!r:.40}; keys are text")
        _check(key, f"{path} key", depth)
        _check(item, f"{path}.{key}", depth + 1)
