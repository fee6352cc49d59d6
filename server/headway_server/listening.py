"""The gRPC server: its options, its address, its services."""

import errno
import os
import socket
from typing import Any, Final, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from headway_core.errors import Refused
from headway_core.settings import Address
from headway_server.health import Health
from headway_server.settings import CALLS_MAX, RECEIVE_BYTES_MAX

PENDING_CALLS_MAX: Final = 100_000
"""Calls that have arrived and are not yet taken up. By default gRPC rejects at random beyond 1,000,
which thousands of watchers coming back at once exceed."""

OPTIONS: Final = (
    ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
    ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_MAX),
    # A client may ping every 10 s; by default two pings within 5 minutes cost it the connection.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # We ping, too: a peer that is gone for good holds its streams for half a minute at most.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class AddressRefused(Refused):
    """The address cannot be listened on."""

    def __init__(self, address: Address, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")


def make_server(*, reuse_port: bool) -> grpc.aio.Server:
    """A server without services. `reuse_port`: several processes share one address.

    gRPC shares by default, so that a stray second server would silently take half the connections.
    """
    return grpc.aio.server(
        options=[*OPTIONS, ("grpc.so_reuseport", int(reuse_port))],
        maximum_concurrent_rpcs=CALLS_MAX,
    )


def add_health(server: grpc.aio.Server, health: Health) -> None:
    """Add grpc.health.v1."""
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, _registering(server, "Watch"))


def add_reflection(server: grpc.aio.Server, services: tuple[str, ...]) -> None:
    """Add reflection of these services, health and itself."""
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    names = [*services, health_name, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, _registering(server))


class _Registering:
    """A server to add a service to whose methods are registered by these names alone.

    Generated code registers them all (see Calls.serve for what that costs).
    """

    def __init__(self, server: grpc.aio.Server, names: tuple[str, ...]) -> None:
        self._server = server
        self._names = names
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(
        self, service: str, handlers: "dict[str, grpc.RpcMethodHandler[Any, Any]]"
    ) -> None:
        """Register what is to be."""
        chosen = {name: handlers[name] for name in self._names}
        self._server.add_registered_method_handlers(service, chosen)


def _registering(server: grpc.aio.Server, *names: str) -> grpc.aio.Server:
    return cast("grpc.aio.Server", _Registering(server, names))


def bind(server: grpc.aio.Server, address: Address, *, reuse_port: bool) -> Address:
    """Bind an address, port 0 to any free port. Raises AddressRefused."""
    if not reuse_port:
        probe(address)
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise AddressRefused(address, "gRPC could not bind it") from error
    return Address(address.host, port)


def probe(address: Address) -> None:
    """Bind it for a moment.

    gRPC does not say why it cannot, and is content with a part of a name's addresses.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, sockaddr in found:
            with socket.socket(family, kind, protocol) as probe:
                # As gRPC does: connections of a server that has just ended do not count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(sockaddr)
    except socket.gaierror as error:
        raise AddressRefused(address, f"{address.host} has no address") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "another process listens there; stop it or choose another with --listen"
        else:
            reason = os.strerror(error.errno) if error.errno else str(error)
        raise AddressRefused(address, reason) from error
