"""Rows become values whole."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

from headway_core import rows
from headway_core.job import Job, Progress
from headway_core.states import JobState

TIME = datetime(2026, 1, 1, tzinfo=UTC)


def test_no_column_of_a_job_is_left_at_its_default() -> None:
    """The defaults are a new job's; a row that is read brings everything."""
    columns = {
        "id": uuid4(),
        "type": "t",
        "queue": "q",
        "priority": 7,
        "state": JobState.FAILED,
        "payload": b"1",
        "payload_kind": 1,
        "payload_type": "a",
        "result": b"2",
        "result_kind": 1,
        "result_type": "b",
        "error_type": "E",
        "error_message": "m",
        "error_retryable": True,
        "progress": Progress(TIME, done=1).to_bytes(),
        "attempt": 2,
        "max_attempts": 9,
        "labels": '{"k":"v"}',
        "sequence": 5,
        "run_epoch": 3,
        "dispatch_no": 4,
        "traceparent": "p",
        "tracestate": "s",
        "create_time": TIME,
        "queue_time": TIME,
        "start_time": TIME,
        "end_time": TIME,
        "wait_time": TIME + timedelta(seconds=1),
    }
    job = rows.job(cast("Any", columns))
    assert [
        name for name, usual in Job._field_defaults.items() if getattr(job, name) == usual
    ] == []
