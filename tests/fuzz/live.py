"""A server and a worker that run jobs while things are thrown at them."""

import time
from collections.abc import Callable
from typing import Any

import psutil

from headway import Job, JobState, SyncClient
from headway_dev.children import Child
from tests.end_to_end.stack import POLL_SECONDS, Stack, query
from tests.fuzz.process_log import ProcessLog

GOOD_WITHIN_SECONDS = 30.0
OUTBOX_DUE = "SELECT FROM outbox WHERE available_at <= clock_timestamp()"


class Live:
    """Both processes, and what callers and operators see of them."""

    def __init__(self, stack: Stack, server: Child, worker: Child, client: SyncClient) -> None:
        self.database_url = stack.database_url
        self.amqp_url = stack.amqp_url
        self.target = stack.target
        self.client = client
        self._worker = worker
        self._logs = [ProcessLog(server.log), ProcessLog(worker.log)]
        self._executors = self.executors()

    def executors(self) -> set[int]:
        """The worker's processes that run jobs."""
        return {child.pid for child in psutil.Process(self._worker.record.pid).children()}

    def wait(self, job: Job, *, seconds: float = GOOD_WITHIN_SECONDS) -> Job:
        """The job once it is done."""
        return self.client.wait(job.id, timeout=seconds)

    def until(self, holds: Callable[[], object]) -> None:
        """Ask until it holds."""
        deadline = time.monotonic() + GOOD_WITHIN_SECONDS
        while not holds():
            assert time.monotonic() < deadline, "not within its time"
            time.sleep(POLL_SECONDS)

    def run_good_job(self) -> None:
        """A job like any other is done soon."""
        job = self.wait(self.client.submit("echo", {"a": 1}))
        assert job.state is JobState.COMPLETED, job

    def skip_logs(self) -> None:
        """Forget what was logged so far: handlers of other tests raise."""
        for log in self._logs:
            log.skip()

    def check_logs(self, *errors: str) -> None:
        """No defect was logged, and no executor was replaced."""
        for log in self._logs:
            log.check(errors=errors)
        assert self.executors() == self._executors, "an executor has died"

    def query(self, statement: str, *arguments: object) -> list[Any]:
        """Ask the database."""
        return query(self.database_url, statement, *arguments)
