"""Watches that resume by themselves: the rules of `cursor` with a stream under them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from datetime import timedelta

import grpc
import grpc.aio

from headway import v1
from headway.channel import trace_metadata
from headway.connection import BlockingConnection, Connection
from headway.cursor import STREAM_SECONDS, Cursor
from headway.errors import Unavailable
from headway.rpc_errors import translate
from headway.updates import Update

OnReconnect = Callable[[Unavailable, float], None]
"""Told why a stream broke, and in how many seconds the next try comes."""


class DeadlinePassed(Exception):
    """The caller's own deadline came before the end of a blocking watch."""


async def watch(
    connection: Connection,
    cursor: Cursor,
    *,
    min_progress_interval: timedelta | float | None,
    on_reconnect: OnReconnect | None,
) -> AsyncGenerator[Update, None]:
    """Updates until the job is done, over as many streams as it takes.

    Broken and silent streams are followed by another from the last event seen. Closing the
    generator cancels the stream.
    """
    patience = connection.settings.patience()
    while True:
        call = connection.stub.WatchJob(
            cursor.request(min_progress_interval=min_progress_interval), metadata=trace_metadata()
        )
        failure = Unavailable("the stream ended before the job was done")
        try:
            while True:
                async with asyncio.timeout(patience.read_timeout):
                    response = await call.read()
                if not isinstance(response, v1.WatchJobResponse):
                    break  # grpc.aio.EOF
                patience.heard()
                update = cursor.accept(response)
                if update is not None:
                    yield update
            if cursor.complete:
                return
        except TimeoutError:
            failure = Unavailable(f"nothing was heard for {patience.read_timeout:g} s")
        except grpc.aio.AioRpcError as error:
            failure = _passing(error)
        finally:
            call.cancel()
        delay = patience.delay(failure)
        if on_reconnect is not None:
            on_reconnect(failure, delay)
        await asyncio.sleep(delay)


def watch_blocking(
    connection: BlockingConnection,
    cursor: Cursor,
    *,
    min_progress_interval: timedelta | float | None = None,
    on_reconnect: OnReconnect | None = None,
    deadline: float | None = None,
) -> Generator[Update, None, None]:
    """Like `watch`, in a thread. Raises DeadlinePassed at `deadline`, by time.monotonic().

    A blocking read cannot be given a bound of its own, so every stream has one and is renewed at
    STREAM_SECONDS; keepalive pings find a dead connection sooner.
    """
    patience = connection.settings.patience()
    while True:
        heard = False
        call = connection.stub.WatchJob(
            cursor.request(min_progress_interval=min_progress_interval),
            timeout=min(STREAM_SECONDS, _left(deadline)),
            metadata=trace_metadata(),
        )
        failure = Unavailable("the stream ended before the job was done")
        try:
            for response in call:
                heard = True
                patience.heard()
                update = cursor.accept(response)
                if update is not None:
                    yield update
            if cursor.complete:
                return
        except grpc.RpcError as error:
            failure = _passing(error)
            if heard and call.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                continue
        finally:
            call.cancel()
        delay = min(patience.delay(failure), _left(deadline))
        if on_reconnect is not None:
            on_reconnect(failure, delay)
        time.sleep(delay)


def _passing(error: grpc.RpcError) -> Unavailable:
    """The failure, if another stream may do better; else it is raised."""
    failure = translate(error)
    if isinstance(failure, Unavailable):
        failure.__cause__ = error
        return failure
    raise failure from error


def _left(deadline: float | None) -> float:
    left = float("inf") if deadline is None else deadline - time.monotonic()
    if left <= 0:
        raise DeadlinePassed
    return left
