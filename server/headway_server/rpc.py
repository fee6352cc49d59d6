"""What every call goes through: parse, span, metrics, errors. Behaviours below it know no gRPC.

Requests arrive here as bytes and unary responses leave as bytes, so that no parser or serialiser of
grpc.aio runs outside: it sends the text of whatever they raise to the client.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from secrets import token_hex
from time import monotonic, time_ns
from typing import Any, Final, Generic, Never, Self, TypeAlias, TypeVar, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from grpc.aio import AbortError, BaseError, ServicerContext
from grpc_status import rpc_status

from headway_core.metrics import Metrics
from headway_core.telemetry import ServerSpan, Telemetry
from headway_server.errors import RequestMalformed, ServerDraining
from headway_server.status import internal, status_of

ABORT_SECONDS_MAX: Final = 2.0
ERROR_ID_BYTES: Final = 8

log = structlog.get_logger(__name__)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Write = Callable[[Response], Awaitable[None]]
# Generic for the type checker alone.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True)
class Unary(Generic[Request, Response]):
    """A method with one response."""

    name: str
    request: type[Request]
    behaviour: Callable[[Request, ServerSpan], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Streaming(Generic[Request, Response]):
    """A method with a stream of responses. The behaviour writes them and returns at the end."""

    name: str
    request: type[Request]
    behaviour: Callable[[Request, ServerSpan, Write[Response]], Awaitable[None]]


class Calls:
    """Runs the calls of one server and knows how many are under way."""

    def __init__(self, telemetry: Telemetry, metrics: Metrics) -> None:
        self._telemetry = telemetry
        self._metrics = metrics
        self._under_way = 0
        self._idle = asyncio.Event()

    def serve(
        self,
        server: grpc.aio.Server,
        service: str,
        methods: Sequence[Unary[Any, Any] | Streaming[Any, Any]],
    ) -> None:
        """Add a service to a server that has not started."""
        handlers = {method.name: self._handler(service, method) for method in methods}
        generic = grpc.method_handlers_generic_handler(service, handlers)
        server.add_generic_rpc_handlers((generic,))
        # A registered method has a queue of its own in gRPC, so that a storm of streams holds up no
        # other call. Each costs every call 2 µs, after a pause some 10: grpc.aio looks at all.
        streams = [method.name for method in methods if isinstance(method, Streaming)]
        server.add_registered_method_handlers(service, {name: handlers[name] for name in streams})

    async def wait_idle(self) -> None:
        """Wait until no call is under way."""
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()

    def _handler(self, service: str, method: Unary[Any, Any] | Streaming[Any, Any]) -> Handler:
        path = f"{service}/{method.name}"
        match method:
            case Unary():
                return grpc.unary_unary_rpc_method_handler(self._unary(path, method))
            case Streaming():
                return grpc.unary_stream_rpc_method_handler(
                    self._streaming(path, method),
                    response_serializer=lambda message: message.SerializeToString(),
                )

    def _unary(
        self, path: str, method: Unary[Request, Response]
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def call(raw: bytes, context: Context) -> bytes:
            with self._begin(path, context) as running:
                try:
                    response = await method.behaviour(_parse(method.request, raw), running.span)
                    return response.SerializeToString()
                except BaseException as error:  # noqa: BLE001 -- the border of every call
                    status = running.end_by(error)
            return await _abort(context, status)

        return call

    def _streaming(
        self, path: str, method: Streaming[Request, Response]
    ) -> Callable[[bytes, Context], Awaitable[None]]:
        async def call(raw: bytes, context: Context) -> None:
            with self._begin(path, context) as running:
                try:
                    request = _parse(method.request, raw)
                    await method.behaviour(request, running.span, context.write)
                    return
                except BaseException as error:  # noqa: BLE001 -- the border of every call
                    status = running.end_by(error)
            await _abort(context, status)

        return call

    def _begin(self, path: str, context: Context) -> "_Call":
        metadata: Any = context.invocation_metadata()
        span = self._telemetry.server_span(path, metadata)
        self._under_way += 1
        return _Call(path, span, self._ended)

    def _ended(self, call: "_Call") -> None:
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()
        self._metrics.rpc(method=call.path, code=call.code, seconds=call.seconds)


class _Call:
    """A call under way, and how it ends. `ended` is called once it has."""

    __slots__ = ("_ended", "begun", "code", "path", "seconds", "span")

    def __init__(self, path: str, span: ServerSpan, ended: "Callable[[_Call], None]") -> None:
        self.path = path
        self.span = span
        self.begun = monotonic()
        self.seconds = 0.0
        self.code = "OK"
        self._ended = ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.seconds = monotonic() - self.begun
        # In the loop's next turn: the answer leaves before.
        asyncio.get_running_loop().call_soon(self._end, error, time_ns())

    def _end(self, error: BaseException | None, time: int) -> None:
        try:
            if error is None:
                self.span.status(self.code)
            self.span.end(error, time=time)
        finally:
            self._ended(self)

    def end_by(self, error: BaseException) -> Status:
        """The status for an error, or the error itself if it is gRPC's to deal with."""
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or task.cancelling():
                self.code = "CANCELLED"
                # grpc.aio leaks when a handler swallows it.
                raise error
            # Not this call was cancelled but what it waited for: the server is going away.
            error = ServerDraining()
        if isinstance(error, BaseError):
            # An abort, or a peer that has gone: gRPC's own.
            self.code = "CANCELLED" if not isinstance(error, AbortError) else self.code
            raise error
        if not isinstance(error, Exception):
            raise error
        status = status_of(error)
        if status is None:
            error_id = token_hex(ERROR_ID_BYTES)
            log.error("rpc_failed", method=self.path, error_id=error_id, exc_info=error)
            self.code = "INTERNAL"
            return internal(error_id)
        self.code = Code.Name(cast("Code.ValueType", status.code))
        # The text of an outage may name hosts: the caller does not get it.
        log.debug("rpc_refused", method=self.path, code=self.code, reason=str(error))
        return status


def _parse(kind: type[Request], raw: bytes) -> Request:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise RequestMalformed(
            f"the request is no well-formed {kind.DESCRIPTOR.full_name}, or nested too deeply"
        ) from error


async def _abort(context: Context, status: Status) -> Never:
    try:
        async with asyncio.timeout(ABORT_SECONDS_MAX):
            await context.abort_with_status(rpc_status.to_status(status))
    except TimeoutError:
        # The status stands behind what the reader does not read, and will reach it then. Ending as
        # cancelled is the one way to leave a call to gRPC without a second status.
        raise asyncio.CancelledError from None
