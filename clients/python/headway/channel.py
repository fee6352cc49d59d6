"""How a client reaches the servers: targets, channel options, retries of unary calls."""

import ipaddress
import json
import os
import sys

from headway.errors import InvalidTarget

DEFAULT_TARGET = "127.0.0.1:50051"
RECEIVE_BYTES_MAX = 64 * 2**20
ATTEMPTS_MAX = 4

# Only UNAVAILABLE, and only calls that are safe twice (AIP-194): a submit always carries a key, and
# CancelJob is idempotent. ReplayDeadLetter by filter would go on to further jobs. A stream is
# resumed by `watching`, not here.
_RETRIED = (
    "SubmitJob",
    "BatchSubmitJobs",
    "GetJob",
    "ListJobs",
    "CancelJob",
    "ListDeadLetters",
)
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "headway.v1.JobService", "method": name} for name in _RETRIED],
            "retryPolicy": {
                "maxAttempts": ATTEMPTS_MAX,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
}


def resolve(target: str | None) -> str:
    """A gRPC target from `HOST:PORT`, several of them with commas, or a URI that gRPC knows.

    None means $HEADWAY_TARGET, then DEFAULT_TARGET. Several are tried round robin; each must be an
    IP address, since gRPC resolves a name only if it stands alone (one name with several addresses
    is the way to do that). Raises InvalidTarget, a ValueError, for what cannot be reached.
    """
    given = target or os.environ.get("HEADWAY_TARGET") or DEFAULT_TARGET
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise InvalidTarget(f"target {given!a}: is not Unicode text") from error
    if given.startswith(("http:", "https:")):
        raise InvalidTarget(f"target {given!r}: write HOST:PORT, without http")
    if given.startswith(("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")):
        return given
    items = [_with_port(item.strip()) for item in given.split(",") if item.strip()]
    if len(items) == 1:
        return items[0]
    addresses = [item.replace("localhost:", "127.0.0.1:", 1) for item in items]
    versions = {_ip_version(address) for address in addresses}
    if versions == {4}:
        return "ipv4:" + ",".join(addresses)
    if versions == {6}:
        return "ipv6:" + ",".join(addresses)
    raise InvalidTarget(
        f"target {given!r}: a list takes IP addresses of one kind; "
        "for names, use one DNS name with several addresses"
    )


def options(target: str) -> list[tuple[str, str | int]]:
    """Channel options for a target as `resolve` gave it.

    Pings every 20 s find a connection that was dropped without a word; the server allows them.
    """
    chosen: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5_000),  # the bound of one attempt to connect
        ("grpc.max_reconnect_backoff_ms", 3_000),
    ]
    if _is_loopback(target):
        # gRPC sends even loopback through $http_proxy otherwise.
        chosen.append(("grpc.enable_http_proxy", 0))
    return chosen


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """The caller's trace context, so that the job joins its trace.

    Only in programs that use OpenTelemetry: if nobody has imported it, there is no current span.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def _with_port(item: str) -> str:
    bare_ipv6 = item.count(":") > 1 and not item.startswith("[")
    item = f"[{item}]" if bare_ipv6 else item
    _, _, port = item.rpartition("]")[2].rpartition(":")
    if not port.isdecimal():
        return f"{item.rstrip(':')}:{DEFAULT_TARGET.rpartition(':')[2]}"
    return item


def _host(target: str) -> str:
    return target.rpartition(":")[0].strip("[]")


def _ip_version(target: str) -> int | None:
    try:
        return ipaddress.ip_address(_host(target)).version
    except ValueError:
        return None


def _is_loopback(target: str) -> bool:
    first = target.removeprefix("ipv4:").removeprefix("ipv6:").split(",")[0]
    host = _host(first)
    return host == "localhost" or (
        _ip_version(first) is not None and ipaddress.ip_address(host).is_loopback
    )
