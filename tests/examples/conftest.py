"""The worker's own Context, on steps that are kept in memory, to run a handler without a worker."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog

from headway_core.content import Content
from headway_worker import Context
from headway_worker.handler_errors import JobCancelled
from headway_worker.progress import ProgressMeter


@dataclass
class JobHistory:
    """What outlives a run."""

    job_id: UUID = field(default_factory=uuid4)
    steps: dict[str, Content] = field(default_factory=dict)


class RunContext(Context):
    """The context of one run of a job, for the test to look into.

    `blocking` is for `def` handlers, as a worker sets it. `cancel_when` says, from what the run
    did so far, whether it is cancelled by now. The worker dies in this run when it is to store
    the result of `lose_step`.
    """

    def __init__(
        self,
        history: JobHistory,
        *,
        blocking: bool = False,
        attempt: int = 1,
        cancel_when: Callable[["RunContext"], bool] = lambda _: False,
        lose_step: str | None = None,
    ) -> None:
        super().__init__(
            job_id=history.job_id,
            attempt=attempt,
            type="tests",
            labels={},
            steps=self,
            meter=ProgressMeter(),
            cancelled=lambda: self.cancel_when(self),
            span=lambda _: nullcontext(),
            logger=structlog.get_logger(),
            blocking=blocking,
        )
        self.history = history
        self.cancel_when = cancel_when
        self.lose_step = lose_step
        self.progress_told: list[tuple[float, float]] = []
        self.steps_run: list[str] = []

    def progress(self, done: float, total: float, **details: Any) -> None:
        super().progress(done, total, **details)
        self.progress_told.append((done, total))

    def recall(self, name: str) -> "Future[Content | None]":
        if self.cancelled:
            return _failed(JobCancelled())
        return _finished(self.history.steps.get(name))

    def store(self, name: str, result: Content) -> "Future[None]":
        self.steps_run.append(name)
        if name == self.lose_step:
            return _failed(ConnectionAbortedError("the worker died here"))
        self.history.steps[name] = result
        return _finished(None)


@pytest.fixture
def history() -> JobHistory:
    """One job, before its first run."""
    return JobHistory()


@pytest.fixture
def context(history: JobHistory) -> Callable[..., RunContext]:
    """Make the context of a run of that job, or of another one: `context(blocking=True)`."""

    def make(of: JobHistory = history, **options: Any) -> RunContext:
        return RunContext(of, **options)

    return make


@pytest.fixture(autouse=True)
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that the handlers write to in this test."""
    directory = tmp_path / "output"
    monkeypatch.setenv("HEADWAY_EXAMPLES_OUTPUT", str(directory))
    return directory


@pytest.fixture
def files_left(output: Path) -> Callable[[], list[str]]:
    """Names of all files below the output directory, unfinished ones too."""
    return lambda: sorted(path.name for path in output.rglob("*") if path.is_file())


def _finished(result: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def _failed(error: BaseException) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
