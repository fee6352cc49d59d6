"""Payloads and results, as handlers see them and as they are stored."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from headway_core.content import Content, ContentKind, checked_size, json_content
from headway_core.errors import ContentRefused
from headway_core.stacks import class_of
from headway_worker.handler_errors import PermanentError


def payload_value(payload: Content | None) -> Any:
    """What a handler gets: JSON as Python values, data as bytes, a message as its Any.

    A job without a payload has an empty JSON object.
    """
    return {} if payload is None else stored_value(payload)


def stored_value(content: Content) -> Any:
    """Decode content."""
    match content.kind:
        case ContentKind.JSON:
            return orjson.loads(content.data)
        case ContentKind.DATA:
            return content.data
        case ContentKind.MESSAGE:
            from google.protobuf.any_pb2 import Any as AnyMessage

            return AnyMessage.FromString(content.data)


def result_content(value: object) -> Content | None:
    """Encode what a handler returned: a dict, bytes, a Protobuf message, or None for nothing.

    Raises PermanentError for anything else, as running the job again would end the same way.
    """
    with _read_safely("the result"):
        match value:
            case None:
                return None
            case dict():
                return _encoded(value, "the result")
            case _ if (content := _binary(value, "the result")) is not None:
                return content
            case _:
                raise PermanentError(
                    f"the result is a {type(value).__name__}; "
                    "a dict, bytes, a Protobuf message or None can be stored"
                )


def step_content(value: object, *, step: str) -> Content:
    """Encode what a step returned: any JSON value, bytes, or a Protobuf message.

    Raises PermanentError for anything else.
    """
    subject = f"the result of step {step!r}"
    with _read_safely(subject):
        return _binary(value, subject) or _encoded(value, subject)


@contextmanager
def _read_safely(subject: str) -> Iterator[None]:
    """Turn whatever a class of user code's own raises when it is looked into."""
    try:
        yield
    except PermanentError:
        raise
    except Exception as error:
        raise PermanentError(f"{subject} cannot be read: {class_of(error)}") from error


def _binary(value: object, subject: str) -> Content | None:
    if isinstance(value, bytes | bytearray | memoryview):
        return _sized(Content(ContentKind.DATA, bytes(value)), subject)
    if isinstance(value, dict | list | tuple | str | int | float | None):
        return None  # before Protobuf is imported for nothing
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.message import Message

    if not isinstance(value, Message):
        return None
    packed = value if isinstance(value, AnyMessage) else AnyMessage()
    if packed is not value:
        packed.Pack(value)
    return _sized(
        Content(ContentKind.MESSAGE, packed.SerializeToString(deterministic=True)), subject
    )


def _encoded(value: object, subject: str) -> Content:
    try:
        return json_content(value)
    except ContentRefused as error:
        raise PermanentError(f"{subject} cannot be stored: {error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise PermanentError(f"{subject} is not JSON: {error}") from error


def _sized(content: Content, subject: str) -> Content:
    try:
        return checked_size(content)
    except ContentRefused as error:
        raise PermanentError(f"{subject} cannot be stored: {error}") from error
