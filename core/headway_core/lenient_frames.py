"""Frames with contents that pamqp cannot read, from whoever may publish to one of our queues.

The broker passes on properties that its own parser takes: text that is not UTF-8, times beyond the
calendar, tables nested a thousand levels deep. pamqp raises for them, and aiormq then gives up the
whole connection: the broker would deliver the message again, to the next connection, for ever. So
such text is read with replacement characters, and properties that still cannot be read become
UNREADABLE, which lets the message arrive and be refused on its own.
"""

from typing import Any, Final

from pamqp import decode
from pamqp.commands import Basic
from pamqp.header import ContentHeader

UNREADABLE: Final = "x-headway-unreadable"
"""The header that stands for all properties of a message, its value being the reason."""
DEATHS: Final = "x-death"
"""The header in which RabbitMQ tells why a message was moved to a dead queue, and from where."""
_DEATHS: Final = bytes([len(DEATHS)]) + DEATHS.encode()
_LIST_OF_DEATHS: Final = _DEATHS + b"A"

_read_header = ContentHeader.unmarshal


def install() -> None:
    """Read leniently from now on, in the whole process. Harmless a second time."""
    decode.METHODS["shortstr"] = _short_text
    ContentHeader.unmarshal = _unmarshal  # type: ignore[method-assign]


def _unmarshal(self: ContentHeader, data: bytes) -> None:
    # Class, weight and size come first, and are set when the properties fail.
    try:
        _read_header(self, data)
        if data.count(_DEATHS) > 1:  # of two, the broker takes the first and pamqp the last
            raise ValueError
    except (ValueError, OverflowError, OSError, RecursionError, ArithmeticError) as error:
        headers: dict[str, Any] = {UNREADABLE: type(error).__name__}
        if _LIST_OF_DEATHS in data:
            headers[DEATHS] = [headers[UNREADABLE]]  # it may be anything: none that is sound
        self.properties = Basic.Properties(headers=headers)


def _short_text(value: bytes) -> tuple[int, str]:
    length = value[0]
    return length + 1, value[1 : length + 1].decode(errors="replace")
