"""Errors as AIP-193 wants them."""

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from headway import v1

DONE = {
    v1.JobState.JOB_STATE_COMPLETED,
    v1.JobState.JOB_STATE_DEAD,
    v1.JobState.JOB_STATE_CANCELLED,
}

Context = grpc.aio.ServicerContext


def error_info(reason: str, **metadata: str) -> ErrorInfo:
    return ErrorInfo(reason=reason, domain="headway", metadata=metadata)


def retry_info(seconds: int) -> RetryInfo:
    info = RetryInfo()
    info.retry_delay.FromSeconds(seconds)
    return info


async def refuse(context: Context, code: grpc.StatusCode, message: str, *details: Message) -> None:
    """End the call as AIP-193 wants."""
    status = Status(code=code.value[0], message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(code, message)
