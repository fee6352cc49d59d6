"""A server in the test's own process, and a caller's side of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from headway.v1 import JobServiceStub
from headway_core.metrics import Metrics
from headway_core.settings import load
from headway_core.telemetry import Telemetry
from headway_server.assembly import Running, running
from headway_server.settings import ServerSettings

DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.ResourceInfo,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.QuotaFailure,
    error_details_pb2.RetryInfo,
)


@dataclass(frozen=True, slots=True)
class Served:
    """A running server and a channel to it."""

    running: Running
    channel: grpc.aio.Channel
    stub: Any


@asynccontextmanager
async def serving(
    database_url: str,
    amqp_url: str,
    *,
    telemetry: Telemetry | None = None,
    metrics: Metrics | None = None,
    **environ: str,
) -> AsyncIterator[Served]:
    """Serve inside the block, on a free port."""
    settings = load(
        ServerSettings,
        {
            "HEADWAY_DATABASE_URL": database_url,
            "HEADWAY_AMQP_URL": amqp_url,
            "HEADWAY_LISTEN": "127.0.0.1:0",
            "HEADWAY_DRAIN_SECONDS": "5",
            **environ,
        },
    )
    async with (
        running(
            settings, telemetry=telemetry or Telemetry.off(), metrics=metrics or Metrics.off()
        ) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        yield Served(server, channel, JobServiceStub(channel))


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as its caller sees it."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    message: str
    details: dict[str, Message]

    @property
    def fields(self) -> dict[str, str]:
        """Of the BadRequest: what is wrong with each field."""
        bad = self.details["BadRequest"]
        assert isinstance(bad, error_details_pb2.BadRequest)
        return {item.field: item.description for item in bad.field_violations}


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Take an error apart; each kind of detail may come once (AIP-193)."""
    found: dict[str, Message] = {}
    for any_ in status_of(error).details:
        for kind in DETAILS:
            if any_.Is(kind.DESCRIPTOR):
                name = kind.DESCRIPTOR.name
                assert name not in found
                found[name] = kind()
                any_.Unpack(found[name])
    info = found.pop("ErrorInfo")
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.domain == "headway"
    return Refusal(error.code(), info.reason, dict(info.metadata), error.details() or "", found)


def status_of(error: grpc.aio.AioRpcError) -> Status:
    """The google.rpc.Status of an error; it has to have one."""
    found = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert isinstance(found, Status), error
    return found
