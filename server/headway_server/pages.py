"""Page tokens: where a listing goes on, bound to the filter that it was made for (AIP-158).

A token is base64url of 8 bytes of the filter's hash, then the position. It guards against mistakes,
not against forgery: a position says nothing that its holder may not ask for.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from copy import deepcopy
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final
from uuid import UUID

from headway.v1 import ListDeadLettersRequest, ListJobsRequest
from headway_server.times import EPOCH

FINGERPRINT_BYTES: Final = 8
UUID_BYTES: Final = 16
TIME_BYTES: Final = 8
TOKEN_CHARACTERS_MAX: Final = 64

DeathPosition = tuple[datetime, UUID]


class TokenRefused(Exception):
    """Not a token of this listing with this filter."""

    def __init__(self) -> None:
        super().__init__("must be the next_page_token of this listing with the same filter")


def jobs_token(request: ListJobsRequest, last: UUID) -> str:
    """The token for what comes after the job `last`."""
    return _encode(_filter_of(request), last.bytes)


def jobs_position(request: ListJobsRequest) -> UUID | None:
    """The job before the page, None for the first page. Raises TokenRefused."""
    if not request.page_token:
        return None
    return UUID(bytes=_decode(request.page_token, _filter_of(request), UUID_BYTES))


def deaths_token(request: ListDeadLettersRequest, last: DeathPosition) -> str:
    """The token for what comes after the death `last`."""
    time, job_id = last
    microseconds = (time - EPOCH) // timedelta(microseconds=1)
    position = microseconds.to_bytes(TIME_BYTES, "big") + job_id.bytes
    return _encode(_filter_of(request), position)


def deaths_position(request: ListDeadLettersRequest) -> DeathPosition | None:
    """The death before the page, None for the first page. Raises TokenRefused."""
    if not request.page_token:
        return None
    position = _decode(request.page_token, _filter_of(request), TIME_BYTES + UUID_BYTES)
    microseconds = int.from_bytes(position[:TIME_BYTES], "big")
    try:
        time = EPOCH + timedelta(microseconds=microseconds)
    except OverflowError as error:
        raise TokenRefused from error
    return time, UUID(bytes=position[TIME_BYTES:])


def _filter_of(request: ListJobsRequest | ListDeadLettersRequest) -> bytes:
    """Which listing it is: all that does not change from page to page. Size and view may."""
    bare = deepcopy(request)
    bare.ClearField("page_size")
    bare.ClearField("page_token")
    if isinstance(bare, ListJobsRequest):
        bare.ClearField("view")
    named = bare.DESCRIPTOR.full_name.encode() + bare.SerializePartialToString(deterministic=True)
    return sha256(named).digest()[:FINGERPRINT_BYTES]


def _encode(fingerprint: bytes, position: bytes) -> str:
    return urlsafe_b64encode(fingerprint + position).decode().rstrip("=")


def _decode(token: str, fingerprint: bytes, position_bytes: int) -> bytes:
    if len(token) > TOKEN_CHARACTERS_MAX or not token.isascii():
        raise TokenRefused
    try:
        plain = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except NotBase64 as error:
        raise TokenRefused from error
    if len(plain) != FINGERPRINT_BYTES + position_bytes or plain[:FINGERPRINT_BYTES] != fingerprint:
        raise TokenRefused
    return plain[FINGERPRINT_BYTES:]
