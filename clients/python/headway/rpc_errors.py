"""From gRPC's errors to ours: the one place where status codes and google.rpc details are read."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from headway import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

DETAILS = "grpc-status-details-bin"
DOMAIN = "headway"
TRANSIENT = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    }
)
_TOO_LARGE = "larger than max"
"""In gRPC's own words about a message beyond a limit of its size: it stays too large."""

# What transports and proxies make of a broken connection, if the server itself said nothing.
BROKEN = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})


def translate(error: grpc.RpcError) -> errors.HeadwayError:
    """The error as one of ours, by the server's reason, else by the status code."""
    details = _details(error)
    info = details.get(ErrorInfo, ErrorInfo())
    known = info if info.domain == DOMAIN else ErrorInfo()
    translated = _by_reason(error, known, details) or _by_code(error, details)
    translated.reason = info.reason
    return translated


def _by_reason(
    error: grpc.RpcError, info: ErrorInfo, details: "_Details"
) -> errors.HeadwayError | None:
    message, data = _message(error), info.metadata
    match info.reason:
        case "INVALID_FIELD" | "MALFORMED_REQUEST" | "FILTER_REQUIRED":
            return errors.InvalidRequest(message, _violations(details))
        case "JOB_NOT_FOUND":
            return errors.JobNotFound(message, data["job_id"])
        case "IDEMPOTENCY_KEY_REUSED":
            return errors.IdempotencyKeyReused(message, data["job_id"])
        case "JOB_NOT_DEAD":
            return errors.JobNotDead(message, data["job_id"], data["state"])
        case "TOO_MANY_QUEUES":
            return errors.TooManyQueues(message, data["queue"], _number(data["limit"]))
        case "QUEUE_FULL":
            return errors.QueueFull(
                message,
                _retry_after(details),
                queue=data["queue"],
                limit=_number(data["limit"]),
                depth=_number(data["depth"]),
            )
        case "INTERNAL":
            return errors.ServerDefect(message, data["error_id"])
    return None


def _by_code(error: grpc.RpcError, details: "_Details") -> errors.HeadwayError:
    message, code = _message(error), error.code()
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            return errors.InvalidRequest(message, _violations(details))
        case grpc.StatusCode.NOT_FOUND:
            return errors.JobNotFound(message)
        case grpc.StatusCode.ALREADY_EXISTS | grpc.StatusCode.FAILED_PRECONDITION:
            return errors.Refused(message)
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            return errors.NotPermitted(message)
        case grpc.StatusCode.UNIMPLEMENTED:
            return errors.Unsupported(message)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.Unavailable("the server did not answer in time", _retry_after(details))
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _TOO_LARGE in message:
            return errors.InvalidRequest(message)
    if code in TRANSIENT or (code in BROKEN and ErrorInfo not in details):
        return errors.Unavailable(message, _retry_after(details))
    return errors.ServerDefect(message)


_Details = dict[type[Message], Any]  # each detail type at most once (AIP-193)
_KINDS = (ErrorInfo, BadRequest, RetryInfo)


def _details(error: grpc.RpcError) -> _Details:
    """The google.rpc details by type; none if they cannot be read."""
    found: _Details = {}
    # Plain tuples under asyncio, whatever the stubs of grpc say.
    metadata = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in metadata:
        if key != DETAILS or not isinstance(value, bytes):
            continue
        try:
            for packed in Status.FromString(value).details:
                for kind in _KINDS:
                    if packed.Is(kind.DESCRIPTOR):
                        found[kind] = kind.FromString(packed.value)
        except DecodeError:
            continue
    return found


def _violations(details: _Details) -> tuple[errors.Violation, ...]:
    bad = details.get(BadRequest, BadRequest())
    return tuple(
        errors.Violation(field=item.field, description=item.description)
        for item in bad.field_violations
    )


def _retry_after(details: _Details) -> timedelta | None:
    retry = details.get(RetryInfo)
    if retry is None:
        return None
    delay: timedelta = retry.retry_delay.ToTimedelta()
    return delay


def _message(error: grpc.RpcError) -> str:
    return error.details() or error.code().name


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
