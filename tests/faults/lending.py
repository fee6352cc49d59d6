"""Rigs are lent to one case after the other, and judged in between."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from headway_dev.services import Services
from tests.faults.rig import Rig

PASSED: Final = pytest.StashKey[bool]()
"""Of a case: whether it passed, what is torn down after it aside."""


@contextlib.contextmanager
def served(services: Services, directory: Path, **settings: str) -> Iterator[Rig]:
    """A rig with its server on services that nobody else uses meanwhile."""
    rig = Rig(
        services,
        database_url=services.database_url,
        amqp_url=services.amqp_url,
        directory=directory,
        settings=settings,
    )
    try:
        rig.start_server()
        yield rig
    finally:
        rig.stack.stop()


@contextlib.asynccontextmanager
async def judged(rig: Rig, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Lend the rig to a case, judge it if the case has not, and make it whole again."""
    rig.judged = True  # nothing is accepted yet
    try:
        yield
        if not request.node.stash.get(PASSED, False):
            print("history:", *await rig.violations(at_rest=False), sep="\n")
        elif not rig.judged:
            await rig.judge()
    finally:
        await rig.recover()
