"""P12 for JobService: whatever is sent, the answer is precise, and a refusal changes nothing."""

from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import given
from hypothesis import strategies as st

from headway import v1
from headway.v1 import job_service_pb2
from tests.fuzz import wire
from tests.fuzz.attacked import METADATA_BYTES_GRPC_TAKES, RECEIVE_BYTES_MAX, Attacked
from tests.fuzz.effort import effort, thrown

METHODS: dict[str, Descriptor] = {
    method.name: method.input_type
    for method in job_service_pb2.DESCRIPTOR.services_by_name["JobService"].methods
}
LISTS = ("ListJobs", "ListDeadLetters")
ABSENT = "01919191-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def good(attacked: Attacked) -> dict[str, list[str]]:
    """Values that get further than the first check."""
    answer = attacked.throw("ListJobs", v1.ListJobsRequest(page_size=1).SerializeToString())
    page = v1.ListJobsResponse.FromString(answer.responses[0])
    return {
        "job_id": [*attacked.ids, *attacked.ids, ABSENT],
        "type": ["e2e.work", "fuzz.one"],
        "queue": ["default", "fuzz"],
        "idempotency_key": ["fuzz-key", "k1", "k2"],
        "page_token": [page.next_page_token],
        "fingerprint": ["f" * 16],
    }


@pytest.fixture(scope="module")
def requests(good: dict[str, list[str]]) -> dict[str, st.SearchStrategy[bytes]]:
    return {name: wire.requests(kind, good) for name, kind in METHODS.items()}


@pytest.mark.parametrize("method", METHODS)
@effort(30)
@given(data=st.data())
def test_fields_of_every_kind_and_wire_type(attacked, requests, method, data) -> None:
    thrown["calls, by field"] += 1
    attacked.throw(method, data.draw(requests[method]))


@pytest.mark.parametrize("method", METHODS)
@effort(15)
@given(data=st.data())
def test_requests_cut_off_and_with_changed_bytes(attacked, requests, method, data) -> None:
    thrown["calls, mutated"] += 1
    attacked.throw(method, data.draw(wire.mutated(requests[method])))


@effort(40)
@given(method=st.sampled_from(list(METHODS)), raw=st.binary(max_size=200))
def test_bytes_that_are_no_message(attacked, method, raw) -> None:
    thrown["calls, any bytes"] += 1
    attacked.throw(method, raw)


@effort(25, most=2000)
@given(
    method=st.sampled_from(list(METHODS)),
    kind=st.sampled_from(wire.NESTINGS),
    depth=st.one_of(st.integers(1, 120), st.integers(120, 20_000)),
)
def test_nesting_beyond_every_parser(attacked, method, kind, depth) -> None:
    thrown["calls, nested"] += 1
    answer = attacked.throw(method, wire.nested(depth, kind=kind))
    # What is unknown has no depth: its bytes are skipped.
    if depth > 100 and method == "SubmitJob" and kind != "unknown":
        assert answer.reason in {"MALFORMED_REQUEST", "INVALID_FIELD"}, answer


@pytest.mark.parametrize("method", LISTS)
@effort(25)
@given(data=st.data())
def test_page_tokens_with_changed_bytes(attacked, good, method, data) -> None:
    """One that was tampered with is refused, or names a place from which a page is read."""
    thrown["page tokens"] += 1
    plain = urlsafe_b64decode(good["page_token"][0] + "===")
    token = data.draw(
        st.one_of(
            st.text(max_size=80),
            st.builds(
                lambda head, tail: urlsafe_b64encode(plain[:head] + tail).decode().rstrip("="),
                st.integers(0, len(plain)),
                st.binary(max_size=32),
            ),
        )
    )
    attacked.throw(method, wire.delimited(2, token.encode()))


@effort(20)
@given(
    method=st.sampled_from(list(METHODS)),
    metadata=st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from(("traceparent", "tracestate", "x-any", "authorization")),
                st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80),
            ),
            st.tuples(
                st.just("traceparent"),
                st.sampled_from(
                    (
                        "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
                        "ff-" + "0" * 52,
                        "00--",
                        "01-" + "a" * 32 + "-" + "b" * 16 + "-ff-more",
                    )
                ),
            ),
            st.tuples(
                st.sampled_from(("tracestate-bin", "traceparent-bin", "x-bin")),
                st.binary(max_size=64),
            ),
            st.tuples(
                st.just("tracestate"),
                st.integers(500, METADATA_BYTES_GRPC_TAKES * 3).map(lambda size: "a=" + "b" * size),
            ),
        ),
        max_size=4,
    ),
    raw=st.sampled_from((b"", wire.delimited(1, b"fuzz.one"), b"\xff")),
)
def test_metadata(attacked, method, metadata, raw) -> None:
    thrown["calls, metadata"] += 1
    attacked.throw(method, raw, metadata=metadata)


@effort(8, most=2000)
@given(
    method=st.sampled_from(list(METHODS)),
    seconds=st.one_of(st.floats(-1, 0.01), st.sampled_from((0, 1e-9, 1e6))),
)
def test_deadlines(attacked, good, method, seconds) -> None:
    thrown["calls, deadlines"] += 1
    raw = wire.delimited(1, good["job_id"][0].encode())
    attacked.throw(method, raw, seconds=seconds, may_expire=seconds < 1)


@effort(6, most=60)
@given(
    field=st.sampled_from((1, 2, 3, 5)),
    size=st.sampled_from((262_145, 4 * 2**20, RECEIVE_BYTES_MAX - 100, RECEIVE_BYTES_MAX + 1)),
    method=st.sampled_from(("SubmitJob", "GetJob", "CancelJob", "WatchJob", "BatchSubmitJobs")),
)
def test_sizes(attacked, method, field, size) -> None:
    thrown["calls, large"] += 1
    request = wire.delimited(1, b"fuzz.one") if method == "SubmitJob" else b""
    content = wire.delimited(3, b"x" * size) if field == 3 else b"x" * size
    attacked.throw(method, request + wire.delimited(field, content))


@pytest.mark.parametrize("count", [0, 1000, 1001, 20_000])
def test_batches_of_any_size(attacked, count) -> None:
    thrown["calls, large"] += 1
    job = wire.delimited(1, wire.delimited(1, b"fuzz.one"))
    answer = attacked.throw("BatchSubmitJobs", job * count)
    assert (answer.code == "OK") == (count == 1000)


def test_watches_are_told_to_their_end(attacked, good) -> None:
    """Of a job that is done the whole history; of one that waits all there is so far."""
    for job_id in attacked.ids:
        thrown["calls, watches"] += 1
        request = v1.WatchJobRequest(job_id=job_id, after_sequence=0)
        answer = attacked.throw("WatchJob", request.SerializeToString())
        assert answer.code == "OK"
        updates = [v1.WatchJobResponse.FromString(raw) for raw in answer.responses]
        assert [update.sequence for update in updates] == list(range(1, len(updates) + 1))
        request = v1.WatchJobRequest(job_id=job_id, after_sequence=len(updates))
        again = attacked.throw("WatchJob", request.SerializeToString())
        assert again.code == "OK"
        assert not again.responses


def test_methods_that_there_are_not(attacked) -> None:
    for method in ("Nothing", "submitJob", "", "../JobService/GetJob"):
        assert attacked._call(method, b"", (), 5).code == "UNIMPLEMENTED"


@pytest.fixture(autouse=True)
def _serves_on(attacked):
    yield
    attacked.check_alive()
