"""Bytes of Protobuf requests: well formed, half formed and hostile, written without a library."""

import struct
from collections.abc import Mapping, Sequence

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = 0, 1, 2, 3, 4, 5
FIELDS_MAX = 6
DEPTH_MAX = 5

NUMBERS = (0, 1, 2, 9, 10, 33, 1001, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, -1, -(2**63))
DOUBLES = (
    0.0,
    -0.0,
    0.5,
    1.0,
    -1.0,
    1e308,
    5e-324,
    2.0**53,
    2.0**53 + 2,
    *map(float, ("nan", "inf", "-inf")),
)
TEXTS = (
    "",
    "a",
    "default",
    "report.pdf",
    "A",
    "a b",
    "../etc",
    "%s%n",
    "'; DROP TABLE jobs; --",
    "\0",
    "a\0b",
    "é",
    "\u202e",
    "\ufeff",
    "\U0001f600" * 65,
    "x" * 65,
    "x" * 129,
    "x" * 257,
    "x" * 1025,
    "\r\n",
    "{}",
    "NaN",
)
NOT_UTF8 = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"abc\xe2\x82")
INTEGERS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_BOOL,
    FieldDescriptor.TYPE_ENUM,
}


def varint(number: int) -> bytes:
    """A number as a varint; a negative one takes ten bytes."""
    number &= 2**64 - 1
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def tag(number: int, wire_type: int) -> bytes:
    """The tag of a field."""
    return varint(number << 3 | wire_type)


def delimited(number: int, content: bytes) -> bytes:
    """A field with a length."""
    return tag(number, LENGTH) + varint(len(content)) + content


def requests(descriptor: Descriptor, good: Mapping[str, Sequence[str]]) -> st.SearchStrategy[bytes]:
    """Messages whose fields are each right, out of bounds, or of another wire type.

    `good` has values for fields of these names that may get further than the first check.
    """
    return _message(descriptor, good, DEPTH_MAX)


def mutated(messages: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The same, cut off, with bytes changed, added, repeated."""
    return st.builds(
        _mutate,
        messages,
        st.sampled_from(("cut", "flip", "insert", "repeat", "swallow")),
        st.integers(0, 2**16),
        st.binary(min_size=1, max_size=8),
    )


def nested(depth: int, *, kind: str) -> bytes:
    """A SubmitJobRequest whose payload is nested so deep, in one of several ways."""
    if kind == "group":
        return tag(1, START_GROUP) * depth + tag(1, END_GROUP) * depth
    if kind == "open group":
        return tag(99, START_GROUP) * depth
    content = b""
    for _ in range(depth):
        match kind:
            case "struct":  # Value{struct_value{fields{key, value}}}
                content = delimited(5, delimited(1, delimited(1, b"k") + delimited(2, content)))
            case "list":  # Value{list_value{values}}
                content = delimited(6, delimited(1, content))
            case "unknown":
                content = delimited(77, content)
    json = delimited(1, delimited(1, b"k") + delimited(2, content))
    payload = content if kind == "unknown" else delimited(1, json)
    return delimited(1, b"fuzz.deep") + delimited(3, payload)


NESTINGS = ("struct", "list", "unknown", "group", "open group")


def _message(
    descriptor: Descriptor, good: Mapping[str, Sequence[str]], depth: int
) -> st.SearchStrategy[bytes]:
    if descriptor.full_name == "google.protobuf.Any":
        return st.builds(delimited, st.just(2), st.binary(max_size=20))
    known = [
        _field(field, good, depth) for field in descriptor.fields if depth or not field.message_type
    ]
    fields = st.one_of(*known, _stray()) if not known else st.one_of(*known, *known, _stray())
    return st.lists(fields, max_size=FIELDS_MAX).map(b"".join)


def _field(
    field: FieldDescriptor, good: Mapping[str, Sequence[str]], depth: int
) -> st.SearchStrategy[bytes]:
    number = field.number
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        inner = st.deferred(lambda: _message(field.message_type, good, depth - 1))
        return st.one_of(inner, inner, inner, st.binary(max_size=8)).map(
            lambda content: delimited(number, content)
        )
    if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        texts = st.one_of(
            st.sampled_from([text.encode() for text in good.get(field.name, ("a",))]),
            st.sampled_from([text.encode() for text in TEXTS]),
            st.text(max_size=12).map(str.encode),
            st.sampled_from(NOT_UTF8),
        )
        return texts.map(lambda content: delimited(number, content))
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return st.one_of(st.sampled_from(DOUBLES), st.floats()).map(
            lambda value: tag(number, FIXED64) + struct.pack("<d", value)
        )
    assert field.type in INTEGERS, field.full_name
    numbers = st.one_of(st.integers(0, 12), st.sampled_from(NUMBERS))
    return numbers.map(lambda value: tag(number, VARINT) + varint(value))


def _stray() -> st.SearchStrategy[bytes]:
    """Fields that are unknown, or known by another wire type."""
    return st.builds(
        lambda number, wire_type, content: (
            tag(number, wire_type) + (delimited(1, content)[1:] if wire_type == LENGTH else content)
        ),
        st.one_of(st.integers(1, 12), st.sampled_from((0, 15, 16, 19_000, 2**29 - 1))),
        st.integers(0, 7),
        st.binary(min_size=8, max_size=8),
    )


def _mutate(message: bytes, how: str, position: int, content: bytes) -> bytes:
    at = position % (len(message) + 1)
    match how:
        case "cut":
            return message[:at]
        case "flip":
            return message[:at] + content + message[at + len(content) :]
        case "insert":
            return message[:at] + content + message[at:]
        case "repeat":
            return message + message[at:] * 3
        case _:  # one more field that claims to be longer than all the rest
            return message + tag(3, LENGTH) + varint(2**31 - 1 - position) + content
