"""Calls written frame by frame: client libraries compress soundly and send no broken frame."""

import re
import socket
import struct
from contextlib import suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4
STREAM = 1
FRAME_BYTES_MAX = 16_384
BODY_BYTES_MAX = 60_000
"""What the server takes before it has opened the window any further."""
PATIENCE_SECONDS = 20.0
STATUS = re.compile(rb"grpc-status[\x01-\x02]([0-9]{1,2})")
"""As gRPC writes it: HPACK's literal, with a length before the digits."""


def message(content: bytes, *, compressed: int, claims: int | None = None) -> bytes:
    """A message behind gRPC's five bytes; `claims` is the length they tell, if it is another."""
    return struct.pack("!BI", compressed, len(content) if claims is None else claims) + content


def call(
    target: str, path: str, body: bytes, *, encoding: str, seconds: float = PATIENCE_SECONDS
) -> tuple[int | None, bytes]:
    """Send one request on a connection of its own.

    Returns the gRPC status and all that came back; None if no status comes within so many seconds.
    """
    assert len(body) <= BODY_BYTES_MAX
    host, _, port = target.rpartition(":")
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": target,
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-encoding": encoding,
    }
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    frames = [_frame(SETTINGS, 0, b"", stream=0), _frame(HEADERS, END_HEADERS, block)]
    frames += [
        _frame(DATA, 0, body[start : start + FRAME_BYTES_MAX])
        for start in range(0, len(body), FRAME_BYTES_MAX)
    ]
    frames.append(_frame(DATA, END_STREAM, b""))
    with socket.create_connection((host, int(port)), seconds) as connection:
        connection.sendall(PREFACE + b"".join(frames))
        stream, back = connection.makefile("rb"), b""
        with suppress(TimeoutError):
            while len(head := stream.read(9)) == 9:
                kind, flags, number = struct.unpack("!BBI", head[3:])
                back += stream.read(int.from_bytes(head[:3], "big"))
                ended = kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM)
                if (ended and number == STREAM) or kind == GOAWAY:
                    break
    found = STATUS.search(back)
    return (int(found[1]) if found else None), back


def _text(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text.encode("latin-1")


def _frame(kind: int, flags: int, content: bytes, *, stream: int = STREAM) -> bytes:
    return len(content).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream) + content
