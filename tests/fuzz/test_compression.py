"""Compressed requests: broken ones and bombs are refused by gRPC itself, in a few MiB of memory."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import wire
from tests.fuzz.attacked import PYTHON_TEXT, RECEIVE_BYTES_MAX, SERVICE, Attacked
from tests.fuzz.effort import effort, thrown
from tests.fuzz.raw_http2 import PATIENCE_SECONDS, call, message

OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 8, 12, 13
BY_GRPC = (b"Decompression failed", b"Error parsing 'grpc-encoding'", b"Compression bit set")
ODD_ENCODING = "Error parsing 'grpc-encoding' metadata"
GROWTH_BYTES_MAX = 32 * 2**20
UNANSWERED_SECONDS = 0.3
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
REQUEST = wire.delimited(1, b"fuzz.one") + wire.delimited(2, b"default")


def throw(
    attacked: Attacked,
    body: bytes,
    *,
    encoding: str,
    method: str = "SubmitJob",
    seconds: float = PATIENCE_SECONDS,
) -> int | None:
    """Send it; what is refused changed nothing."""
    thrown["calls, compressed"] += 1
    status, back = call(
        attacked.target, f"/{SERVICE}/{method}", body, encoding=encoding, seconds=seconds
    )
    text = back.decode(errors="replace").replace(ODD_ENCODING, "")
    assert not PYTHON_TEXT.search(text), back
    if status == OK:
        attacked.rest()
    else:
        assert status != INTERNAL or any(text in back for text in BY_GRPC), back
        attacked.check_unchanged()
    return status


@pytest.mark.parametrize("encoding", COMPRESS)
@effort(25)
@given(raw=st.data())
def test_compressed_requests_with_changed_bytes(attacked, encoding, raw) -> None:
    content = raw.draw(wire.mutated(st.just(COMPRESS[encoding](REQUEST))))
    status = throw(attacked, message(content, compressed=1), encoding=encoding)
    assert status in {OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, INTERNAL}


@pytest.mark.parametrize("encoding", COMPRESS)
def test_a_sound_compressed_request_is_taken(attacked, encoding) -> None:
    """Or else the others would say nothing."""
    content = message(COMPRESS[encoding](REQUEST), compressed=1)
    assert throw(attacked, content, encoding=encoding) == OK


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("method", ["SubmitJob", "WatchJob"])
def test_bombs_cost_little_memory(attacked, encoding, method) -> None:
    before = peak_bytes(attacked.server.record.pid)
    bomb = COMPRESS[encoding](bytes(RECEIVE_BYTES_MAX * 9))
    body = message(bomb, compressed=1)
    assert throw(attacked, body, encoding=encoding, method=method) == RESOURCE_EXHAUSTED
    assert peak_bytes(attacked.server.record.pid) - before < GROWTH_BYTES_MAX


@pytest.mark.parametrize(
    ("encoding", "compressed"),
    [("br", 1), ("identity", 1), ("gzip", 7), ("gzip, gzip", 1), ("\xff", 1)],
)
def test_encodings_that_do_not_fit(attacked, encoding, compressed) -> None:
    body = message(REQUEST, compressed=compressed)
    status = throw(attacked, body, encoding=encoding)
    assert status in {OK, UNIMPLEMENTED, INTERNAL, INVALID_ARGUMENT}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0\0\0", id="half of the length"),
        pytest.param(message(b"junk", compressed=1, claims=100), id="less than it claims"),
    ],
)
def test_messages_that_do_not_come_leave_no_call_behind(attacked, body) -> None:
    """GRPC does not answer them; their calls end with the connection, and touch no row."""
    assert throw(attacked, body, encoding="gzip", seconds=UNANSWERED_SECONDS) is None


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had. Skips where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("no /proc here")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.fixture(autouse=True)
def _serves_on(attacked):
    yield
    attacked.check_alive()
