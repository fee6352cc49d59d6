"""The child process of one run: imports the user's module, runs one handler, tells its outcome.

`python -m headway_worker.child FD PARENT_PID`, started by isolation.py and by nobody else.
"""

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from itertools import count
from typing import Any, Final

from headway_core.content import Content
from headway_core.errors import Defect
from headway_worker.child_logs import ChildLogs
from headway_worker.child_messages import (
    LENGTHS,
    Ended,
    FromChild,
    Message,
    Progressed,
    Start,
    StepAnswer,
    StepAsked,
    StepDone,
    StepRefused,
    StopRun,
    decode,
    encode,
    lengths,
)
from headway_worker.conclusion import judge
from headway_worker.context import Context
from headway_worker.endings import Ending, Raised, awaited, called
from headway_worker.loading import NotLoadable, load_jobs
from headway_worker.parentage import bind_to_parent, end_orphan, own_pipe
from headway_worker.progress import ProgressMeter
from headway_worker.registry import Handler
from headway_worker.values import payload_value

PROGRESS_SECONDS: Final = 0.05
LOGGER: Final = "headway_worker.child"
"""`__name__` is `__main__` here, which is no name of ours to the rules about log lines."""
OOM_SCORE: Final = 500
"""When memory runs out the kernel picks the child before its executor and its neighbours."""

StepSpan = Callable[[str], AbstractContextManager[object]]


def main() -> int:
    """Run the one job. Whatever becomes of it, the exit code is 0 if it could be told."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    bind_to_parent(parent)
    link = Link(own_pipe(descriptor))
    start = link.read()
    if not isinstance(start, Start):
        raise Defect(f"the first message was {type(start).__name__}")
    _limit(start.memory_bytes_max)
    logs = ChildLogs(
        {
            "job_id": str(start.job_id),
            "type": start.type,
            "attempt": start.attempt,
            "trace_id": start.traceparent[3:35],
        }
    )
    with _traced(start) as span:
        ending = _run(start, link, span, logs)
    if isinstance(ending, Raised) and not link.stopped:
        logs.get(LOGGER).warning("handler_raised", exc_info=ending.error)
    link.end(Ended(judge(ending)))
    return 0


class Link:
    """The pipe to the executor. Requests come from any thread; one thread reads the answers."""

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._incoming = pipe.makefile("rb")
        self._write_lock = threading.Lock()
        self._numbers = count(1)
        self._waiting: dict[int, Future[Content | None]] = {}
        self._ended = threading.Event()
        self._on_stop: list[Callable[[], object]] = []
        self.meter = ProgressMeter()
        self.stopped = False

    def start(self) -> None:
        """Begin to read answers and to send progress."""
        threading.Thread(target=self._read_answers, name="headway-link", daemon=True).start()
        threading.Thread(target=self._send_progress, name="headway-progress", daemon=True).start()

    def when_stopped(self, action: Callable[[], object]) -> None:
        """Call it, in the thread that reads, when the run is told to end; at once if it was."""
        self._on_stop.append(action)
        if self.stopped:
            action()

    def read(self) -> Message:
        """Read one message. The end of the pipe ends this process: its executor is gone."""
        header_bytes, body_bytes = lengths(self._exactly(LENGTHS.size))
        return decode(self._exactly(header_bytes), self._exactly(body_bytes))

    def recall(self, name: str) -> Future[Content | None]:
        """See Steps."""
        number, answer = self._ask()
        self._send(StepAsked(number, name))
        return answer

    def store(self, name: str, result: Content) -> Future[Any]:
        """See Steps."""
        number, answer = self._ask()
        self._send(StepDone(number, name, result))
        return answer

    def end(self, ended: Ended) -> None:
        """Send the newest progress and the outcome, the last there is to say."""
        self._ended.set()
        self._send_newest()
        self._send(ended)

    def _ask(self) -> tuple[int, Future[Content | None]]:
        number, answer = next(self._numbers), Future[Content | None]()
        self._waiting[number] = answer
        return number, answer

    def _send(self, message: FromChild) -> None:
        with self._write_lock:
            self._pipe.sendall(encode(message))

    def _exactly(self, size: int) -> bytes:
        try:
            data = self._incoming.read(size)
        except ConnectionError:  # it was killed with something unread
            data = b""
        if len(data) < size:
            end_orphan()
        return data

    def _read_answers(self) -> None:
        while True:
            match self.read():
                case StepAnswer(number, stored):
                    self._waiting.pop(number).set_result(stored)
                case StepRefused(number):
                    self._waiting.pop(number).cancel()
                case StopRun():
                    self.stopped = True
                    for action in self._on_stop:
                        action()
                case message:
                    raise Defect(f"the executor said {type(message).__name__}")

    def _send_progress(self) -> None:
        while not self._ended.wait(PROGRESS_SECONDS):
            self._send_newest()

    def _send_newest(self) -> None:
        if progress := self.meter.take():
            self._send(Progressed(progress))


@contextlib.contextmanager
def _traced(start: Start) -> Iterator[StepSpan]:
    """Continue the run's trace, if it is recorded; OpenTelemetry is slow to import."""
    if not start.traced:
        yield lambda _name: contextlib.nullcontext()
        return
    from headway_core.settings import load
    from headway_core.telemetry import Telemetry
    from headway_core.trace_context import TraceContext
    from headway_worker.settings import WorkerSettings

    telemetry = Telemetry.start("headway-worker", load(WorkerSettings))
    try:
        with telemetry.attached(TraceContext(start.traceparent, start.tracestate)):
            yield lambda name: telemetry.step_span(name, start.job_id)
    finally:
        telemetry.shutdown()


def _run(start: Start, link: Link, span: StepSpan, logs: ChildLogs) -> Ending:
    try:
        handler = load_jobs(start.target).handlers.get(start.type)
        if handler is None:
            raise NotLoadable(f"{start.target} has no handler for {start.type} any more")
        payload = payload_value(start.payload)
    except BaseException as error:  # noqa: BLE001 - user code is imported
        return Raised(error)
    logs.prepare()
    context = _context(start, link, span, handler, logs.get("handler"))
    link.start()
    if handler.is_async:
        return asyncio.run(_run_async(handler, context, payload, link))
    return called(handler.function, context, payload)


async def _run_async(handler: Handler, context: Context, payload: Any, link: Link) -> Ending:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(awaited(handler.function, context, payload))
        link.when_stopped(lambda: loop.call_soon_threadsafe(task.cancel))
        await asyncio.wait([task])
    return Raised(asyncio.CancelledError()) if task.cancelled() else task.result()


def _context(start: Start, link: Link, span: StepSpan, handler: Handler, logger: Any) -> Context:
    return Context(
        job_id=start.job_id,
        attempt=start.attempt,
        type=start.type,
        labels=start.labels,
        steps=link,
        meter=link.meter,
        cancelled=lambda: link.stopped,
        span=span,
        logger=logger,
        blocking=not handler.is_async,
    )


def _limit(memory_bytes_max: int | None) -> None:
    if memory_bytes_max is not None:
        import resource

        # macOS knows the limit, but may refuse it, and does not enforce it.
        with contextlib.suppress(*(() if sys.platform == "linux" else (ValueError, OSError))):
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes_max, memory_bytes_max))
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # not in every container
            fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
            try:
                os.write(fd, str(OOM_SCORE).encode())
            finally:
                os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
