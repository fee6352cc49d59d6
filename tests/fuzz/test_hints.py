"""Hints are lossy words of anybody: hostile ones stop neither the server nor a watcher."""

import threading
from collections.abc import Iterator
from itertools import count

import grpc
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import v1
from headway_core.topology import HINTS_EXCHANGE
from tests.fuzz.attacked import Attacked
from tests.fuzz.effort import effort, thrown
from tests.fuzz.raw_amqp import RawPublisher

WATCH_SECONDS = 20.0
NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from((0, 1, 2, 2**31, 2**53, 253_402_300_799, 253_402_300_800, -62_135_596_800)),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=8), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


def hints(job_id: str) -> st.SearchStrategy[list[object]]:
    """Of the right shape about a job that is watched, with wrong values in them."""
    ids = st.sampled_from((job_id, job_id.upper(), "", "x", "0" * 36))
    progress = st.one_of(
        st.lists(VALUES, min_size=6, max_size=8),
        st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, VALUES, VALUES, NUMBERS).map(list),
    )
    return st.one_of(
        st.tuples(st.just("event"), ids, NUMBERS, st.booleans()).map(list),
        st.tuples(st.just("progress"), ids, NUMBERS, progress).map(list),
        st.tuples(st.sampled_from(("cancel", "outbox", "event", "nothing")), VALUES).map(list),
        st.just(["outbox"]),
    )


class Watched:
    """A job with a watch on it, read in a thread to its end."""

    def __init__(self, attacked: Attacked) -> None:
        self.kinds: list[str] = []
        self.error: grpc.RpcError | None = None
        self._channel = grpc.insecure_channel(attacked.target)
        self._stub = v1.JobServiceStub(self._channel)
        request = v1.SubmitJobRequest(type="fuzz.watched")
        request.delay.FromSeconds(86_400)
        self.id = self._stub.SubmitJob(request).job.id
        self._stream = self._stub.WatchJob(v1.WatchJobRequest(job_id=self.id, after_sequence=0))
        self.begun = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self.begun.wait(WATCH_SECONDS)

    def _read(self) -> None:
        try:
            for number, response in zip(count(), self._stream, strict=False):
                if response.WhichOneof("update") == "event":
                    assert response.sequence == len(self.kinds) + 1, number
                    self.kinds.append(v1.JobEventType.Name(response.event.type))
                self.begun.set()
        except grpc.RpcError as error:
            self.error = error

    def end(self) -> None:
        """Cancel the job, and see that the watch shows it and ends well."""
        self._stub.CancelJob(v1.CancelJobRequest(job_id=self.id))
        self._thread.join(WATCH_SECONDS)
        assert not self._thread.is_alive(), "the watch does not end"
        self._channel.close()
        assert self.error is None
        assert self.kinds == ["JOB_EVENT_TYPE_SUBMITTED", "JOB_EVENT_TYPE_CANCELLED"]


@pytest.fixture(scope="module")
def watched(attacked: Attacked) -> Iterator[Watched]:
    found = Watched(attacked)
    yield found
    found.end()
    attacked.check_alive()


@pytest.fixture(scope="module")
def publisher(attacked: Attacked) -> Iterator[RawPublisher]:
    with RawPublisher(attacked.amqp_url) as found:
        yield found


@effort(150)
@given(data=st.data())
def test_hints_with_wrong_values(attacked, watched, publisher, data) -> None:
    thrown["hints"] += 1
    body = orjson.dumps(data.draw(st.lists(hints(watched.id), max_size=4)), option=0)
    publisher.publish(body, exchange=HINTS_EXCHANGE.encode(), routing_key=b"\xff")


@effort(60)
@given(
    body=st.one_of(
        st.binary(max_size=60),
        VALUES.map(orjson.dumps),
        st.sampled_from(
            (b"[" * 2_000, b"[" * 1024 + b"]" * 1024, b"x" * 1_048_577, b"[1e999]", b'["\xff"]')
        ),
    )
)
def test_hints_that_are_none(attacked, watched, publisher, body) -> None:
    thrown["hints"] += 1
    publisher.publish(body, exchange=HINTS_EXCHANGE.encode(), routing_key=b"")
