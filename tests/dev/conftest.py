"""Directories for private services that the tests here start themselves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headway_dev.services import AMQP_VARIABLE, DATABASE_VARIABLE, private_services


@pytest.fixture(autouse=True)
def private_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here are private services, whatever the environment names."""
    monkeypatch.delenv(DATABASE_VARIABLE, raising=False)
    monkeypatch.delenv(AMQP_VARIABLE, raising=False)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory for services, from which nothing is left afterwards."""
    path = tmp_path / "services"
    yield path
    if path.exists():
        with private_services(path, start=False) as services:
            services.erase()
