"""The bytes of AMQP 0-9-1's frames, where going through pamqp's objects costs too much.

Section 4.2 of https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf.
"""

import struct
from typing import Final

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEAD: Final = struct.Struct(">BHI")
"""Type, channel, and the length of what follows, which END closes."""
END: Final = 0xCE

BASIC: Final = 60
METHOD_NAME: Final = struct.Struct(">HH")
"""Class and method; the arguments follow."""
DELIVER: Final = METHOD_NAME.pack(BASIC, 60)
DELIVERY_TAG: Final = struct.Struct(">Q")
CONTENT: Final = struct.Struct(">HHQ")
"""Class, 0, and the size of the body; flags and values of the properties follow."""


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Write one frame."""
    return b"%b%b%c" % (HEAD.pack(kind, channel, len(payload)), payload, END)
