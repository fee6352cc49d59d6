"""`headway server` as a process: what it prints, how it refuses to start, how it ends."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from headway.v1 import JobServiceStub, SubmitJobRequest, WatchJobRequest
from headway_core.database import Database
from tests.service.conftest import JOB_TYPE
from tests.service.eventually import eventually

START = "import sys; from headway_server.app import main; sys.exit(main(sys.argv[1:]))"
SECONDS = 60


class Process:
    """A server process and all it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ready(self) -> str:
        """Wait for the ready line and return the address."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            line = (await self._process.stdout.readline()).decode()
        assert line.startswith("ready grpc="), line or await self.stderr()
        return line.removeprefix("ready grpc=").strip()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self) -> int:
        async with asyncio.timeout(SECONDS):
            return await self._process.wait()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self._process.pid).children()

    async def stdout(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.read()).decode()

    async def stderr(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()


@asynccontextmanager
async def started(*arguments: str, **environ: str) -> AsyncIterator[Process]:
    """Start `headway server`, and kill it if it still runs at the end."""
    inherited = {name: value for name, value in os.environ.items() if "HEADWAY" not in name}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        START,
        *arguments,
        env={**inherited, "HEADWAY_LISTEN": "127.0.0.1:0", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def drained(call: Any) -> None:
    """Read a stream to its end."""
    while await call.read() is not grpc.aio.EOF:
        pass


@pytest.fixture
def urls(database_url: str, amqp_url: str) -> dict[str, str]:
    return {"HEADWAY_DATABASE_URL": database_url, "HEADWAY_AMQP_URL": amqp_url}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_says_ready_serves_and_drains(
    urls: dict[str, str], number: signal.Signals
) -> None:
    """One line on stdout, exit 0, and a watcher is told to go elsewhere."""
    async with started(**urls) as process:
        address = await process.ready()
        async with grpc.aio.insecure_channel(address) as channel:
            stub = JobServiceStub(channel)
            job = (await stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).job
            call = stub.WatchJob(WatchJobRequest(job_id=job.id))
            await call.read()
            process.send(number)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await drained(call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await process.end() == 0
        assert await process.stdout() == "", "one line and no more"


async def test_listen_is_given_by_option_or_environment(urls: dict[str, str]) -> None:
    """The option wins."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with started("--listen", f"localhost:{port}", **urls) as process:
        assert await process.ready() == f"localhost:{port}"


async def test_an_occupied_port_is_named(urls: dict[str, str]) -> None:
    """Exit 1 and a sentence; not half of another server's connections."""
    async with started(**urls) as first:
        address = await first.ready()
        async with started("--listen", address, **urls) as second:
            assert await second.end() == 1
            said = await second.stderr()
            assert f"cannot listen on {address}: another process listens there" in said
            assert "Traceback" not in said
            assert await second.stdout() == ""


async def test_an_old_schema_says_what_to_run(
    empty_database_url: str, urls: dict[str, str]
) -> None:
    """Refuses to start rather than fail at the first call."""
    urls["HEADWAY_DATABASE_URL"] = empty_database_url
    async with started(**urls) as process:
        assert await process.end() == 1
        assert "run `headway migrate`" in await process.stderr()


async def test_a_wrong_database_url_is_explained_without_its_password(
    urls: dict[str, str],
) -> None:
    """Wrong password, wrong database, nobody there, no URL at all."""
    right = urls["HEADWAY_DATABASE_URL"]
    login, _, place = right.rpartition("@")
    user = login.rpartition(":")[0]
    wrong = {
        f"{user}:hunter2@{place}": (1, "password authentication failed"),
        f"{right}_missing": (1, "does not exist"),
        f"{user}:hunter2@127.0.0.1:1/x": (1, "HEADWAY_DATABASE_URL (127.0.0.1:1/x)"),
        "mysql://u:hunter2@h/d": (2, "HEADWAY_DATABASE_URL"),
    }
    for url, (code, text) in wrong.items():
        urls["HEADWAY_DATABASE_URL"] = url
        async with started(**urls) as process:
            assert await process.end() == code
            said = await process.stderr()
            assert text in said
            assert "hunter2" not in said
            assert "Traceback" not in said


async def test_all_wrong_settings_are_reported_together() -> None:
    """Exit 2."""
    async with started(
        HEADWAY_LISTEN="nowhere", HEADWAY_REFLECTION="yes", HEADWAY_LEASE_SECONDS="ten"
    ) as process:
        assert await process.end() == 2
        said = await process.stderr()
    for name in ("DATABASE_URL", "AMQP_URL", "LISTEN", "REFLECTION", "LEASE_SECONDS"):
        assert f"HEADWAY_{name}" in said


async def test_a_server_without_a_broker_starts_and_says_so(urls: dict[str, str]) -> None:
    """Submits are accepted; the log names the trouble and no password."""
    urls["HEADWAY_AMQP_URL"] = "amqp://someone:hunter2@127.0.0.1:1/x"
    async with started(**urls) as process:
        address = await process.ready()
        async with grpc.aio.insecure_channel(address) as channel:
            stub = JobServiceStub(channel)
            assert (await stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).created
        process.send(signal.SIGTERM)
        assert await process.end() == 0
        said = await process.stderr()
        assert "broker_connection_lost" in said
        assert "hunter2" not in said


