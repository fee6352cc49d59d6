"""The one place where errors become `google.rpc.Status` (AIP-193).

error                 code                 reason                  beside ErrorInfo
RequestInvalid        INVALID_ARGUMENT     INVALID_FIELD           BadRequest
RequestMalformed      INVALID_ARGUMENT     MALFORMED_REQUEST
FilterRequired        INVALID_ARGUMENT     FILTER_REQUIRED         BadRequest
JobNotFound           NOT_FOUND            JOB_NOT_FOUND           ResourceInfo
IdempotencyKeyReused  ALREADY_EXISTS       IDEMPOTENCY_KEY_REUSED  ResourceInfo
JobNotDead            FAILED_PRECONDITION  JOB_NOT_DEAD            PreconditionFailure
TooManyQueues         FAILED_PRECONDITION  TOO_MANY_QUEUES         PreconditionFailure
QueueFull             RESOURCE_EXHAUSTED   QUEUE_FULL              QuotaFailure, RetryInfo
StoreUnavailable      UNAVAILABLE          DATABASE_UNAVAILABLE    RetryInfo
ServerDraining        UNAVAILABLE          SERVER_DRAINING         RetryInfo
SlowReader            UNAVAILABLE          SLOW_READER             RetryInfo
anything else         INTERNAL             INTERNAL
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import accumulate
from typing import Final

from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    QuotaFailure,
    ResourceInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

from headway.v1 import ErrorReason, Job
from headway_core.errors import (
    IdempotencyKeyReused,
    JobNotDead,
    JobNotFound,
    QueueFull,
    Refused,
    StoreUnavailable,
    TooManyQueues,
)
from headway_server.errors import (
    FilterRequired,
    RequestInvalid,
    RequestMalformed,
    ServerDraining,
    SlowReader,
    Violation,
)
from headway_server.times import duration

DOMAIN: Final = "headway"
JOB_RESOURCE: Final = Job.DESCRIPTOR.full_name
_PREFIX: Final = "ERROR_REASON_"

# A status travels in trailers, of which clients take 8 KiB in all, base64 included.
VIOLATION_BYTES_MAX: Final = 3000
VIOLATION_FRAME_BYTES: Final = 8
MESSAGE_BYTES_MAX: Final = 600

DATABASE_RETRY: Final = timedelta(seconds=1)
DRAINING_RETRY: Final = timedelta(milliseconds=100)
SLOW_READER_RETRY: Final = timedelta(0)


def status_of(error: BaseException) -> Status | None:
    """The status that the caller gets for an error. None: a defect, see `internal`."""
    match error:
        case RequestInvalid():
            return _status(
                Code.INVALID_ARGUMENT,
                ErrorReason.ERROR_REASON_INVALID_FIELD,
                str(error),
                details=[_bad_request(error.violations)],
            )
        case RequestMalformed():
            reason = ErrorReason.ERROR_REASON_MALFORMED_REQUEST
            return _status(Code.INVALID_ARGUMENT, reason, str(error))
        case FilterRequired():
            return _status(
                Code.INVALID_ARGUMENT,
                ErrorReason.ERROR_REASON_FILTER_REQUIRED,
                str(error),
                details=[_bad_request([Violation("filter", str(error))])],
            )
        case QueueFull():
            return _queue_full(error)
        case Refused():
            return _refused(error)
        case StoreUnavailable():
            return _unavailable(
                ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE,
                # The error's own text may name hosts and users: it stays in the log.
                "the database does not answer; the same call may work later",
                DATABASE_RETRY,
            )
        case ServerDraining():
            reason = ErrorReason.ERROR_REASON_SERVER_DRAINING
            return _unavailable(reason, str(error), DRAINING_RETRY)
        case SlowReader():
            reason = ErrorReason.ERROR_REASON_SLOW_READER
            return _unavailable(reason, str(error), SLOW_READER_RETRY)
        case _:
            return None


def internal(error_id: str) -> Status:
    """The status for a defect. All that the caller learns is where to find it in the log."""
    return _status(
        Code.INTERNAL,
        ErrorReason.ERROR_REASON_INTERNAL,
        f"an unexpected error; the server's log has it under {error_id}",
        metadata={"error_id": error_id},
    )


def _refused(error: Refused) -> Status | None:
    where = {} if error.index is None else {"index": str(error.index)}
    text = str(error) if error.index is None else f"requests[{error.index}]: {error}"
    match error:
        case JobNotFound():
            return _status(
                Code.NOT_FOUND,
                ErrorReason.ERROR_REASON_JOB_NOT_FOUND,
                text,
                metadata={"job_id": str(error.job_id), **where},
                details=[ResourceInfo(resource_type=JOB_RESOURCE, resource_name=str(error.job_id))],
            )
        case IdempotencyKeyReused():
            return _status(
                Code.ALREADY_EXISTS,
                ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED,
                text,
                metadata={"job_id": str(error.job_id), **where},
                details=[ResourceInfo(resource_type=JOB_RESOURCE, resource_name=str(error.job_id))],
            )
        case JobNotDead():
            return _status(
                Code.FAILED_PRECONDITION,
                ErrorReason.ERROR_REASON_JOB_NOT_DEAD,
                text,
                metadata={"job_id": str(error.job_id), "state": error.state.name},
                details=[_precondition("JOB_STATE", str(error.job_id), str(error))],
            )
        case TooManyQueues():
            return _status(
                Code.FAILED_PRECONDITION,
                ErrorReason.ERROR_REASON_TOO_MANY_QUEUES,
                text,
                metadata={"queue": error.queue, "limit": str(error.limit), **where},
                details=[_precondition("QUEUE_COUNT", error.queue, str(error))],
            )
        case _:
            return None


def _queue_full(error: QueueFull) -> Status:
    where = {} if error.index is None else {"index": str(error.index)}
    return _status(
        Code.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_QUEUE_FULL,
        str(error),
        metadata={
            "queue": error.queue,
            "limit": str(error.limit),
            "depth": str(error.depth),
            **where,
        },
        details=[
            QuotaFailure(
                violations=[
                    QuotaFailure.Violation(subject=f"queue:{error.queue}", description=str(error))
                ]
            ),
            RetryInfo(retry_delay=duration(error.retry_after)),
        ],
    )


def _unavailable(reason: ErrorReason.ValueType, text: str, retry: timedelta) -> Status:
    details = [RetryInfo(retry_delay=duration(retry))]
    return _status(Code.UNAVAILABLE, reason, text, details=details)


def _status(
    code: Code.ValueType,
    reason: ErrorReason.ValueType,
    text: str,
    *,
    metadata: Mapping[str, str] | None = None,
    details: Sequence[Message] = (),
) -> Status:
    if len(text.encode()) > MESSAGE_BYTES_MAX:
        text = text.encode()[:MESSAGE_BYTES_MAX].decode(errors="ignore") + "…"
    name = ErrorReason.Name(reason).removeprefix(_PREFIX)
    status = Status(code=code, message=text)
    status.details.add().Pack(ErrorInfo(reason=name, domain=DOMAIN, metadata=metadata))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def _bad_request(violations: Sequence[Violation]) -> BadRequest:
    """All violations, or as many as fit and a last one that says how many more there are."""
    sizes = accumulate(
        len(f"{item.field}{item.description}".encode()) + VIOLATION_FRAME_BYTES
        for item in violations
    )
    fitting = sum(1 for size in sizes if size <= VIOLATION_BYTES_MAX)
    shown = [
        BadRequest.FieldViolation(field=item.field, description=item.description)
        for item in violations[:fitting]
    ]
    if fitting < len(violations):
        more = f"and {len(violations) - fitting} more violations"
        shown.append(BadRequest.FieldViolation(field="*", description=more))
    return BadRequest(field_violations=shown)


def _precondition(kind: str, subject: str, description: str) -> PreconditionFailure:
    violation = PreconditionFailure.Violation(type=kind, subject=subject, description=description)
    return PreconditionFailure(violations=[violation])
