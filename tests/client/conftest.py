"""A scripted server, a client and a blocking client for each test."""

from collections.abc import AsyncIterator

import pytest

from headway import Client, SyncClient
from tests.client.scripted_server import ScriptedServer, ScriptedService, serving


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serving() as running:
        yield running


@pytest.fixture
async def service(server: ScriptedServer) -> ScriptedService:
    return server.service


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[Client]:
    async with Client(server.target, call_timeout=5, reconnect_timeout=10) as connected:
        yield connected


@pytest.fixture
async def blocking(server: ScriptedServer) -> AsyncIterator[SyncClient]:
    with SyncClient(server.target, call_timeout=5, reconnect_timeout=10) as connected:
        yield connected
