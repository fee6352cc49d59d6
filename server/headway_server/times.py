"""`google.protobuf.Timestamp` and `Duration` to datetime and timedelta, and back.

Ranges are those of the two messages' own comments: years 1 to 9999, and 10,000 years either way.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TIMESTAMP_SECONDS_MIN: Final = -62_135_596_800
TIMESTAMP_SECONDS_MAX: Final = 253_402_300_799
DURATION_SECONDS_MAX: Final = 315_576_000_000
NANOS_MAX: Final = 999_999_999

DAY_SECONDS: Final = 86_400


def to_datetime(value: Timestamp) -> datetime | None:
    """The time, cut to microseconds; None if the message is out of its range."""
    if not (
        TIMESTAMP_SECONDS_MIN <= value.seconds <= TIMESTAMP_SECONDS_MAX
        and 0 <= value.nanos <= NANOS_MAX
    ):
        return None
    return EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)


def to_timedelta(value: Duration) -> timedelta | None:
    """The duration, cut to microseconds; None if the message is out of its range."""
    if (
        abs(value.seconds) > DURATION_SECONDS_MAX
        or abs(value.nanos) > NANOS_MAX
        or value.seconds * value.nanos < 0
    ):
        return None
    return timedelta(seconds=value.seconds, microseconds=int(value.nanos / 1000))


def timestamp(time: datetime) -> Timestamp:
    """The message for a time that knows its zone."""
    message = Timestamp()
    write_timestamp(message, time)
    return message


def write_timestamp(message: Timestamp, time: datetime) -> None:
    """Fill the message, which may be a field of another: to copy it there takes thrice as long."""
    since = time - EPOCH
    message.seconds = since.days * DAY_SECONDS + since.seconds
    message.nanos = since.microseconds * 1000


def duration(span: timedelta) -> Duration:
    """The message for a duration."""
    seconds = span.days * DAY_SECONDS + span.seconds
    nanos = span.microseconds * 1000
    if seconds < 0 < nanos:  # a timedelta's parts may differ in sign, a Duration's may not
        seconds, nanos = seconds + 1, nanos - 1_000_000_000
    return Duration(seconds=seconds, nanos=nanos)
