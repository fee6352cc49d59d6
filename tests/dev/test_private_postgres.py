"""A private PostgreSQL keeps its promises through stops, crashes and strangers."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import psutil
import pytest

from headway_dev import ports
from headway_dev.errors import DirectoryBusy, ServiceFailed, ToolMissing
from headway_dev.leftovers import main as end_leftovers
from headway_dev.places import unprivileged_account
from headway_dev.postgres import Postgres
from headway_dev.postgres_binaries import find_postgres
from headway_dev.processes import is_alive
from headway_dev.services import private_services
from headway_dev.state import STATE_FILE, State

OWNER = """
import sys, time
from pathlib import Path
from headway_dev.processes import is_alive
from headway_dev.services import private_services
with private_services(Path(sys.argv[1]), start=False) as services:
    services.postgres.start()
    print("started", flush=True)
    time.sleep(600)
"""


async def query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url, timeout=30)
    try:
        return await connection.fetchval(statement, timeout=30)
    finally:
        await connection.close(timeout=30)


def is_running(postgres: Postgres) -> bool:
    # A function, because a type checker takes a property for unchanging.
    return postgres.is_running


def start_owner(directory: Path) -> subprocess.Popen[str]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "started\n"
    owner.stdout.close()
    return owner


def recorded(directory: Path) -> list[psutil.Process]:
    found = [psutil.Process(r.pid) for r in State.load(directory).processes.values()]
    assert found
    return found


def wait_until_gone(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 60
    while any(map(is_alive, processes)):
        assert time.monotonic() < deadline, f"still there: {processes}"
        time.sleep(0.02)


async def test_data_port_and_password_outlive_the_owner(directory: Path) -> None:
    """A second `headway dev` finds its jobs again, under the address its clients know."""
    with private_services(directory, start=False) as services:
        services.postgres.start()
        url = services.database_url
        await query(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    with private_services(directory, start=False) as services:
        services.postgres.start()
        assert services.database_url == url
        assert await query(url, "SELECT answer FROM kept") == 42


async def test_every_ill_treatment_is_survived_on_the_same_address(directory: Path) -> None:
    """What the fault tests rely on."""
    with private_services(directory, start=False) as services:
        postgres = services.postgres
        postgres.start()
        url = services.database_url
        await query(url, "CREATE TABLE kept AS SELECT 42 AS answer")

        postgres.kill()
        assert not is_running(postgres)
        with pytest.raises(ConnectionError):
            await query(url, "SELECT 1")
        postgres.start()
        assert await query(url, "SELECT answer FROM kept") == 42

        postgres.pause()
        assert is_running(postgres)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await query(url, "SELECT 1")
        postgres.resume()
        assert await query(url, "SELECT answer FROM kept") == 42

        postgres.pause()
        postgres.stop()  # a frozen one, too
        assert not is_running(postgres)

        postgres.wipe()
        postgres.start()
        assert services.database_url == url
        assert await query(url, "SELECT to_regclass('kept')") is None


def test_a_second_owner_is_refused_by_name(directory: Path) -> None:
    """Two owners would end each other's services."""
    with private_services(directory, start=False):
        with pytest.raises(DirectoryBusy, match=f"in use by process {os.getpid()}"):
            private_services(directory, start=False).__enter__()


def test_services_end_with_their_killed_owner(directory: Path) -> None:
    """SIGKILL leaves no time to tidy up; the guardian does it."""
    owner = start_owner(directory)
    theirs = recorded(directory)
    owner.kill()
    owner.wait()
    wait_until_gone(theirs)


@pytest.mark.parametrize("by_next_start", [True, False])
def test_leftovers_of_a_killed_owner_and_guardian_are_ended(
    directory: Path, *, by_next_start: bool
) -> None:
    """Whatever dies, the next start (or `make clean`) finds the recorded processes."""
    owner = start_owner(directory)
    (guardian,) = [
        child
        for child in psutil.Process(owner.pid).children()
        if "headway_dev.guardian" in child.cmdline()
    ]
    old = recorded(directory)
    guardian.kill()
    owner.kill()
    owner.wait()
    wait_until_gone([guardian])
    assert all(map(is_alive, old))
    if by_next_start:
        with private_services(directory, start=False) as services:
            wait_until_gone(old)
            services.postgres.start()
            assert is_running(services.postgres)
    else:
        assert end_leftovers([str(directory)]) == 0
        wait_until_gone(old)


def test_a_crash_of_the_server_itself_is_seen_and_mended(directory: Path) -> None:
    """start() after a death nobody asked for works like after a stop."""
    with private_services(directory, start=False) as services:
        postgres = services.postgres
        postgres.start()
        assert postgres.record is not None
        os.kill(postgres.record.pid, signal.SIGKILL)
        wait_until_gone([psutil.Process(postgres.record.pid)])
        assert not is_running(postgres)
        postgres.start()
        assert is_running(postgres)


async def test_a_stranger_on_our_port_makes_us_move(directory: Path) -> None:
    """Between runs a port belongs to nobody."""
    with private_services(directory, start=False) as services:
        services.postgres.start()
        port = services.postgres.port
    with socket.create_server((ports.LOOPBACK, port)):
        with private_services(directory, start=False) as services:
            services.postgres.start()
            assert services.postgres.port != port
            assert await query(services.database_url, "SELECT 1") == 1


def test_within_a_run_a_lost_port_is_an_error_not_a_move(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients hold the address by now."""
    monkeypatch.setattr("headway_dev.service.KEEP_PORT_SECONDS", 0.1)
    with private_services(directory, start=False) as services:
        services.postgres.start()
        services.postgres.stop()
        with socket.create_server((ports.LOOPBACK, services.postgres.port)):
            with pytest.raises(ServiceFailed, match="was taken by another process"):
                services.postgres.start()


def test_the_password_is_nowhere_to_be_seen(directory: Path) -> None:
    """Not on a command line, and in files only for their owner."""
    with private_services(directory, start=False) as services:
        services.postgres.start()
        password = services.database_url.split(":")[2].partition("@")[0]
        assert len(password) >= 32
        assert stat.S_IMODE((directory / STATE_FILE).stat().st_mode) == 0o600
        assert password not in services.postgres.address
        assert password not in services.postgres.log.read_text()
        for process in psutil.process_iter(["cmdline"]):
            assert password not in " ".join(process.info["cmdline"] or [])


def test_binaries_named_by_the_user_have_to_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typing error must not end in another server than the one asked for."""
    monkeypatch.setenv("HEADWAY_DEV_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(ToolMissing, match="HEADWAY_DEV_POSTGRES_BIN"):
        find_postgres(unprivileged_account())


def test_ports_lie_below_the_ephemeral_range() -> None:
    """Else a client that dials a dead service might be connected to itself."""
    assert all(15_000 <= ports.free_port() < 32_000 for _ in range(20))
