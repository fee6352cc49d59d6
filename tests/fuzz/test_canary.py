"""A secret in payloads, keys, labels, URLs and texts of exceptions is found where it may be, only.

It may be on the job's row, and so in what GetJob answers; never in logs (at DEBUG either), spans,
broker messages, or the errors that callers get.
"""

import asyncio
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from headway import Client, HeadwayError, JobState
from headway.v1 import SubmitJobRequest
from tests.end_to_end.conftest import MakeStack
from tests.end_to_end.otlp import Collector, collecting
from tests.end_to_end.stack import Stack, eventually, headway, query, reaches, run
from tests.fuzz.canaries import (
    NOT_QUOTING,
    QUOTING,
    REFUSALS,
    Canary,
    Seen,
    call,
    run_script,
    tapped,
    told,
)

APP = "tests.fuzz.canary_handlers:jobs"
COMMANDS_AT_ONCE = 4
REFUSALS_MIN = 3 + 4  # of submits and of settles
DONE = (JobState.COMPLETED, JobState.DEAD, JobState.CANCELLED)
ENDS = {
    "canary.complete": JobState.COMPLETED,
    "canary.retry": JobState.COMPLETED,
    "canary.forgotten": JobState.COMPLETED,
    "canary.die": JobState.DEAD,
    "canary.permanent": JobState.DEAD,
    "canary.child": JobState.DEAD,
    "canary.crash": JobState.DEAD,
    "canary.step": JobState.DEAD,
    "canary.refused": JobState.DEAD,
    "canary.late": JobState.DEAD,
    "canary.cancelled": JobState.CANCELLED,
}


AGAIN = (
    "canary.complete",
    "canary.die",
    "canary.permanent",
    "canary.child",
    "canary.step",
    "canary.cancelled",
)
"""The ends that the worker shows whose spans go to a collector."""


@pytest.fixture
def canary() -> Canary:
    return Canary()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture
def stack(new_stack: MakeStack, canary: Canary, collector: Collector, tmp_path: Path) -> Stack:
    """Its users' passwords at the database and at the broker are secrets, too."""
    found = new_stack(
        HEADWAY_LOG_LEVEL="debug",
        HEADWAY_TRACE_DIR=str(tmp_path / "traces"),
        HEADWAY_TRACES_PER_SECOND="1000",
    )
    role = f"canary_{secrets.token_hex(4)}"
    query(
        found.database_url, f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{canary.of['database']}'"
    )
    ctl = found.services.rabbitmqctl
    vhost = urlsplit(found.amqp_url).path.lstrip("/")
    ctl("add_user", role, canary.of["amqp"])
    ctl("set_permissions", "--vhost", vhost, role, ".*", ".*", ".*")
    found.tap_url = found.amqp_url
    found.owner_url, found.role = found.database_url, role
    found.database_url = _login(found.database_url, role, canary.of["database"])
    found.amqp_url = _login(found.amqp_url, role, canary.of["amqp"])
    return found


