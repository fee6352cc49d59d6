"""The gRPC server: there, ours, and serving."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from headway_dev import ports
from headway_dev.checks.findings import Finding, ok, wrong

SUBJECT = "server"
SERVICE = "headway.v1.JobService"
ANSWER_SECONDS = 3.0


async def check_server(target: str) -> AsyncIterator[Finding]:
    """Ask for the health of our service."""
    if not target.isascii():
        yield wrong(SUBJECT, f"{target!a} is no address", "write HOST:PORT in ASCII")
        return
    async with grpc.aio.insecure_channel(target) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=ANSWER_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            yield _no_health(target, error.code())
            return
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        yield ok(SUBJECT, f"{target} is serving")
    else:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        yield wrong(
            SUBJECT,
            f"{target} answers, but is {name}",
            "its database is away or its schema is outdated: see above, and the server's log",
        )


def _no_health(target: str, code: grpc.StatusCode) -> Finding:
    if code in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED}:
        return wrong(
            SUBJECT,
            f"{target} is another gRPC service",
            "set HEADWAY_TARGET to where Headway listens, or start it on another port",
        )
    if not _is_taken_here(target):
        return wrong(
            SUBJECT,
            f"nothing listens on {target}",
            "start one: `headway server`, or `headway dev`; or set HEADWAY_TARGET",
        )
    return wrong(
        SUBJECT,
        f"{target} is taken by something that does not speak gRPC, or that hangs ({code.name})",
        "stop it, or choose another port with HEADWAY_LISTEN (and HEADWAY_TARGET)",
    )


def _is_taken_here(target: str) -> bool:
    host, _, port = target.rpartition(":")
    host = host.rpartition("/")[2].strip("[]")
    return port.isdecimal() and ports.answers(int(port), host=host or ports.LOOPBACK)
