"""Every number Headway shows, as Prometheus text on a port of its own."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Final, Never, Self

from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    NoOpMeterProvider,
    Observation,
)

from headway_core.hint_codec import HintLoss
from headway_core.settings import CoreSettings
from headway_core.sweeps import QueueStatistics

WAIT_BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14_400)
RUN_BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400)
CALL_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
LAG_PROBE_SECONDS: Final = 0.5

Reading = Callable[[], Iterable[Observation]]


class Publish(StrEnum):
    """What became of a try to publish."""

    CONFIRMED = "confirmed"
    RETURNED = "returned"
    """No queue took it."""
    REFUSED = "refused"
    LOST = "lost"
    """The connection broke, or five seconds passed, before the broker spoke."""
    NOT_SENT = "not_sent"


class Metrics:
    """The instruments of one process. Gauges show what was last told."""

    def __init__(self, provider: MeterProvider, *, stop: Callable[[], None] = lambda: None) -> None:
        meter = provider.get_meter("headway")
        self._stop = stop
        self._waits = _histogram(meter, "headway.job.wait", "Due to started, by run", WAIT_BUCKETS)
        self._runs = _histogram(meter, "headway.job.run", "Started to settled, by run", RUN_BUCKETS)
        self._calls = _histogram(
            meter, "rpc.server.call.duration", "Requests, streams included", CALL_BUCKETS
        )
        self._lags = _histogram(
            meter, "headway.loop.lag", "How late the event loop wakes", LAG_BUCKETS
        )
        self._attempts = meter.create_counter("headway.job.attempts", description="Runs by outcome")
        self._deaths = meter.create_counter("headway.job.deaths", description="Jobs become DEAD")
        self._submits = meter.create_counter("headway.job.submits", description="Accepted jobs")
        self._published = meter.create_counter(
            "headway.broker.published", description="Tries to publish, by what became of them"
        )
        self._hints_lost = meter.create_counter(
            "headway.hints.lost", description="Hints dropped for want of room, or malformed"
        )
        self._queues: Sequence[QueueStatistics] = ()
        self._outbox_lag: tuple[timedelta, ...] = ()
        self._slots: tuple[int, ...] = ()
        self._loop: tuple[asyncio.AbstractEventLoop, ...] = ()
        self._make_gauges(meter)

    @classmethod
    def start(cls, settings: CoreSettings, *, service: str) -> Self:
        """Serve the metrics at HEADWAY_METRICS_LISTEN, if that is set.

        Raises SettingsInvalid if the address cannot be had.
        """
        if settings.metrics_listen is None:
            return cls.off()
        # Imported here: the SDK takes 0.2 s of each start, and most processes serve no metrics.
        from headway_core.metrics_server import serve

        provider, stop = serve(settings.metrics_listen, service=service)
        return cls(provider, stop=stop)

    @classmethod
    def off(cls) -> Self:
        """Count nothing."""
        return cls(NoOpMeterProvider())

    def shutdown(self) -> None:
        """Close the port. Blocks for a moment."""
        self._stop()

    def job_submitted(self, *, queue: str) -> None:
        """Count an accepted job."""
        self._submits.add(1, {"queue": queue})

    def job_waited(self, *, queue: str, type: str, seconds: float) -> None:  # noqa: A002
        """Note how long a job that starts had been due."""
        self._waits.record(max(0.0, seconds), {"queue": queue, "type": type})

    def job_ran(self, *, queue: str, type: str, outcome: str, seconds: float) -> None:  # noqa: A002
        """Note how a run ended, and after how long."""
        labels = {"queue": queue, "type": type, "outcome": outcome}
        self._runs.record(max(0.0, seconds), labels)
        self._attempts.add(1, labels)

    def job_died(self, *, queue: str, type: str) -> None:  # noqa: A002
        """Count a job that became DEAD."""
        self._deaths.add(1, {"queue": queue, "type": type})

    def rpc(self, *, method: str, code: str, seconds: float) -> None:
        """Note a request, by gRPC's name of its code."""
        labels = {"rpc.method": method, "rpc.response.status_code": code}
        self._calls.record(seconds, labels)

    def published(self, result: Publish, count: int = 1) -> None:
        """Count tries to publish."""
        if count:
            self._published.add(count, {"result": result.value})

    def hint_lost(self, why: HintLoss, count: int) -> None:
        """Count hints that were not passed on."""
        self._hints_lost.add(count, {"why": why.value})

    def loop_lag(self, seconds: float) -> None:
        """Note how late the event loop woke."""
        self._lags.record(seconds)

    def show_tasks_of(self, loop: asyncio.AbstractEventLoop) -> None:
        """Show how many tasks this loop has from now on, counted when somebody asks."""
        self._loop = (loop,)

    def show_queues(self, statistics: Sequence[QueueStatistics]) -> None:
        """Show depth and age of every queue from now on."""
        self._queues = statistics

    def show_outbox_lag(self, lag: timedelta) -> None:
        """Show how late the oldest due outbox row is."""
        self._outbox_lag = (lag,)

    def show_slots(self, *, total: int, used: int) -> None:
        """Show how many jobs this worker can run, and runs."""
        self._slots = (total, used)

    def _make_gauges(self, meter: Meter) -> None:
        def gauge(name: str, unit: str, description: str, read: Reading) -> None:
            def observe(_: CallbackOptions) -> Iterable[Observation]:
                return read()

            meter.create_observable_gauge(name, [observe], unit, description)

        def by_queue(value: Callable[[QueueStatistics], float]) -> Reading:
            return lambda: [Observation(value(row), {"queue": row.queue}) for row in self._queues]

        gauge("headway.queue.waiting", "", "Jobs that wait", by_queue(lambda row: row.waiting))
        gauge("headway.queue.running", "", "Jobs that run", by_queue(lambda row: row.running))
        gauge("headway.queue.dead", "", "Dead letters", by_queue(lambda row: row.dead))
        gauge(
            "headway.queue.oldest.wait",
            "s",
            "How long the oldest waiting job has been due",
            by_queue(lambda row: row.oldest_wait_seconds),
        )
        gauge(
            "headway.outbox.lag",
            "s",
            "How late the oldest due message is",
            lambda: [Observation(lag.total_seconds()) for lag in self._outbox_lag],
        )
        gauge(
            "headway.loop.tasks",
            "",
            "Tasks of the event loop",
            lambda: [Observation(len(asyncio.all_tasks(loop))) for loop in self._loop],
        )
        gauge(
            "headway.worker.slots",
            "",
            "Jobs this worker can run, and runs",
            lambda: [
                Observation(count, {"state": state})
                for state, count in zip(("total", "used"), self._slots, strict=False)
            ],
        )


async def measure_loop_lag(metrics: Metrics) -> Never:
    """Measure how late the event loop wakes, for ever: a loop for the process's TaskGroup."""
    loop = asyncio.get_running_loop()
    metrics.show_tasks_of(loop)
    while True:
        due = loop.time() + LAG_PROBE_SECONDS
        await asyncio.sleep(LAG_PROBE_SECONDS)
        metrics.loop_lag(max(0.0, loop.time() - due))


def _histogram(meter: Meter, name: str, description: str, buckets: Sequence[float]) -> Histogram:
    return meter.create_histogram(
        name, unit="s", description=description, explicit_bucket_boundaries_advisory=buckets
    )
