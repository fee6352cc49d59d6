"""What a submit stores, and what it refuses."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from headway_core import jobs, outbox, submissions
from headway_core.content import Content, ContentKind, json_content
from headway_core.database import Database
from headway_core.errors import IdempotencyKeyReused, JobNotFound, QueueFull, TooManyQueues
from headway_core.job import QUEUES_MAX, RetryPolicy
from headway_core.states import JobState

from .conftest import Register, Submit, submission


async def test_a_submit_run_again_stores_one_job(database: Database) -> None:
    """After an unknown commit the same submission is written again, with and without a key."""
    for key in (None, "k"):
        item = submission(idempotency_key=key)
        (first,) = await submissions.submit(database, [item], queue_depth_max=None)
        (again,) = await submissions.submit(database, [item], queue_depth_max=None)
        assert isinstance(first, submissions.Submitted)
        assert isinstance(again, submissions.Submitted)
        assert first.job.id == again.job.id == item.id
        assert first.created
        assert again.created
        assert again.dispatch is None


async def test_a_job_is_stored_alone_if_nothing_is_in_the_way(database: Database) -> None:
    """Else it is left to the submit that can tell why."""
    await database.fetchval("SELECT 1")
    first, keyed, moved = (
        submission(),
        submission(idempotency_key="k"),
        submission(queue="unheard-of"),
    )
    for item in (first, keyed):
        stored = await submissions.submit_alone(database, item)
        assert stored is not None
        assert stored.created
        assert stored.dispatch is not None
        assert (await jobs.get(database, item.id, full=False)).id == item.id
    for item in (first, keyed, submission(idempotency_key="k"), moved):
        assert await submissions.submit_alone(database, item) is None
    assert await database.fetchval("SELECT count(*) FROM jobs") == 2


async def test_no_job_is_stored_alone_where_a_connection_must_be_made(database_url: str) -> None:
    """A caller who is cancelled must not cancel the making."""
    fresh = await Database.connect(database_url, name="fresh")
    assert await submissions.submit_alone(fresh, submission()) is None
    assert await fresh.fetchval("SELECT count(*) FROM jobs") == 0
    assert await submissions.submit_alone(fresh, submission()) is not None
    await fresh.close()


async def test_the_columns_of_a_batch_may_have_gaps(database: Database) -> None:
    """What one job has and the next has not stays with the one."""
    policy = RetryPolicy(max_attempts=2, multiplier=1.5)
    payload = Content(ContentKind.DATA, b"", "")
    items = [
        submission(request_hash=b""),
        submission(idempotency_key="k", request_hash=b"h", tracestate="a=b"),
        submission(labels={"a": "b"}, retry_policy=policy, timeout=timedelta(seconds=9)),
        submission(payload=payload, delay=timedelta(hours=1), queue="default", priority=0),
    ]
    for batch in (items, [submission(request_hash=b"")]):
        await submissions.submit_all(database, batch, queue_depth_max=None)
    plain, keyed, labelled, paid = [await jobs.get(database, one.id, full=True) for one in items]
    assert [job.tracestate for job in (plain, keyed, labelled, paid)] == ["", "a=b", "", ""]
    assert [job.labels for job in (plain, keyed, labelled, paid)] == [{}, {}, {"a": "b"}, {}]
    assert [job.payload for job in (plain, keyed, labelled, paid)] == [None, None, None, payload]
    assert [job.max_attempts for job in (plain, keyed, labelled, paid)] == [5, 5, 2, 5]
    assert paid.next_attempt_time
    assert paid.next_attempt_time - paid.create_time > timedelta(minutes=50)
    rows = await database.fetch("SELECT multiplier, timeout FROM jobs ORDER BY id")
    assert [row["multiplier"] for row in rows] == [None, None, 1.5, None, None]
    assert [row["timeout"] for row in rows] == [None, None, timedelta(seconds=9), None, None]
    assert await database.fetchval("SELECT request_hash FROM idempotency_keys") == b"h"


async def test_a_job_is_stored_the_same_alone_and_in_a_batch(database: Database) -> None:
    """With all that a submit may say."""
    whole = {
        "queue": "default",
        "priority": 7,
        "run_time": datetime(2040, 1, 2, tzinfo=UTC),
        "retry_policy": RetryPolicy(3, timedelta(seconds=1), timedelta(seconds=8), 1.5),
        "timeout": timedelta(seconds=9),
        "labels": {"a": "b"},
        "tracestate": "a=b",
        "payload": Content(ContentKind.DATA, b"data", "text/plain"),
        "request_hash": b"h",
    }
    alone, first, second = [submission("x", **whole, idempotency_key=key) for key in "abc"]
    await submissions.submit_all(database, [alone], queue_depth_max=None)
    await submissions.submit_all(database, [first, second], queue_depth_max=None)
    rows = await database.fetch(
        "SELECT to_jsonb(jobs) - '{id,create_time}'::text[] AS row FROM jobs"
    )
    assert len(rows) == 3
    (stored,) = {row["row"] for row in rows}
    without = {name for name, value in orjson.loads(stored).items() if value is None}
    assert without == {
        *("worker_id", "claim_id", "boost_time", "cancel_time", "cancel_reason"),
        *("queue_time", "start_time", "end_time", "progress", "result_kind", "result_type"),
        *("result", "error_retryable", "error_type", "error_message"),
    }


async def test_two_hundred_submits_with_one_key_make_one_job(database: Database) -> None:
    """P6: also when they share a statement, and when they race on ten connections."""
    items = [submission(idempotency_key="one", request_hash=b"h") for _ in range(200)]
    answers = await asyncio.gather(
        *(
            submissions.submit(database, items[start : start + 10], queue_depth_max=None)
            for start in range(0, 200, 10)
        )
    )
    submitted = [
        one for answer in answers for one in answer if isinstance(one, submissions.Submitted)
    ]
    assert len({one.job.id for one in submitted}) == 1
    assert Counter(one.created for one in submitted) == {True: 1, False: 199}


async def test_a_key_with_another_request_is_refused_alone(
    database: Database, submit: Submit
) -> None:
    """The others of the shared commit are stored, and the refusal names the first job."""
    first = await submit(idempotency_key="k", request_hash=b"1")
    other = submission(idempotency_key="k", request_hash=b"2")
    refused, stored = await submissions.submit(
        database, [other, submission()], queue_depth_max=None
    )
    assert isinstance(refused, IdempotencyKeyReused)
    assert refused.job_id == first.job.id
    assert isinstance(stored, submissions.Submitted)
    with pytest.raises(JobNotFound):
        await jobs.get(database, other.id, full=False)


async def test_a_batch_is_stored_whole_or_not_at_all(database: Database, submit: Submit) -> None:
    """One reused key takes the whole batch back, and tells which request it was."""
    await submit(idempotency_key="k", request_hash=b"1")
    items = [submission() for _ in range(5)]
    items[3] = submission(idempotency_key="k", request_hash=b"2")
    with pytest.raises(IdempotencyKeyReused) as caught:
        await submissions.submit_all(database, items, queue_depth_max=None)
    assert caught.value.index == 3
    assert await jobs.get_many(database, [item.id for item in items]) == []
    del items[3]
    stored = await submissions.submit_all(database, items, queue_depth_max=None)
    assert [one.job.id for one in stored] == [item.id for item in items]
    again = await submissions.submit_all(database, items, queue_depth_max=None)
    assert [one.job.id for one in again] == [item.id for item in items]


async def test_a_new_queue_is_made_known_up_to_the_limit(database: Database) -> None:
    """A caller that invents queue names without end is stopped."""
    names = [f"q{number}" for number in range(QUEUES_MAX - 1)]
    stored = await submissions.submit(
        database, [submission(queue=name) for name in names], queue_depth_max=None
    )
    assert {one.job.queue for one in stored if isinstance(one, submissions.Submitted)} == set(names)
    (refused,) = await submissions.submit(
        database, [submission(queue="more")], queue_depth_max=None
    )
    assert isinstance(refused, TooManyQueues)
    with pytest.raises(TooManyQueues):
        await submissions.submit_all(database, [submission(queue="more")], queue_depth_max=None)


async def test_a_full_queue_refuses_what_overflows_it_but_not_what_is_in_it(
    database: Database,
) -> None:
    """The limit holds within one shared commit; a known key is answered even when all is full."""
    keyed = submission(idempotency_key="k", request_hash=b"1")
    items = [keyed, *(submission() for _ in range(4)), submission(queue="other")]
    answers = await submissions.submit(database, items, queue_depth_max=3)
    kinds = [type(answer).__name__ for answer in answers]
    assert kinds == ["Submitted"] * 3 + ["QueueFull"] * 2 + ["Submitted"]
    again = submission(idempotency_key="k", request_hash=b"1")
    repeated, refused = await submissions.submit(database, [again, submission()], queue_depth_max=3)
    assert isinstance(repeated, submissions.Submitted)
    assert repeated.job.id == keyed.id
    assert isinstance(refused, QueueFull)
    assert (refused.queue, refused.limit, refused.depth) == ("default", 3, 3)
    assert refused.retry_after >= timedelta(seconds=1)


async def test_submit_wins_over_handler_and_handler_over_default(
    database: Database, submit: Submit, register: Register
) -> None:
    """Precedence, field by field."""
    await register("t", queue="handlers", max_attempts=7)
    assert (await submit("t")).job.queue == "handlers"
    assert (await submit("t")).job.max_attempts == 7
    own = RetryPolicy(max_attempts=2)
    assert (await submit("t", retry_policy=own)).job.max_attempts == 2
    assert (await submit("t", queue="mine")).job.queue == "mine"
    assert (await submit("unknown")).job.max_attempts == 5


async def test_a_delayed_job_is_due_later_and_its_message_too(
    database: Database, submit: Submit
) -> None:
    """One stored due time for both, or a delivery could come before the job is due."""
    submitted = await submit(delay=timedelta(hours=1), payload=json_content({}))
    assert submitted.dispatch is None
    job = await jobs.get(database, submitted.job.id, full=False)
    assert job.state is JobState.PENDING
    assert job.next_attempt_time == await outbox.next_due(database)
    async with database.transaction() as connection:
        assert await outbox.take_due(connection, limit=10) == []


async def test_the_relay_takes_by_priority_and_leaves_what_others_hold(
    database: Database, submit: Submit
) -> None:
    """Two relays share the work and never wait for each other."""
    low = (await submit(priority=0)).job.id
    high = (await submit(priority=9)).job.id
    middle = (await submit()).job.id
    async with database.transaction() as early:
        assert await outbox.take_due(early, limit=10) == []  # left to the fast path for a second
    await database.execute("UPDATE outbox SET reserved_until = clock_timestamp()")
    async with database.transaction() as first, database.transaction() as second:
        assert [one.job_id for one in await outbox.take_due(first, limit=2)] == [high, middle]
        assert [one.job_id for one in await outbox.take_due(second, limit=2)] == [low]


async def test_pages_are_newest_first_and_filters_hold(database: Database, submit: Submit) -> None:
    """Keyset pages by ID."""
    made = [(await submit("a" if n % 2 else "b", labels={"n": str(n)})).job for n in range(6)]
    everything = jobs.JobFilter()
    page = (await jobs.list_jobs(database, everything, full=False, before=None, limit=4)).jobs
    assert [job.id for job in page] == [job.id for job in reversed(made[2:])]
    last = page[-1].id
    rest = (await jobs.list_jobs(database, everything, full=False, before=last, limit=4)).jobs
    assert [job.id for job in rest] == [made[1].id, made[0].id]
    for chosen, count in [
        (jobs.JobFilter(type="a"), 3),
        (jobs.JobFilter(labels=(("n", "3"),)), 1),
        (jobs.JobFilter(states=frozenset({JobState.RUNNING})), 0),
        (jobs.JobFilter(queue="default"), 6),
        (jobs.JobFilter(create_time_from=made[3].create_time), 3),
        (jobs.JobFilter(create_time_to=made[3].create_time), 3),
    ]:
        found = (await jobs.list_jobs(database, chosen, full=True, before=None, limit=99)).jobs
        assert len(found) == count, chosen


async def test_a_key_that_outlives_its_job_makes_no_second_one(
    database: Database, submit: Submit
) -> None:
    """Retention may be shorter than thirty days: the work was done, and is not done again."""
    first = await submit(idempotency_key="k", request_hash=b"1")
    await database.execute("DELETE FROM jobs")
    again = submission(idempotency_key="k", request_hash=b"1")
    (refused,) = await submissions.submit(database, [again], queue_depth_max=None)
    assert isinstance(refused, IdempotencyKeyReused)
    assert refused.job_id == first.job.id
    assert "stored no more" in str(refused)
    with pytest.raises(IdempotencyKeyReused) as caught:
        await submissions.submit_all(database, [submission(), again], queue_depth_max=None)
    assert (caught.value.job_id, caught.value.index) == (first.job.id, 1)
