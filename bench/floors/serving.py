"""A bare grpc.aio server, as floors use it."""

from typing import Any

import grpc
import grpc.aio

CALLS_MAX = 100_000
OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", CALLS_MAX),
    # Else a burst of streams is refused at random.
    ("grpc.server.max_pending_requests", CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", CALLS_MAX),
]


async def serve(
    service: str, handlers: "dict[str, grpc.RpcMethodHandler[Any, Any]]"
) -> tuple[grpc.aio.Server, str]:
    """Start a server on a free loopback port; return it and its address."""
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"
