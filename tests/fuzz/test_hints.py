"""Hints are lossy words of anybody: hostile ones stop neither the server nor a watcher."""

import threading
from collections.abc import Iterator
from itertools import count

import grpc
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import JobState, v1
from headway_core.topology import HINTS_EXCHANGE
from tests.fuzz.effort import effort, thrown
from tests.fuzz.live import Live
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


def hints(watched: str, running: str) -> st.SearchStrategy[list[object]]:
    """Of the right shape about a job that is watched and one that runs, with wrong values in them.

    Nobody has asked for a cancellation: a hint that says so is wrong, too.
    """
    known = (watched, running)
    ids = st.sampled_from((*known, *map(str.upper, known), "", "x", "0" * 36))
    progress = st.one_of(
        st.lists(VALUES, min_size=6, max_size=8),
        st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, VALUES, VALUES, NUMBERS).map(list),
    )
    return st.one_of(
        st.tuples(st.just("event"), ids, NUMBERS, st.booleans()).map(list),
        st.tuples(st.just("progress"), ids, NUMBERS, progress).map(list),
        st.tuples(st.sampled_from(("cancel", "outbox", "event", "nothing")), VALUES).map(list),
        st.tuples(st.just("cancel"), ids).map(list),
        st.just(["outbox"]),
    )


class Watched:
    """A job with a watch on it, read in a thread to its end."""

    def __init__(self, target: str) -> None:
        self.kinds: list[str] = []
        self.error: grpc.RpcError | None = None
        self._channel = grpc.insecure_channel(target)
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
def watched(live: Live) -> Iterator[Watched]:
    found = Watched(live.target)
    yield found
    found.end()


@pytest.fixture(scope="module")
def running(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A job that runs meanwhile: the worker's supervisor and the server hear all hints, too."""
    live.skip_logs()
    path = tmp_path_factory.mktemp("hints") / "until"
    job = live.client.submit("hold", {"until": str(path)})
    live.until(lambda: live.client.get(job.id).state is JobState.RUNNING)
    yield job.id
    live.run_good_job()  # the worker has heard all of them before it hears of this one
    assert live.client.get(job.id).state is JobState.RUNNING
    path.touch()
    ended = live.wait(job)
    assert (ended.state, ended.attempt) == (JobState.COMPLETED, 1)
    live.check_logs()


@pytest.fixture(scope="module")
def publisher(live: Live) -> Iterator[RawPublisher]:
    with RawPublisher(live.amqp_url) as found:
        yield found


@effort(100)
@given(data=st.data())
def test_hints_with_wrong_values(watched, running, publisher, data) -> None:
    thrown["hints"] += 1
    body = orjson.dumps(data.draw(st.lists(hints(watched.id, running), max_size=4)))
    publisher.publish(body, exchange=HINTS_EXCHANGE.encode(), routing_key=b"\xff")


@effort(40)
@given(
    body=st.one_of(
        st.binary(max_size=60),
        VALUES.map(orjson.dumps),
        st.sampled_from(
            (
                b"[" * 2_000,
                b"[" * 1024 + b"]" * 1024,
                b"x" * 1_048_577,
                b"[1e999]",
                b'["\xff"]',
                b'"cancel"',
                b'[["cancel"' + b"[" * 2_000,
                b'[["cancel", "\xff"]]',
            )
        ),
    )
)
def test_hints_that_are_none(watched, running, publisher, body) -> None:
    thrown["hints"] += 1
    publisher.publish(body, exchange=HINTS_EXCHANGE.encode(), routing_key=b"")
