"""A server and workers as a user starts them, on private services, and what they cost these."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import uuid4

import asyncpg
import grpc
import psutil

from headway.v1 import BatchSubmitJobsRequest, JobServiceStub, Payload, SubmitJobRequest
from headway_dev import ports
from headway_dev.children import Child, stop_all
from headway_dev.services import Services

HANDLERS: Final = "bench.handlers:jobs"
STOP_SECONDS: Final = 20.0
PAYLOAD: Final = b'{"country": "FR"}' * 12
BATCH: Final = 32


class Deployment:
    """Started processes, and a stub for the server."""

    def __init__(self, services: Services, pool: "asyncpg.Pool[asyncpg.Record]", stub: Any) -> None:
        self.services = services
        self.pool = pool
        self.stub = stub
        self.children: list[Child] = []

    @classmethod
    @asynccontextmanager
    async def start(cls, services: Services) -> AsyncIterator[Self]:
        """Start a server; all children are stopped at the end."""
        port = ports.free_port()
        pool = await asyncpg.create_pool(services.database_url, min_size=1, max_size=8)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            deployment = cls(services, pool, JobServiceStub(channel))
            try:
                deployment.run("server", "server", "--listen", f"127.0.0.1:{port}")
                yield deployment
            finally:
                stop_all(deployment.children[::-1])
                await pool.close()

    def run(self, name: str, *arguments: str) -> None:
        """Start `headway …` and wait until it is ready."""
        child = Child(
            name,
            arguments,
            state=self.services.state,
            directory=self.services.directory,
            environment={
                "HEADWAY_DATABASE_URL": self.services.database_url,
                "HEADWAY_AMQP_URL": self.services.amqp_url,
            },
            stop_seconds=STOP_SECONDS,
        )
        self.children.append(child)
        child.await_ready()

    async def submit_batch(self) -> None:
        """Store BATCH jobs in one call."""
        requests = [self.request() for _ in range(BATCH)]
        await self.stub.BatchSubmitJobs(BatchSubmitJobsRequest(requests=requests))

    def request(self) -> SubmitJobRequest:
        """A job that does nothing, with a key, a label and 200 bytes of payload."""
        payload = Payload(data=PAYLOAD)
        labels = {"tenant": "t1"}
        return SubmitJobRequest(
            type="bench.small_result", payload=payload, labels=labels, idempotency_key=str(uuid4())
        )

    async def cost(self) -> "Cost":
        """What the services have done so far."""
        row = await self.pool.fetchrow(
            "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8 AS wal, "
            "pg_current_xact_id()::text::bigint AS transactions"
        )
        assert row is not None
        processes = self.services.state.processes
        return Cost(
            row["wal"],
            row["transactions"],
            _cpu_seconds(processes["postgres"].pid),
            _cpu_seconds(processes["rabbitmq"].pid),
            sum(
                _cpu_seconds(child.record.pid) for child in self.children if child.name == "server"
            ),
            sum(
                _cpu_seconds(child.record.pid) for child in self.children if child.name != "server"
            ),
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """Sums since the start of the services."""

    wal_bytes: float
    transactions: int
    """That have written: each is a commit that waits for the disk, unless it shared the flush."""
    postgres_seconds: float
    """Of CPU; so below."""
    rabbitmq_seconds: float
    server_seconds: float
    worker_seconds: float

    def since(self, before: "Cost", *, jobs: int) -> dict[str, float]:
        """What one job has cost."""
        return {
            "wal_bytes": (self.wal_bytes - before.wal_bytes) / jobs,
            # Asking for the number took one.
            "transactions": (self.transactions - before.transactions - 1) / jobs,
            "postgres_ms": (self.postgres_seconds - before.postgres_seconds) * 1000 / jobs,
            "rabbitmq_ms": (self.rabbitmq_seconds - before.rabbitmq_seconds) * 1000 / jobs,
            "server_ms": (self.server_seconds - before.server_seconds) * 1000 / jobs,
            "worker_ms": (self.worker_seconds - before.worker_seconds) * 1000 / jobs,
        }


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process and all that it started, those that have ended included."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return float(total)


def show(title: str, rows: Sequence[tuple[str, dict[str, float]]]) -> None:
    """Print a table: a line a row, a column a key."""
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    print(f"\n{title}")
    print(f"{'':32}" + "".join(f"{name:>14}" for name in names))
    for name, row in rows:
        cells = (f"{row[key]:>14,.2f}" if key in row else " " * 14 for key in names)
        print(f"{name:32}" + "".join(cells))
