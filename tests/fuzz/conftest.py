"""Processes to throw things at; the report says at the end how many things were thrown."""

import time
from collections.abc import Iterator

import pytest

from headway import SyncClient
from headway.jobs import JobState
from tests.end_to_end.conftest import MakeStack, new_stack
from tests.end_to_end.stack import query
from tests.fuzz.attacked import Attacked
from tests.fuzz.effort import thrown
from tests.fuzz.live import Live

__all__ = ["new_stack"]

HANDLERS = "tests.fuzz.handlers:jobs"
# Nothing in the background may change a row while a digest is compared.
STILL = {"HEADWAY_STARVATION_SECONDS": "86400", "HEADWAY_LOG_LEVEL": "debug"}


@pytest.fixture(scope="module")
def attacked(_attacked: Attacked) -> Attacked:
    """The server under attack, at rest, with its few jobs and nothing else."""
    _attacked.rest()
    return _attacked


@pytest.fixture(scope="session")
def _attacked(new_stack: MakeStack) -> Iterator[Attacked]:
    """A server on a real broker; its database has one job of each end, and one that waits."""
    stack = new_stack(**STILL)
    server, _ = stack.start()
    with SyncClient(stack.target) as client:
        ids = [
            client.submit("e2e.work", {"echo": 1}, idempotency_key="fuzz-key").id,
            client.submit("e2e.work", {"die": True}).id,
            client.submit("e2e.work", {}, delay=86_400 * 300).id,
        ]
        client.cancel(client.submit("e2e.work", {}, delay=86_400 * 300).id)
        deadline = time.monotonic() + 30
        wanted = {JobState.COMPLETED, JobState.DEAD, JobState.PENDING, JobState.CANCELLED}
        while {job.state for job in client.list()} != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ids = [job.id for job in client.list()]
    stack.stop(keep=1)
    # Or else the server would delete it in a while.
    query(stack.database_url, "DELETE FROM workers")
    found = Attacked(stack, server, ids)
    yield found
    found.close()
    stack.stop()


@pytest.fixture(scope="session")
def live(new_stack: MakeStack) -> Iterator[Live]:
    """A server, and a worker with one executor, for tests that only add to what is there."""
    stack = new_stack()
    server = stack.start_server()
    worker = stack.start_worker("--concurrency", "8", "--processes", "1", app=HANDLERS)
    for child in (server, worker):
        child.await_ready()
    with SyncClient(stack.target) as client:
        yield Live(stack, server, worker, client)
    stack.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if thrown:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(thrown.items()))
        terminalreporter.write_line(f"thrown: {sum(thrown.values())} ({counts})")
