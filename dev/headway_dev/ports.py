"""Loopback ports for private services."""

import contextlib
import random
import socket
import time

LOOPBACK = "127.0.0.1"
# Below every default ephemeral range (Linux 32768, macOS 49152). A port inside that range may be
# taken by any outgoing connection while its service is down, even by a client that dials it again
# and again: TCP lets it connect to itself.
PORTS = range(15_000, 32_000)
TRIES_MAX = 200


def free_port() -> int:
    """Find a loopback port that nothing listens on. Another process may still be faster."""
    for _ in range(TRIES_MAX):
        port = random.choice(PORTS)
        if not is_taken(port):
            return port
    raise OSError(f"no free port in {PORTS.start}-{PORTS.stop} on {LOOPBACK}")


def is_taken(port: int, *, host: str = LOOPBACK) -> bool:
    """Say whether a listener could not be bound to this port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections that linger in TIME_WAIT do not make a port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return True
    return False


def wait_until_free(port: int, *, timeout_seconds: float) -> bool:
    """Wait for a port that its last owner is about to leave; False when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while is_taken(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def answers(port: int, *, host: str = LOOPBACK, greeting: bytes = b"", first: bytes = b"") -> bool:
    """Say whether something accepts connections here and, if asked, answers as it should.

    greeting is sent once connected; the answer has to begin with `first`, within a second.
    """
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1) as peer:
        if not greeting:
            return True
        peer.settimeout(1)
        peer.sendall(greeting)
        return peer.recv(max(1, len(first))).startswith(first)
    return False