def _login(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


async def _expect_errors(stack: Stack, canary: Canary, seen: Seen, client: Client) -> None:
    """Requests that are refused, each with secrets in it."""
    secret = canary.of["payload"]
    payload, labels = {"text": secret, "deep": [secret]}, {"label": canary.of["label"]}
    key = canary.of["key"]
    wrong: list[dict[str, Any]] = [
        {"payload": {"other": secret}, "idempotency_key": f"{key}-canary.complete-1"},
        {"payload": payload, "priority": 77, "labels": labels, "idempotency_key": key},
        {"payload": payload, "labels": {"label": canary.of["label"] * 20}},
        {"payload": {"text": secret * 20_000}, "idempotency_key": key},
        {"payload": payload, "idempotency_key": f"{key}\0", "labels": labels},
        {"payload": payload, "idempotency_key": key * 20, "labels": labels},
        {"payload": payload, "queue": secret.upper()},
        {"payload": payload, "labels": {f"k{number}": key for number in range(40)}},
    ]
    for fields in wrong:
        with pytest.raises(HeadwayError) as refusal:
            await client.submit("canary.complete", **fields)
        seen.errors.append(told(refusal.value))
    for method in ("SubmitJob", "GetJob", "ListJobs", "CancelJob", "ReplayDeadLetter"):
        for head in (b"", b"\x0a\x7f", b"\x0a\x28"):
            await call(stack.target, method, head + secret.encode(), seen)
    assert len(seen.errors) >= 10


async def _run_all_ends(
    canary: Canary, client: Client, seen: Seen, *, kinds: Collection[str], round_: int
) -> None:
    payload = {
        "text": canary.of["text"],
        "payload": canary.of["payload"],
        "result": canary.of["result"],
    }
    ids = {}
    for kind in kinds:
        job = await client.submit(
            kind,
            payload,
            idempotency_key=f"{canary.of['key']}-{kind}-{round_}",
            labels={"label": canary.of["label"]},
        )
        ids[kind] = job.id
    await reaches(client, ids["canary.cancelled"], JobState.RUNNING)
    await client.cancel(ids["canary.cancelled"], reason="no longer wanted")
    for kind in kinds:
        job = await reaches(client, ids[kind], *DONE)
        assert job.state is ENDS[kind], job
        assert job.payload == payload
    died = await client.get(ids["canary.permanent"])
    assert died.error is not None
    assert canary.of["text"] in died.error.message  # whoever may see the job may see why
    with pytest.raises(HeadwayError) as refusal:
        await client.replay(ids["canary.complete"])
    seen.errors.append(told(refusal.value))
    again = await client.replay(ids["canary.die"])
    assert again.replayed_count == 1
    await reaches(client, ids["canary.die"], JobState.DEAD)


async def _outages(stack: Stack, client: Client, canary: Canary, seen: Seen) -> None:
    """The database refuses the user in the middle of it all, the broker cuts the connections."""
    stack.services.rabbitmqctl("close_all_user_connections", stack.role, "as told")
    query(stack.owner_url, f"ALTER ROLE {stack.role} NOLOGIN")
    query(
        stack.owner_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
        stack.role,
    )
    request = SubmitJobRequest(type="canary.complete", idempotency_key=canary.of["key"])
    request.payload.json["text"] = canary.of["payload"]
    reason = await call(stack.target, "SubmitJob", request.SerializeToString(), seen)
    assert reason == "DATABASE_UNAVAILABLE"
    query(stack.owner_url, f"ALTER ROLE {stack.role} LOGIN")
    job = await client.submit("canary.complete", {"result": canary.of["result"]})
    await reaches(client, job.id, JobState.COMPLETED)


async def _quoted_rows(stack: Stack, client: Client, canary: Canary, seen: Seen) -> None:
    """The database refuses rows at submit and at settle, with all of them in its errors."""
    payload = {name: canary.of[name] for name in ("payload", "result", "text")}
    await run_script(stack.owner_url, QUOTING)
    for kind, key, reason in (
        ("canary.defect", "", "INTERNAL"),
        ("canary.memory", "", "DATABASE_UNAVAILABLE"),
        ("canary.complete", "quoted", "INTERNAL"),
    ):
        request = SubmitJobRequest(type=kind, idempotency_key=canary.of["key"] + key)
        request.payload.json.update(payload)
        raw = request.SerializeToString()
        assert await call(stack.target, "SubmitJob", raw, seen) == reason
    waiting = await client.submit("canary.wait", payload)
    defect = await client.submit("canary.settle", payload)
    for job in (waiting, defect):
        await reaches(client, job.id, JobState.RUNNING)
    await eventually(
        lambda: query(stack.owner_url, REFUSALS)[0]["count"] >= REFUSALS_MIN,
        what="both settles are refused",
    )
    await run_script(stack.owner_url, NOT_QUOTING)
    for job in (waiting, defect):
        await reaches(client, job.id, JobState.COMPLETED)


async def _wrong_logins(stack: Stack, canary: Canary, seen: Seen) -> None:
    """Passwords that are refused, and places where nobody listens."""
    wrong = canary.of["wrong"]
    urls = {
        "HEADWAY_DATABASE_URL": [
            _login(stack.database_url, stack.role, wrong),
            f"postgresql://u:12/{wrong}@127.0.0.1/d",
            f"postgresql://127.0.0.1:1/d?user=u&password={wrong}",
            f"postgresql://u:{wrong}",
        ],
        "HEADWAY_AMQP_URL": [f"amqp://u:{wrong}@h:port/"],
    }
    free = asyncio.Semaphore(COMMANDS_AT_ONCE)

    async def start(name: str, url: str, *command: str) -> None:
        async with free:
            environment = {**stack.environment, name: url}
            ran = await run(headway(), *command, environment=environment, timeout=60)
        assert ran.code in {1, 2}, ran
        seen.errors.append(ran.output + ran.errors)

    async with asyncio.TaskGroup() as group:
        for name, values in urls.items():
            for url in values:
                group.create_task(start(name, url, "server", "--listen", "127.0.0.1:0"))
        for url in urls["HEADWAY_DATABASE_URL"][:1]:
            group.create_task(start("HEADWAY_DATABASE_URL", url, "migrate"))
            group.create_task(start("HEADWAY_DATABASE_URL", url, "doctor"))


@pytest.mark.timeout(180)
async def test_no_secret_leaves_by_logs_spans_messages_or_errors(
    stack: Stack, canary: Canary, collector: Collector, tmp_path: Path
) -> None:
    """One worker writes its spans to files, the next one sends them to a collector."""
    seen = Seen()
    async with tapped(stack.tap_url, seen), stack.client() as client:
        server, worker = stack.start_server(), stack.start_worker(app=APP)
        for child in (server, worker):
            await asyncio.to_thread(child.await_ready)
        await _run_all_ends(canary, client, seen, kinds=ENDS, round_=1)
        await _expect_errors(stack, canary, seen, client)
        await _outages(stack, client, canary, seen)
        await _quoted_rows(stack, client, canary, seen)
        refused = stack.start_worker(
            app=APP, HEADWAY_AMQP_URL=_login(stack.amqp_url, stack.role, canary.of["wrong"])
        )
        await eventually(
            lambda: "refuses the user" in refused.log.read_text(), what="it is refused"
        )
        await _wrong_logins(stack, canary, seen)
        await asyncio.to_thread(stack.stop, keep=1)
        other = stack.start_worker(app=APP, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        await asyncio.to_thread(other.await_ready)
        await _run_all_ends(canary, client, seen, kinds=AGAIN, round_=2)
        await asyncio.to_thread(stack.stop)

    logs = {path.name: path.read_bytes() for path in stack.directory.glob("*.log")}
    story = b"".join(logs.values())
    for word in (b"handler_raised", b"run_ended", b"rpc_refused", b'"exception"', b"broker_conn"):
        assert word in story, word  # or else the logs would be silent about everything
    assert seen.messages
    files = [path for path in (tmp_path / "traces").rglob("*") if path.is_file()]
    traces = {path.name: path.read_bytes() for path in files}
    assert b"process default" in b"".join(traces.values())
    traces["collector"] = b"".join(span.SerializeToString() for *_, span in collector.spans)
    assert b"process default" in traces["collector"]

    for name, data in (logs | traces).items():
        assert not canary.found_in(data), (name, _where(canary, data))
    for message in seen.messages:
        assert not canary.found_in(message), message
    for text in seen.errors:
        assert not canary.found_in(text.encode()), text


def _where(canary: Canary, data: bytes) -> list[tuple[set[str], bytes]]:
    lines = [(canary.found_in(line), line[:1500]) for line in data.splitlines()]
    return [line for line in lines if line[0]][:3]
