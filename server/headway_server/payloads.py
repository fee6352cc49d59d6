"""`headway.v1.Payload` to the core's Content, and back.

A Struct knows only doubles. The walk here gives whole numbers up to 2^53 back as integers, which is
what handlers expect, and refuses what JSON cannot say.
"""

from math import copysign, isfinite
from typing import TYPE_CHECKING, Final

import orjson
from google.protobuf.struct_pb2 import NULL_VALUE

from headway.v1 import Payload
from headway_core.content import (
    CONTENT_BYTES_MAX,
    JSON_DEPTH_MAX,
    JSON_MEDIA_TYPE,
    WHOLE_NUMBER_MAX,
    Content,
    ContentKind,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.struct_pb2 import Struct, Value

KEY_CHARACTERS_SHOWN: Final = 40


class PayloadRefused(Exception):
    """A payload that cannot be stored: `path` within it, and `description`, what it must be."""

    def __init__(self, part: str, description: str) -> None:
        super().__init__(description)
        self.description = description
        self._parts = [part]

    @property
    def path(self) -> str:
        """Which part, as `json.rows[3].width`."""
        return "".join(reversed(self._parts))

    def within(self, part: str) -> None:
        """Note one level further out, while the exception passes through it."""
        self._parts.append(part)


def to_content(payload: Payload) -> Content:
    """What is stored for a payload; an unset kind is an empty object. Raises PayloadRefused."""
    match payload.WhichOneof("kind"):
        case "message":
            # Deterministic, so that the same request stores the same bytes.
            kind = ContentKind.MESSAGE
            data = payload.message.SerializePartialToString(deterministic=True)
        case "data":
            kind, data = ContentKind.DATA, payload.data
        case _:
            kind, data = ContentKind.JSON, _json(payload.json)
    if len(data) > CONTENT_BYTES_MAX:
        raise PayloadRefused(
            payload.WhichOneof("kind") or "json",
            f"must have at most {CONTENT_BYTES_MAX} bytes as it is stored, has {len(data)}",
        )
    return Content(kind, data, payload.content_type)


def from_content(content: Content) -> Payload:
    """The payload for what is stored.

    JSON that is no object, which a Struct cannot hold, is sent as `data` of type application/json.
    """
    payload = Payload(content_type=content.content_type)
    match content.kind:
        case ContentKind.JSON:
            value = orjson.loads(content.data)
            if isinstance(value, dict):
                payload.json.SetInParent()
                _fill(payload.json, value)
            else:
                payload.data = content.data
                payload.content_type = JSON_MEDIA_TYPE
        case ContentKind.MESSAGE:
            payload.message.SetInParent()
            payload.message.MergeFromString(content.data)
        case ContentKind.DATA:
            payload.data = content.data
    return payload


def _json(struct: "Struct") -> bytes:
    try:
        return orjson.dumps(_object(struct, 1))
    except PayloadRefused as refused:
        refused.within("json")
        raise


def _object(struct: "Struct", depth: int) -> dict[str, object]:
    if depth > JSON_DEPTH_MAX:
        raise PayloadRefused("", f"must be at most {JSON_DEPTH_MAX} levels deep")
    plain: dict[str, object] = {}
    for key, value in struct.fields.items():
        try:
            plain[key] = _plain(value, depth)
        except PayloadRefused as refused:
            refused.within(f".{key[:KEY_CHARACTERS_SHOWN]}")
            raise
    return plain


def _list(values: "Sequence[Value]", depth: int) -> list[object]:
    if depth > JSON_DEPTH_MAX:
        raise PayloadRefused("", f"must be at most {JSON_DEPTH_MAX} levels deep")
    plain: list[object] = []
    for index, value in enumerate(values):
        try:
            plain.append(_plain(value, depth))
        except PayloadRefused as refused:
            refused.within(f"[{index}]")
            raise
    return plain


def _plain(value: "Value", depth: int) -> object:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            if number.is_integer() and abs(number) <= WHOLE_NUMBER_MAX:
                # An integer has no -0.
                return int(number) if number or copysign(1, number) > 0 else number
            if not isfinite(number):
                raise PayloadRefused("", "must be a finite number")
            return number
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case "struct_value":
            return _object(value.struct_value, depth + 1)
        case "list_value":
            return _list(value.list_value.values, depth + 1)
        case None:
            raise PayloadRefused("", "must have a kind")


def _fill(struct: "Struct", plain: dict[str, object]) -> None:
    for key, item in plain.items():
        _set(struct.fields[key], item)


def _set(value: "Value", item: object) -> None:
    match item:
        case str():
            value.string_value = item
        case bool():  # before int, which it is as well
            value.bool_value = item
        case int() | float():
            value.number_value = item
        case None:
            value.null_value = NULL_VALUE
        case dict():
            value.struct_value.SetInParent()  # an empty one is set, too
            _fill(value.struct_value, item)
        case list():
            value.list_value.SetInParent()
            for entry in item:
                _set(value.list_value.values.add(), entry)
        case _:
            raise AssertionError(f"JSON gave a {type(item).__name__}")
