"""Readers of single fields: each gives a value of the core's and notes what is wrong with it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from headway.v1 import JobState, JobView, Payload
from headway_core import states
from headway_core.content import Content
from headway_server import bounds
from headway_server.errors import RequestInvalid, Violation
from headway_server.payloads import PayloadRefused, to_content
from headway_server.times import to_datetime, to_timedelta

SET: Final = "must be set"


class Violations:
    """What has been found wrong with one request, and the readers of single fields that find it.

    A reader returns the value, or for a wrong one some value that nobody will see: `end` raises.
    """

    __slots__ = ("_found", "_prefix")

    def __init__(self) -> None:
        self._found: list[Violation] = []
        self._prefix = ""

    def add(self, field: str, description: str) -> None:
        """Note one violation."""
        self._found.append(Violation(self._prefix + field, description))

    def within(self, prefix: str) -> None:
        """Fields named from now on stand in this part of the request, as `requests[3].`."""
        self._prefix = prefix

    def end(self) -> None:
        """Raise RequestInvalid if anything was found."""
        if self._found:
            raise RequestInvalid(self._found)

    def text(self, field: str, value: str, rule: bounds.Word | bounds.Text) -> str | None:
        """A text that may be left out: None then."""
        if not value:
            return None
        if wrong := rule.wrong(value):
            self.add(field, wrong)
        return value

    def number(self, field: str, value: float, rule: bounds.Number) -> None:
        """A number that is there."""
        if wrong := rule.wrong(value):
            self.add(field, wrong)

    def span(self, field: str, value: Duration, rule: bounds.Span) -> timedelta:
        """A duration that is there."""
        span = to_timedelta(value)
        wrong = "is no valid Duration" if span is None else rule.wrong(span)
        if wrong:
            self.add(field, wrong)
        return span or timedelta(0)

    def time(self, field: str, value: Timestamp) -> datetime:
        """A time that is there."""
        time = to_datetime(value)
        if time is None:
            self.add(field, "is no valid Timestamp")
        return time or datetime.now(UTC)

    def job_id(self, value: str) -> UUID:
        """The required `job_id`."""
        wrong = bounds.JOB_ID.wrong(value) if value else SET
        if wrong:
            self.add("job_id", wrong)
            return UUID(int=0)
        return UUID(value)

    def view(self, value: JobView.ValueType) -> bool:
        """Whether FULL is asked for."""
        if value not in JobView.values():
            self.add("view", "is no JobView")
        return value == JobView.JOB_VIEW_FULL

    def page_size(self, value: int) -> int:
        """The size of a page: 0 is the default, too large a size is cut (AIP-158)."""
        if value < 0:
            self.add("page_size", "must not be negative")
        return min(value or bounds.PAGE_SIZE_DEFAULT, bounds.PAGE_SIZE_MAX)

    def labels(self, value: Mapping[str, str]) -> dict[str, str]:
        """Labels, of a job or of a filter."""
        labels = dict(value)
        if len(labels) > bounds.LABELS_MAX:
            self.add("labels", f"must be at most {bounds.LABELS_MAX}, are {len(labels)}")
            return labels
        for key, text in labels.items():
            if wrong := bounds.LABEL_KEY.wrong(key):
                self.add("labels", f"a key {wrong}")
            elif wrong := bounds.LABEL_VALUE.wrong(text):
                self.add(f"labels.{key}", wrong)
        return labels

    def states(self, value: Sequence[JobState.ValueType]) -> frozenset[states.JobState]:
        """States of a filter."""
        known = {int(state) for state in states.JobState}
        for index, state in enumerate(value[: bounds.STATES_MAX]):
            if state not in known:
                self.add(f"states[{index}]", "is no JobState")
        if len(value) > bounds.STATES_MAX:
            self.add("states", f"must be at most {bounds.STATES_MAX}")
        return frozenset(states.JobState(state) for state in value if state in known)

    def payload(self, value: Payload) -> Content | None:
        """A payload that is there."""
        if value.content_type and (wrong := bounds.CONTENT_TYPE.wrong(value.content_type)):
            self.add("payload.content_type", wrong)
        try:
            return to_content(value)
        except PayloadRefused as refused:
            self.add(f"payload.{refused.path}", refused.description)
            return None
