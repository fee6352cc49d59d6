"""What the environment says to a server."""

from datetime import timedelta
from typing import Final

from headway_core.settings import (
    Address,
    CoreSettings,
    Flag,
    ListenAddress,
    Seconds,
    Whole,
    address,
    flag,
    seconds,
    whole,
)

DATABASE_CONNECTIONS: Final = 8
"""For calls; the work in the background has a few of its own."""
LONG_READ_CONNECTIONS: Final = 3
BACKGROUND_CONNECTIONS: Final = 8
BOOKKEEPING_CONNECTIONS: Final = 2
"""One to delete, one to mark."""
CALL_DATABASE_TIME_MAX: Final = timedelta(seconds=1.8)
"""For one call to Postgres, waiting for a connection included: clients hear within 2 s."""
LONG_READ_TIME_MAX: Final = timedelta(seconds=8)
"""For a listing with a filter that few of many rows match."""
BACKGROUND_DATABASE_TIME_MAX: Final = timedelta(seconds=5)

RECEIVE_BYTES_MAX: Final = 6 * 1024 * 1024
"""gRPC's own bound. The contract's is 4 MiB, and up to here the refusal says so properly."""
CALLS_MAX: Final = 20_000
"""At the same time, streams included. A fuse: beyond it gRPC refuses with RESOURCE_EXHAUSTED."""


class ServerSettings(CoreSettings):
    """Settings of `headway server`."""

    listen: ListenAddress = address("HEADWAY_LISTEN", default=Address("127.0.0.1", 50051))
    reflection: Flag = flag("HEADWAY_REFLECTION", default=False)
    starvation: Seconds = seconds("HEADWAY_STARVATION_SECONDS", default=300, least=1, most=86_400)
    queue_depth_max: Whole | None = whole(
        "HEADWAY_QUEUE_DEPTH_MAX", default=None, least=1, most=1_000_000_000
    )
    retention_days: Whole = whole("HEADWAY_RETENTION_DAYS", default=30, least=1, most=36_500)
