"""Every number is there under its name, as Prometheus text on a port of its own."""

import asyncio
import socket
import time
from datetime import timedelta
from urllib.request import urlopen

import pytest

from headway_core.errors import SettingsInvalid
from headway_core.hints import HintLoss
from headway_core.metrics import Metrics, Publish, measure_loop_lag
from headway_core.settings import CoreSettings, load
from headway_core.sweeps import QueueStatistics
from tests.unit.test_telemetry import URLS


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def started(port: int) -> Metrics:
    settings = load(CoreSettings, URLS | {"HEADWAY_METRICS_LISTEN": f"127.0.0.1:{port}"})
    return Metrics.start(settings, service="headway-test")


def scrape(port: int) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    numbers = {}
    for line in lines:
        if not line.startswith("#"):
            name, _, number = line.rpartition(" ")
            numbers[name] = float(number)
    return numbers


def test_what_is_told_is_shown() -> None:
    port = free_port()
    metrics = started(port)
    try:
        metrics.job_submitted(queue="mail")
        metrics.job_waited(queue="mail", type="a", seconds=0.3)
        metrics.job_ran(queue="mail", type="a", outcome="failed", seconds=7)
        metrics.job_died(queue="mail", type="a")
        metrics.rpc(method="headway.v1.JobService/GetJob", code="OK", seconds=0.002)
        metrics.published(Publish.CONFIRMED, 3)
        metrics.published(Publish.LOST, 0)
        metrics.hint_lost(HintLoss.MALFORMED, 1)
        metrics.loop_lag(0.02)
        metrics.show_outbox_lag(timedelta(seconds=0))
        metrics.show_slots(total=10, used=4)
        metrics.show_queues(
            [QueueStatistics("mail", 5, 2, 61.5, 1), QueueStatistics("b", 0, 0, 0, 0)]
        )
        shown = scrape(port)
        metrics.show_queues([QueueStatistics("b", 1, 0, 0, 0)])
        later = scrape(port)
    finally:
        metrics.shutdown()
    call = 'rpc_method="headway.v1.JobService/GetJob",rpc_response_status_code="OK"'
    expected = {
        'headway_job_submits_total{queue="mail"}': 1,
        'headway_job_wait_seconds_bucket{le="0.1",queue="mail",type="a"}': 0,
        'headway_job_wait_seconds_bucket{le="0.5",queue="mail",type="a"}': 1,
        'headway_job_run_seconds_sum{outcome="failed",queue="mail",type="a"}': 7,
        'headway_job_attempts_total{outcome="failed",queue="mail",type="a"}': 1,
        'headway_job_deaths_total{queue="mail",type="a"}': 1,
        f"rpc_server_call_duration_seconds_count{{{call}}}": 1,
        'headway_broker_published_total{result="confirmed"}': 3,
        'headway_hints_lost_total{why="malformed"}': 1,
        'headway_loop_lag_seconds_bucket{le="0.025"}': 1,
        "headway_outbox_lag_seconds": 0,
        'headway_worker_slots{state="total"}': 10,
        'headway_worker_slots{state="used"}': 4,
        'headway_queue_waiting{queue="mail"}': 5,
        'headway_queue_running{queue="mail"}': 2,
        'headway_queue_dead{queue="mail"}': 1,
        'headway_queue_oldest_wait_seconds{queue="mail"}': 61.5,
    }
    assert expected.items() <= shown.items(), sorted(shown)
    assert not any('result="lost"' in name for name in shown)
    assert 'headway_queue_waiting{queue="mail"}' not in later
    assert later['headway_queue_waiting{queue="b"}'] == 1


def test_the_port_is_free_again_after_shutdown() -> None:
    port = free_port()
    started(port).shutdown()
    started(port).shutdown()


def test_a_port_that_is_taken_is_said_clearly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingsInvalid, match=f"HEADWAY_METRICS_LISTEN 127.0.0.1:{port}: .*in use"
        ):
            started(port)


def test_off_is_the_default_and_counts_nothing() -> None:
    metrics = Metrics.start(load(CoreSettings, URLS), service="headway-test")
    metrics.job_ran(queue="mail", type="a", outcome="failed", seconds=7)
    metrics.show_queues([])
    metrics.shutdown()


async def test_a_blocked_loop_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway_core.metrics.LAG_PROBE_SECONDS", 0.05)
    seen: list[float] = []
    metrics = Metrics.off()
    monkeypatch.setattr(metrics, "loop_lag", seen.append)
    task = asyncio.create_task(measure_loop_lag(metrics))
    async with asyncio.timeout(60):
        while min(seen, default=1.0) > 0.05:  # noqa: ASYNC110 -- a list sets no event
            await asyncio.sleep(0.01)
        seen.clear()
        time.sleep(0.3)  # noqa: ASYNC251 -- this is the lag
        while max(seen, default=0.0) < 0.15:  # noqa: ASYNC110 -- likewise
            await asyncio.sleep(0.01)
    task.cancel()


async def test_tasks_of_the_loop_are_counted_when_somebody_asks() -> None:
    port = free_port()
    metrics = started(port)
    sleeping = [asyncio.create_task(asyncio.sleep(60)) for _ in range(7)]
    try:
        metrics.show_tasks_of(asyncio.get_running_loop())
        before = (await asyncio.to_thread(scrape, port))["headway_loop_tasks"]
        sleeping.pop().cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        after = (await asyncio.to_thread(scrape, port))["headway_loop_tasks"]
    finally:
        for task in sleeping:
            task.cancel()
        metrics.shutdown()
    assert before >= 7
    assert after == before - 1
