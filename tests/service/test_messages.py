"""Times, tokens and errors as messages."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from headway.v1 import ErrorReason, ListDeadLettersRequest, ListJobsRequest
from headway_core.errors import StoreUnavailable
from headway_server import pages
from headway_server import status as status_module
from headway_server.errors import RequestInvalid, Violation
from headway_server.status import internal, status_of
from headway_server.times import duration, timestamp, to_datetime, to_timedelta

TIMES = st.datetimes(timezones=st.just(UTC))
SPANS = st.timedeltas(timedelta(days=-3_652_000), timedelta(days=3_652_000))


@given(TIMES)
def test_any_time_survives_as_a_timestamp(time: datetime) -> None:
    """To the microsecond, as Protobuf's own conversion has it."""
    message = timestamp(time)
    assert to_datetime(message) == time
    assert message.ToDatetime(UTC) == time


@given(SPANS)
def test_any_span_survives_as_a_duration(span: timedelta) -> None:
    """Also the negative ones, whose parts must not differ in sign."""
    message = duration(span)
    assert to_timedelta(message) == span
    assert message.ToTimedelta() == span


@pytest.mark.parametrize(
    "message",
    [Duration(seconds=1, nanos=-1), Duration(nanos=10**9), Duration(seconds=2**62)],
)
def test_durations_out_of_their_range_are_none(message: Duration) -> None:
    assert to_timedelta(message) is None


@pytest.mark.parametrize(
    "message", [Timestamp(nanos=-1), Timestamp(nanos=10**9), Timestamp(seconds=-(2**62))]
)
def test_timestamps_out_of_their_range_are_none(message: Timestamp) -> None:
    assert to_datetime(message) is None


@given(st.uuids(), TIMES.filter(lambda time: time.year >= 1970))
def test_tokens_lead_back_to_their_position(job_id: UUID, time: datetime) -> None:
    request = ListJobsRequest(type="t")
    request.page_token = pages.jobs_token(request, job_id)
    assert pages.jobs_position(request) == job_id
    deaths = ListDeadLettersRequest()
    deaths.page_token = pages.deaths_token(deaths, (time, job_id))
    assert pages.deaths_position(deaths) == (time, job_id)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_other_text_is_no_token(text: str) -> None:
    """And no crash."""
    with pytest.raises(pages.TokenRefused):
        pages.jobs_position(ListJobsRequest(page_token=text))
    with pytest.raises(pages.TokenRefused):
        pages.deaths_position(ListDeadLettersRequest(page_token=text))


def test_an_outage_tells_the_caller_nothing_of_our_hosts() -> None:
    """Postgres' own words name users and addresses; they stay in the log."""
    status = status_of(StoreUnavailable("no pg_hba.conf entry for host 10.1.2.3, user admin"))
    assert status is not None
    assert "10.1.2.3" not in str(status)


@given(
    st.lists(
        st.builds(
            Violation,
            st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
        ),
        min_size=1,
        max_size=200,
    )
)
def test_no_status_outgrows_the_trailers(violations: list[Violation]) -> None:
    """8 KiB for all of them: the status in base64, and its message in percent-encoding."""
    assert trailer_bytes(violations) < 8000
    assert trailer_bytes(violations * 20) < 8000


def trailer_bytes(violations: list[Violation]) -> float:
    status = status_of(RequestInvalid(violations))
    assert status is not None
    return status.ByteSize() * 4 / 3 + len(status.message.encode()) * 3


def test_every_reason_of_the_contract_is_used_somewhere() -> None:
    """`ErrorReason` and the mapping are one table."""
    info = internal("x").details[0]
    assert b"INTERNAL" in info.value
    source = Path(status_module.__file__).read_text("utf-8")
    for name in ErrorReason.keys()[1:]:
        assert name in source, name
