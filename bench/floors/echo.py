"""The bare grpc.aio server: a unary call that returns its request, and streams that wait.

What the service costs beyond this is ours; what this costs is gRPC's.
"""

import asyncio

import grpc
import grpc.aio
import uvloop
from google.protobuf.wrappers_pb2 import StringValue

from bench import program
from bench.floors.serving import serve

SERVICE = "bench.Echo"
CAST = "cast"

serialize = StringValue.SerializeToString
deserialize = StringValue.FromString


class Echo:
    """`Echo` returns what it gets. `Watch` waits for an `Echo` of "cast", and waits again."""

    def __init__(self) -> None:
        self._cast = asyncio.Event()

    async def echo(self, request: StringValue, _context: object) -> StringValue:
        """Return the request; "cast" sends one message to every stream."""
        if request.value == CAST:
            self._cast.set()
            self._cast = asyncio.Event()
        return request

    async def watch(
        self, _request: StringValue, context: "grpc.aio.ServicerContext[StringValue, StringValue]"
    ) -> None:
        """Send a message for each cast."""
        await context.send_initial_metadata(())
        while True:
            await self._cast.wait()
            await context.write(StringValue(value=CAST))


async def main() -> None:
    """Serve until the parent ends."""
    echo = Echo()
    server, address = await serve(
        SERVICE,
        {
            "Echo": grpc.unary_unary_rpc_method_handler(echo.echo, deserialize, serialize),
            "Watch": grpc.unary_stream_rpc_method_handler(echo.watch, deserialize, serialize),
        },
    )
    program.say_ready(address=address)
    await program.until_told()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(main())
