"""Between Python values and `headway.v1.Payload`, which is used for payloads and results."""

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value

from headway.errors import InvalidRequest, Violation
from headway.jobs import Data, PayloadIn, PayloadOut
from headway.v1 import Payload

WHOLE_NUMBER_MAX = 2**53
"""JSON numbers are doubles: beyond this, whole numbers would silently change."""
DEPTH_MAX = 100
"""Stops a value that contains itself; the server's own limit is lower."""


def encode(value: PayloadIn) -> Payload | None:
    """A dict as JSON, bytes as they are, a message packed in an Any; None sends no payload.

    Raises InvalidRequest, naming the path, for what JSON cannot hold without loss.
    """
    match value:
        case None:
            return None
        case Payload():
            return value
        case AnyMessage():
            return Payload(message=value)
        case Struct():
            return Payload(json=value)
        case Message():
            packed = AnyMessage()
            packed.Pack(value)
            return Payload(message=packed)
        case Data():
            return Payload(data=bytes(value), content_type=value.content_type)
        case bytes() | bytearray() | memoryview():
            return Payload(data=bytes(value))
        case Mapping():
            struct = Struct()
            _fill(struct, value, "payload.json", 1)
            return Payload(json=struct)
    raise _refuse("payload", f"give a dict, bytes or a Protobuf message, not {_name(value)}")


def decode(payload: Payload) -> PayloadOut:
    """The inverse of `encode`; a message whose type is not known here stays an Any."""
    match payload.WhichOneof("kind"):
        case "json":
            return _dict(payload.json)
        case "data":
            return Data(payload.data, payload.content_type)
        case "message":
            return _unpack(payload.message)
    return {}  # an unset kind reads as an empty JSON object


def _fill(struct: Struct, mapping: Mapping[Any, object], path: str, depth: int) -> None:
    struct.SetInParent()
    if depth > DEPTH_MAX:
        raise _refuse("payload.json", f"is nested more than {DEPTH_MAX} levels deep")
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise _refuse(path, f"JSON keys are strings, not {_name(key)} ({key!r})")
        _check_text(key, path)
        _put(struct.fields[key], value, f"{path}.{key}", depth + 1)


def _put(target: Value, value: object, path: str, depth: int) -> None:
    match value:
        case None:
            target.null_value = NULL_VALUE
        case bool():
            target.bool_value = value
        case int():
            if abs(value) > WHOLE_NUMBER_MAX:
                raise _refuse(path, f"{value} is beyond ±2^53 and would change; send a string")
            target.number_value = value
        case float():
            if not math.isfinite(value):
                raise _refuse(path, f"JSON has no {value}")
            target.number_value = value
        case str():
            _check_text(value, path)
            target.string_value = value
        case Mapping():
            _fill(target.struct_value, value, path, depth)
        case list() | tuple():
            target.list_value.SetInParent()
            if depth > DEPTH_MAX:
                raise _refuse("payload.json", f"is nested more than {DEPTH_MAX} levels deep")
            for index, item in enumerate(value):
                _put(target.list_value.values.add(), item, f"{path}[{index}]", depth + 1)
        case _:
            raise _refuse(path, f"JSON has no {_name(value)}; send a string or a number")


def _check_text(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refuse(path, "is not Unicode text: it has half of a surrogate pair") from error


def _dict(struct: Struct) -> dict[str, object]:
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Value) -> object:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            whole = abs(number) <= WHOLE_NUMBER_MAX and number.is_integer()
            return int(number) if whole else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _dict(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
    return None


def _unpack(packed: AnyMessage) -> Message:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
        message = message_factory.GetMessageClass(descriptor)()
        packed.Unpack(message)
    except (KeyError, DecodeError):
        return packed
    return message


def _refuse(path: str, description: str) -> InvalidRequest:
    violation = Violation(field=path, description=description)
    return InvalidRequest(str(violation), (violation,))


def _name(value: object) -> str:
    return type(value).__name__
