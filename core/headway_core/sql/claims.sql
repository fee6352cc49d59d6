-- name: claim
-- PENDING, QUEUED or FAILED and due -> RUNNING, under the worker's own live lease.
-- $1 worker, $2 job ids, $3 claim ids, $4 types the worker has.
-- One row an item: how the job stood under the lock, whether the lease lives, and the claim if there is one.
-- Jobs are locked before the lease, as everywhere.
WITH item AS (
    SELECT * FROM unnest($2::uuid[], $3::uuid[]) AS t (job_id, claim_id)
), locked AS MATERIALIZED (
    SELECT id, type, state, wait_time, isolation, dispatch_no, run_epoch, worker_id, claim_id
    FROM jobs
    WHERE id = ANY ($2::uuid[])
    ORDER BY id
    FOR NO KEY UPDATE
), lease AS MATERIALIZED (
    SELECT id FROM workers
    WHERE id = $1 AND ended_time IS NULL AND lease_expires > clock_timestamp()
      AND (SELECT count(*) FROM locked) >= 0
    FOR KEY SHARE
), claimed AS (
    UPDATE jobs SET
        state = 3, sequence = jobs.sequence + 1, run_epoch = jobs.run_epoch + 1,
        worker_id = lease.id, claim_id = item.claim_id, attempt = jobs.failures + 1,
        wait_time = NULL, end_time = NULL, boost_time = NULL, start_time = clock_timestamp(), progress = NULL
    FROM locked JOIN item ON item.job_id = locked.id CROSS JOIN lease
    WHERE jobs.id = locked.id
      AND locked.state IN (1, 2, 5)
      AND (locked.state = 2 OR locked.wait_time <= clock_timestamp())
      AND locked.type = ANY ($4::text[])
      AND (
          locked.isolation < 2
          OR (cardinality($2::uuid[]) = 1 AND NOT EXISTS (SELECT FROM runs WHERE runs.worker_id = $1))
      )
    RETURNING
        jobs.id, jobs.type, jobs.queue, jobs.state, jobs.sequence, jobs.run_epoch, jobs.worker_id, jobs.claim_id,
        jobs.attempt, jobs.failures, jobs.crashes, jobs.isolation, jobs.max_attempts, jobs.initial_backoff,
        jobs.max_backoff, jobs.multiplier, jobs.timeout, jobs.payload_kind, jobs.payload_type, jobs.payload,
        jobs.labels, jobs.traceparent, jobs.tracestate, jobs.cancel_time, jobs.create_time, jobs.queue_time,
        jobs.start_time, jobs.error_type, jobs.error_message, jobs.error_retryable
), run AS (
    INSERT INTO runs (job_id, worker_id, run_epoch, claim_id)
    SELECT id, worker_id, run_epoch, claim_id FROM claimed
), event AS (
    INSERT INTO job_events (
        job_id, sequence, type, state, attempt, run_epoch, queue_time, start_time,
        error_type, error_message, error_retryable
    )
    SELECT
        id, sequence, 3, state, attempt, run_epoch, queue_time, start_time,
        error_type, error_message, error_retryable
    FROM claimed
)
SELECT
    item.job_id, EXISTS (SELECT FROM lease) AS lease_live,
    locked.type AS locked_type, locked.state AS locked_state, locked.isolation AS locked_isolation,
    locked.dispatch_no AS locked_dispatch_no,
    locked.state = 2 OR locked.wait_time <= clock_timestamp() AS due,
    locked.state = 3 AND locked.worker_id = $1 AND locked.claim_id = item.claim_id AS claimed_before,
    claimed.*
FROM item
LEFT JOIN locked ON locked.id = item.job_id
LEFT JOIN claimed ON claimed.id = item.job_id

-- name: claimed_before
-- A claim whose commit's reply was lost: the row, if it is still RUNNING by it. $1 worker, $2 job ids, $3 claim ids.
SELECT jobs.*
FROM unnest($2::uuid[], $3::uuid[]) AS item (job_id, claim_id)
JOIN jobs ON jobs.id = item.job_id
WHERE jobs.state = 3 AND jobs.worker_id = $1 AND jobs.claim_id = item.claim_id

-- name: decline
-- Give back a due job of a type this worker lacks: PENDING, due after a backoff, no attempt spent.
-- $1 worker, $2 job id, $3 types the worker has, $4 shortest and $5 longest backoff.
WITH locked AS MATERIALIZED (
    SELECT id, state, wait_time, type, dispatch_no, declines FROM jobs WHERE id = $2 FOR NO KEY UPDATE
), lease AS MATERIALIZED (
    SELECT id FROM workers
    WHERE id = $1 AND ended_time IS NULL AND lease_expires > clock_timestamp()
      AND (SELECT count(*) FROM locked) >= 0
    FOR KEY SHARE
), declined AS (
    UPDATE jobs SET
        state = 1, sequence = jobs.sequence + (locked.declines = 0)::integer,
        dispatch_no = jobs.dispatch_no + 1, declines = jobs.declines + 1, end_time = NULL,
        wait_time = clock_timestamp() + least($4::interval * power(2, least(locked.declines, 20)), $5::interval)
    FROM locked CROSS JOIN lease
    WHERE jobs.id = locked.id
      AND locked.state IN (1, 2, 5)
      AND (locked.state = 2 OR locked.wait_time <= clock_timestamp())
      AND locked.type <> ALL ($3::text[])
    RETURNING jobs.*
), event AS (
    -- Once: a job that waits for months must not fill its history.
    INSERT INTO job_events (
        job_id, sequence, type, state, attempt, run_epoch, message, queue_time, start_time,
        next_attempt_time, error_type, error_message, error_retryable
    )
    SELECT
        id, sequence, 8, state, attempt, run_epoch, 'no handler for type ' || type, queue_time, start_time,
        wait_time, error_type, error_message, error_retryable
    FROM declined
    WHERE declines = 1
), sent AS (
    INSERT INTO outbox (job_id, dispatch_no, queue, priority, available_at)
    SELECT id, dispatch_no, queue, priority, wait_time FROM declined
)
SELECT
    EXISTS (SELECT FROM lease) AS lease_live, EXISTS (SELECT FROM declined) AS declined,
    (SELECT state = 6 AND dispatch_no = $6 FROM locked) AS dead
