"""The stage of the worker's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.worker.stage import Stage
from tests.worker.stage import stage as set_up


@pytest.fixture
async def stage(
    database_url: str, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    """A fresh database and virtual host, with a relay and a reaper between them."""
    async with set_up(database_url, amqp_url) as found:
        for name, value in found.environ.items():
            monkeypatch.setenv(name, value)  # child processes of an engine inherit them
        yield found
