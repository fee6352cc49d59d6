"""A server process under attack: raw calls, what it answers, and whether a row has changed."""

import asyncio
import re
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import grpc
from google.rpc import error_details_pb2, status_pb2

from headway_dev.children import Child
from tests.end_to_end.stack import Stack

Result = TypeVar("Result")

SERVICE = "headway.v1.JobService"
STREAMS = {"WatchJob"}
CALL_SECONDS = 20.0
REST_SECONDS_MAX = 30.0
LAST_WRITE_SECONDS = 0.3
"""What a call whose deadline is over may still have on its way to the database."""
RECEIVE_BYTES_MAX = 6 * 1024 * 1024
METADATA_BYTES_GRPC_TAKES = 8 * 1024

# server/headway_server/status.py has the table that DESIGN's errors come from.
PRECISE = {
    ("INVALID_ARGUMENT", "INVALID_FIELD"),
    ("INVALID_ARGUMENT", "MALFORMED_REQUEST"),
    ("INVALID_ARGUMENT", "FILTER_REQUIRED"),
    ("NOT_FOUND", "JOB_NOT_FOUND"),
    ("ALREADY_EXISTS", "IDEMPOTENCY_KEY_REUSED"),
    ("FAILED_PRECONDITION", "JOB_NOT_DEAD"),
    ("FAILED_PRECONDITION", "TOO_MANY_QUEUES"),
    ("RESOURCE_EXHAUSTED", "QUEUE_FULL"),
    ("UNAVAILABLE", "DATABASE_UNAVAILABLE"),
}
UNKNOWN_OUTCOME = {"DEADLINE_EXCEEDED", "CANCELLED", "UNAVAILABLE"}
"""After these a call may have had its effect: they are not refusals."""
PYTHON_TEXT = re.compile(
    r"Traceback|\.py\b|\b[A-Za-z]*(Exception|Error)\b(?!Info)|<class|object at 0x|asyncpg"
)
TABLES = (
    "dead_letters",
    "idempotency_keys",
    "job_events",
    "job_steps",
    "job_types",
    "jobs",
    "outbox",
    "queues",
    "runs",
    "schema_migrations",
    "workers",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended; `reason` is of its ErrorInfo, empty without one."""

    code: str
    reason: str = ""
    text: str = ""
    response: bytes = b""


class Attacked:
    """The server, and what a caller and an operator see of it."""

    def __init__(self, stack: Stack, server: Child, ids: Sequence[str]) -> None:
        """`ids`: the jobs that are there, and will be the only ones between two calls."""
        self.server = server
        self.target = stack.target
        self.amqp_url = stack.amqp_url
        self.ids = list(ids)
        self._ledger = Ledger(stack.database_url)
        self._channel = grpc.insecure_channel(
            stack.target, options=[("grpc.max_send_message_length", -1)]
        )
        self._digest = ""
        self.rest()

    def close(self) -> None:
        """End the connections."""
        self._channel.close()
        self._ledger.close()

    def throw(
        self,
        method: str,
        raw: bytes,
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        seconds: float = CALL_SECONDS,
    ) -> Answer:
        """Send a request; whatever it is, the answer is precise, and a refusal changed nothing."""
        answer = self._call(method, raw, metadata, seconds)
        assert not PYTHON_TEXT.search(answer.text), answer
        if answer.code in UNKNOWN_OUTCOME:
            time.sleep(LAST_WRITE_SECONDS)  # its caller has gone, and nobody can be asked
        if answer.code == "OK" or answer.code in UNKNOWN_OUTCOME:
            self.rest()
            return answer
        assert self._is_precise(answer, raw, metadata), answer
        assert self._ledger.digest() == self._digest, f"refused, and yet rows changed: {answer}"
        return answer

    def check_alive(self) -> None:
        """It still serves, in the same process, and has logged no defect."""
        assert self.server.exit_code is None
        assert self._call("ListJobs", b"", (), CALL_SECONDS).code == "OK"
        log = self.server.log.read_text(errors="replace")
        found = [line for line in log.splitlines() if "rpc_failed" in line or "Traceback" in line]
        assert not found, found[-1][:4000]

    def _is_precise(
        self, answer: Answer, raw: bytes, metadata: Sequence[tuple[str, str | bytes]]
    ) -> bool:
        if (answer.code, answer.reason) in PRECISE:
            return True
        size = sum(len(key) + len(value) for key, value in metadata)
        too_large = len(raw) > RECEIVE_BYTES_MAX or size > METADATA_BYTES_GRPC_TAKES
        return answer.code == "RESOURCE_EXHAUSTED" and not answer.reason and too_large

    def _call(
        self, method: str, raw: bytes, metadata: Sequence[tuple[str, str | bytes]], seconds: float
    ) -> Answer:
        path = f"/{SERVICE}/{method}"
        try:
            if method in STREAMS:
                call = self._channel.unary_stream(path)(raw, timeout=seconds, metadata=metadata)
                response = next(iter(call), b"")
                call.cancel()
            else:
                response = self._channel.unary_unary(path)(raw, timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            return _answer(error)
        return Answer("OK", response=response)

    def rest(self) -> None:
        """Wait until the server has nothing left to do, and bring the tables back."""
        deadline = time.monotonic() + REST_SECONDS_MAX
        while self._ledger.due():
            assert time.monotonic() < deadline, "the relay does not come to rest"
            time.sleep(0.005)
        self._ledger.forget_all_but(self.ids)
        self._digest = self._ledger.digest()


class Ledger:
    """The tables, read and cleared over a connection of its own, from any thread."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection = self._wait(asyncpg.connect(url, timeout=20))
        parts = [
            f"SELECT '{table}' n, coalesce(string_agg(t::text, '|' ORDER BY t::text), '') c"
            f" FROM {table} t"
            for table in TABLES
        ]
        self._digest = (
            f"SELECT md5(string_agg(n || c, '#' ORDER BY n)) FROM ({' UNION ALL '.join(parts)}) x"
        )
        found = self._wait(
            self._connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        )
        assert {row["tablename"] for row in found} == set(TABLES), "a table without a digest"

    def digest(self) -> str:
        """Of every row of every table."""
        return str(self._wait(self._connection.fetchval(self._digest)))

    def due(self) -> bool:
        """Whether the relay still has something to do."""
        query = (
            "SELECT EXISTS (SELECT FROM outbox WHERE available_at <= clock_timestamp())"
            " OR EXISTS (SELECT FROM jobs WHERE state IN (1, 5) AND wait_time <= clock_timestamp())"
        )
        return bool(self._wait(self._connection.fetchval(query)))

    def forget_all_but(self, job_ids: Sequence[str]) -> None:
        """Delete what calls have stored."""
        kept = ",".join(f"'{job_id}'" for job_id in job_ids) or "NULL"
        statements = [
            f"DELETE FROM {table} WHERE {column} NOT IN ({kept})"
            for table, column in (
                ("outbox", "job_id"),
                ("idempotency_keys", "job_id"),
                ("job_events", "job_id"),
                ("dead_letters", "job_id"),
                ("jobs", "id"),
            )
        ]
        statements.append("DELETE FROM queues WHERE name <> 'default'")
        self._wait(self._connection.execute(";".join(statements)))

    def close(self) -> None:
        """End the connection and the thread."""
        self._wait(self._connection.close(timeout=5))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        future: Future[Result] = asyncio.run_coroutine_threadsafe(_awaited(work), self._loop)
        return future.result(60)


async def _awaited(work: Any) -> Any:
    return await work


def _answer(error: Any) -> Answer:
    text, reason = [str(error.details())], ""
    for key, value in error.trailing_metadata() or ():
        text.append(f"{key}={value!r}")
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            text.append(str(status))
            for detail in status.details:
                if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                    info = error_details_pb2.ErrorInfo()
                    detail.Unpack(info)
                    assert info.domain == "headway"
                    reason = info.reason
    return Answer(error.code().name, reason, "\n".join(text))
