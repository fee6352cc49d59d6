"""The wire under the two clients: a channel made on first use, unary calls, pages."""

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc
import grpc.aio

from headway import v1
from headway.channel import options, resolve, trace_metadata
from headway.cursor import Patience
from headway.rpc_errors import translate

if TYPE_CHECKING:
    from headway.v1.job_service_pb2_grpc import JobServiceAsyncStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class PagedRequest(Protocol):
    """A request of a List call."""

    page_token: str


class Page(Protocol):
    """An answer of a List call."""

    @property
    def next_page_token(self) -> str: ...


PagedRequestT = TypeVar("PagedRequestT", bound=PagedRequest)
PageT = TypeVar("PageT", bound=Page)


class Settings:
    """Where the servers are and how long to wait for them."""

    def __init__(
        self,
        target: str | None,
        *,
        call_timeout: timedelta | float,
        reconnect_timeout: timedelta | float,
    ) -> None:
        self.target = resolve(target)
        self.call_seconds = seconds(call_timeout)
        self._reconnect_seconds = seconds(reconnect_timeout)

    def patience(self) -> Patience:
        """For a new watch: soon impatient with a server that never answered."""
        return Patience(first=self.call_seconds, later=self._reconnect_seconds)


class Connection:
    """For asyncio. The channel belongs to the loop that runs at the first call."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._channel: grpc.aio.Channel | None = None
        self._stub: JobServiceAsyncStub | None = None

    @property
    def stub(self) -> "JobServiceAsyncStub":
        """The stub on the open channel, which is opened if need be."""
        if self._stub is None:
            target = self.settings.target
            self._channel = grpc.aio.insecure_channel(target, options=options(target))
            self._stub = v1.JobServiceStub(self._channel)
        return self._stub

    async def call(
        self,
        method: Callable[..., Awaitable[ResponseT]],
        request: object,
    ) -> ResponseT:
        """One unary call. Raises HeadwayErrors only."""
        try:
            return await method(
                request, timeout=self.settings.call_seconds, metadata=trace_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise translate(error) from error

    async def pages(
        self, method: Callable[..., Awaitable[PageT]], request: PagedRequest
    ) -> AsyncGenerator[PageT, None]:
        """All pages of a List call; an empty token is the only end mark (AIP-158)."""
        while True:
            page = await self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def close(self) -> None:
        """End open calls. A later call opens a new channel."""
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()


class BlockingConnection:
    """For threads: any number of them may share it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._channel: grpc.Channel | None = None
        self._stub: v1.JobServiceStub | None = None
        self._opening = threading.Lock()

    @property
    def stub(self) -> v1.JobServiceStub:
        """The stub on the open channel, which is opened if need be."""
        with self._opening:
            if self._stub is None:
                target = self.settings.target
                self._channel = grpc.insecure_channel(target, options=options(target))
                self._stub = v1.JobServiceStub(self._channel)
            return self._stub

    def call(self, method: Callable[..., ResponseT], request: object) -> ResponseT:
        """One unary call. Raises HeadwayErrors only."""
        try:
            return method(request, timeout=self.settings.call_seconds, metadata=trace_metadata())
        except grpc.RpcError as error:
            raise translate(error) from error

    def pages(
        self, method: Callable[..., PageT], request: PagedRequest
    ) -> Generator[PageT, None, None]:
        """All pages of a List call; an empty token is the only end mark (AIP-158)."""
        while True:
            page = self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def close(self) -> None:
        """End open calls. A later call opens a new channel."""
        with self._opening:
            channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            channel.close()


def seconds(value: timedelta | float) -> float:
    """A number means seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
