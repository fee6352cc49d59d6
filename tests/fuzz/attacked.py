"""A server process under attack: raw calls, what it answers, and whether a row has changed."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from headway import v1
from headway_dev.children import Child
from tests.end_to_end.stack import Stack
from tests.fuzz.ledger import Ledger
from tests.fuzz.process_log import ProcessLog

SERVICE = "headway.v1.JobService"
STREAMS = {"WatchJob"}
CALL_SECONDS = 20.0
SILENT_SECONDS = 0.1
"""How long a stream that has nothing to tell is listened to."""
REST_SECONDS_MAX = 30.0
LAST_WRITE_SECONDS = 0.3
"""What a call whose deadline is over may still have on its way to the database."""
RECEIVE_BYTES_MAX = 6 * 1024 * 1024
METADATA_BYTES_GRPC_TAKES = 8 * 1024

# server/headway_server/status.py has the table that DESIGN's errors come from. The database is
# there and nobody drains: UNAVAILABLE would be a defect.
PRECISE = {
    ("INVALID_ARGUMENT", "INVALID_FIELD"),
    ("INVALID_ARGUMENT", "MALFORMED_REQUEST"),
    ("INVALID_ARGUMENT", "FILTER_REQUIRED"),
    ("NOT_FOUND", "JOB_NOT_FOUND"),
    ("ALREADY_EXISTS", "IDEMPOTENCY_KEY_REUSED"),
    ("FAILED_PRECONDITION", "JOB_NOT_DEAD"),
    ("FAILED_PRECONDITION", "TOO_MANY_QUEUES"),
    ("RESOURCE_EXHAUSTED", "QUEUE_FULL"),
}
EXPIRED = {"DEADLINE_EXCEEDED", "CANCELLED"}
"""What a caller sees who does not wait; of anybody else's call it would be a hang."""
PYTHON_TEXT = re.compile(
    r"Traceback|\.py\b|\b[A-Za-z]*(Exception|Error)\b(?!Info)|<class|object at 0x|asyncpg"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended; `reason` is of its ErrorInfo, empty without one."""

    code: str
    reason: str = ""
    text: str = ""
    responses: tuple[bytes, ...] = ()


class Attacked:
    """The server, and what a caller and an operator see of it."""

    def __init__(self, stack: Stack, server: Child, ids: Sequence[str]) -> None:
        """`ids`: the jobs that are there, and will be as they are now at each call."""
        self.stack = stack
        self.server = server
        self.target = stack.target
        self.amqp_url = stack.amqp_url
        self.ids = list(ids)
        self._log = ProcessLog(server.log)
        self._ledger = Ledger(stack.database_url)
        self._waiting = self._ledger.waiting()
        self._digest = self._ledger.digest()
        self._channel = grpc.insecure_channel(
            stack.target, options=[("grpc.max_send_message_length", -1)]
        )

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
        may_expire: bool = False,
    ) -> Answer:
        """Send a request; whatever it is, the answer is precise, and a refusal changed nothing."""
        answer = self._call(method, raw, metadata, seconds)
        assert not PYTHON_TEXT.search(answer.text), answer
        if may_expire and answer.code in EXPIRED:
            time.sleep(LAST_WRITE_SECONDS)  # its caller has gone, and nobody can be asked
            self.rest()
        elif answer.code == "OK":
            self.rest()
        else:
            assert self._is_precise(answer, raw, metadata), (method, answer)
            self.check_unchanged()
        return answer

    def check_unchanged(self) -> None:
        """No row differs from what it was at the beginning."""
        assert self._ledger.digest() == self._digest, "refused, and yet rows changed"

    def check_alive(self) -> None:
        """It still serves, in the same process, and has logged no defect."""
        assert self.server.exit_code is None
        assert self._call("ListJobs", b"", (), CALL_SECONDS).code == "OK"
        self._log.check()

    def rest(self) -> None:
        """Wait until the server has nothing left to do, and bring the tables back."""
        deadline = time.monotonic() + REST_SECONDS_MAX
        while self._ledger.due():
            assert time.monotonic() < deadline, "the relay does not come to rest"
            time.sleep(0.005)
        if self._ledger.digest() != self._digest:
            self._ledger.restore()
            self.check_unchanged()

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
                return self._watch(path, raw, metadata, seconds)
            response = self._channel.unary_unary(path)(raw, timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            return answer_of(error)
        return Answer("OK", responses=(response,))

    def _watch(
        self, path: str, raw: bytes, metadata: Sequence[tuple[str, str | bytes]], seconds: float
    ) -> Answer:
        """Read a stream to its end, or to where it has told all that there is of a waiting job."""
        seen, last = _asked(raw)
        is_told = last is not None and last == self._waiting.get(seen)
        if is_told:
            seconds = min(seconds, SILENT_SECONDS)
        call = self._channel.unary_stream(path)(raw, timeout=seconds, metadata=metadata)
        responses: list[bytes] = []
        try:
            for response in call:
                responses.append(response)
                update = v1.WatchJobResponse.FromString(response)
                assert update.sequence == (last or 0) + 1 or update.HasField("snapshot"), update
                last = update.sequence
                if last == self._waiting.get(seen):
                    break
        except grpc.RpcError as error:
            if not (is_told and _code(error) == "DEADLINE_EXCEEDED"):
                raise
        finally:
            call.cancel()
        return Answer("OK", responses=tuple(responses))


def _asked(raw: bytes) -> tuple[str, int | None]:
    """The job and the sequence that a watch begins with; what is no message names none."""
    try:
        request = v1.WatchJobRequest.FromString(raw)
        job_id = str(UUID(request.job_id))
    except (DecodeError, ValueError):
        return "", None
    return job_id, request.after_sequence if request.HasField("after_sequence") else None


def _code(error: Any) -> str:
    return str(error.code().name)


def answer_of(error: Any) -> Answer:
    """An error of gRPC's as its caller sees it."""
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
    return Answer(_code(error), reason, "\n".join(text))
