-- name: take_due
-- Lock rows that are due, by priority, then due time; rows that others hold are left to them. $1 how many.
SELECT
    taken.*, jobs.type, jobs.traceparent, jobs.tracestate
FROM generate_series(9, 0, -1) AS level (priority)
CROSS JOIN LATERAL (
    SELECT id, job_id, dispatch_no, queue, priority, dead
    FROM outbox
    WHERE outbox.priority = level.priority
      AND available_at <= clock_timestamp()
      AND (reserved_until IS NULL OR reserved_until <= clock_timestamp())
    ORDER BY available_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
) AS taken
JOIN jobs ON jobs.id = taken.job_id
LIMIT $1

-- name: delete
-- Forget rows whose messages the broker has confirmed. $1 ids.
-- Its transaction does not wait for the disk: rows that a crash of Postgres brings back are published again.
WITH unhurried AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
)
DELETE FROM outbox USING unhurried WHERE id = ANY ($1::bigint[])

-- name: defer
-- Leave rows alone for a while: what cannot be published must not stand in front of the rest.
-- $1 ids, $2 how long.
UPDATE outbox SET reserved_until = clock_timestamp() + $2::interval WHERE id = ANY ($1::bigint[])

-- name: mark_queued
-- PENDING or FAILED -> QUEUED for jobs whose message the broker has confirmed. $1 job ids, $2 dispatch numbers.
-- A locked row is being claimed: there is nothing to mark.
WITH item AS (
    SELECT * FROM unnest($1::uuid[], $2::integer[]) AS t (job_id, dispatch_no)
), locked AS MATERIALIZED (
    SELECT id, state, dispatch_no FROM jobs
    WHERE id = ANY ($1::uuid[])
    ORDER BY id
    FOR NO KEY UPDATE SKIP LOCKED
), marked AS (
    UPDATE jobs SET
        state = 2, sequence = sequence + 1,
        queue_time = clock_timestamp(), wait_time = clock_timestamp(), end_time = NULL
    FROM locked JOIN item ON item.job_id = locked.id
    WHERE jobs.id = locked.id
      AND locked.state IN (1, 5) AND locked.dispatch_no = item.dispatch_no
    RETURNING jobs.*
), event AS (
    INSERT INTO job_events (
        job_id, sequence, type, state, attempt, run_epoch, queue_time, start_time,
        error_type, error_message, error_retryable, progress
    )
    SELECT
        id, sequence, 2, state, attempt, run_epoch, queue_time, start_time,
        error_type, error_message, error_retryable, progress
    FROM marked
)
SELECT id, sequence FROM marked

-- name: next_due
-- When the next row is due.
SELECT min(available_at) FROM (
    SELECT (SELECT min(available_at) FROM outbox WHERE outbox.priority = level) AS available_at
    FROM generate_series(0, 9) AS level
) AS first

-- name: lag
-- For how long the first due row has waited.
SELECT clock_timestamp() - min(available_at) FROM (
    SELECT (SELECT min(available_at) FROM outbox WHERE outbox.priority = level) AS available_at
    FROM generate_series(0, 9) AS level
) AS first
WHERE available_at <= clock_timestamp()