async def test_a_second_signal_ends_it_at_once(
    urls: dict[str, str], database_url: str, database: Database
) -> None:
    """Whatever the drain waits for: here a submit that waits for a lock on the table."""
    async with started(HEADWAY_DRAIN_SECONDS="600", **urls) as process:
        address = await process.ready()
        async with (
            grpc.aio.insecure_channel(address) as channel,
            database.transaction(timeout_seconds=100) as connection,
        ):
            stub = JobServiceStub(channel)
            await connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            call = asyncio.ensure_future(stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE)))
            await asyncio.sleep(0.3)
            process.send(signal.SIGTERM)
            await asyncio.sleep(0.1)
            process.send(signal.SIGTERM)
            assert await process.end() == 128 + signal.SIGTERM
            with pytest.raises(grpc.aio.AioRpcError):
                await call


async def test_calls_under_way_are_finished_by_the_drain(
    urls: dict[str, str], database: Database
) -> None:
    """What was accepted before the signal gets its answer."""
    async with started(**urls) as process:
        address = await process.ready()
        async with grpc.aio.insecure_channel(address) as channel:
            stub = JobServiceStub(channel)
            async with database.transaction(timeout_seconds=100) as connection:
                await connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
                call = asyncio.ensure_future(stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE)))
                await asyncio.sleep(0.3)
                process.send(signal.SIGTERM)
                await asyncio.sleep(0.3)
            assert (await call).created
        assert await process.end() == 0


@pytest.mark.parametrize("on", ["true", "false"])
async def test_reflection_is_a_setting(urls: dict[str, str], on: str) -> None:
    """Off by default; with it grpcurl needs no .proto files."""
    async with started(HEADWAY_REFLECTION=on, **urls) as process:
        address = await process.ready()
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
            call = stub.ServerReflectionInfo()

            async def ask(**request: str) -> Any:
                # A refusal may be there before the request is written.
                await call.write(reflection_pb2.ServerReflectionRequest(**request))
                return await call.read()

            if on == "false":
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ask(list_services="")
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            else:
                listed = (await ask(list_services="")).list_services_response.service
                names = {item.name for item in listed}
                assert {"headway.v1.JobService", "grpc.health.v1.Health"} <= names
                found = await ask(file_containing_symbol="headway.v1.JobService")
                assert found.HasField("file_descriptor_response")
            call.cancel()


async def test_several_processes_share_one_address(urls: dict[str, str]) -> None:
    """One ready line, connections spread by the kernel, one drain."""
    async with started("--processes", "2", **urls) as process:
        address = await process.ready()
        for _ in range(8):
            # A pool of its own gives each channel its own connection.
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                stub = JobServiceStub(channel)
                assert (await stub.SubmitJob(SubmitJobRequest(type=JOB_TYPE))).created
        assert len(process.children()) == 2
        process.send(signal.SIGINT)
        assert await process.end() == 0


async def test_no_child_outlives_a_parent_that_was_killed(urls: dict[str, str]) -> None:
    """Its input ends, and it goes."""
    async with started("--processes", "2", **urls) as process:
        await process.ready()
        children = process.children()
        process.send(signal.SIGKILL)
        await process.end()
        await eventually(lambda: not any(child.is_running() for child in children))


async def test_the_end_of_one_process_is_the_end_of_all(urls: dict[str, str]) -> None:
    """With its exit code told; a second signal leaves none of them behind."""
    async with started("--processes", "2", **urls) as process:
        await process.ready()
        children = process.children()
        children[0].kill()
        assert await process.end() == 1
        assert "ended with exit code -9" in await process.stderr()
        await eventually(lambda: not any(child.is_running() for child in children))


async def test_metrics_are_served_as_prometheus_text(urls: dict[str, str]) -> None:
    """Calls by method and code, queues by the database, the loop's lag."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with started(HEADWAY_METRICS_LISTEN=f"127.0.0.1:{port}", **urls) as process:
        address = await process.ready()
        async with grpc.aio.insecure_channel(address) as channel:
            await JobServiceStub(channel).SubmitJob(SubmitJobRequest(type=JOB_TYPE))

        async def text() -> str:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
            found = (await reader.read()).decode()
            writer.close()
            return found

        async def complete() -> bool:
            found = await text()
            return all(
                part in found
                for part in (
                    'rpc_method="headway.v1.JobService/SubmitJob"',
                    'headway_queue_waiting{queue="default"}',
                    "headway_loop_lag",
                )
            )

        await eventually(complete)


async def test_a_drain_is_told_to_those_who_watch_the_health(urls: dict[str, str]) -> None:
    """NOT_SERVING first, so that a balancer stops sending."""
    async with started(**urls) as process:
        address = await process.ready()
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = HealthStub(channel)  # type: ignore[arg-type]
            call = stub.Watch(HealthCheckRequest(service=""))
            assert (await call.read()).status == HealthCheckResponse.SERVING
            process.send(signal.SIGTERM)
            assert (await call.read()).status == HealthCheckResponse.NOT_SERVING
        assert await process.end() == 0
