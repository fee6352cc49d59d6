-- name: get
-- Jobs by ID. $1 ids, $2 whether with payload and result.
SELECT
    id, type, queue, priority, state, sequence, dispatch_no, wait_time, run_epoch, attempt, max_attempts,
    create_time, queue_time, start_time, end_time, error_type, error_message, error_retryable,
    traceparent, tracestate, labels::text, progress,
    CASE WHEN $2 THEN payload_kind END AS payload_kind,
    CASE WHEN $2 THEN payload_type END AS payload_type, CASE WHEN $2 THEN payload END AS payload,
    CASE WHEN $2 THEN result_kind END AS result_kind,
    CASE WHEN $2 THEN result_type END AS result_type, CASE WHEN $2 THEN result END AS result
FROM jobs
WHERE id = ANY ($1::uuid[])

-- name: list
-- A page of jobs, newest first, found among so many; a row that is none of them (`matches` is not true) is the
-- last that was looked at.
-- $1 whether with payload and result, $2 before this ID (null: from the newest), $3 how many,
-- $4 states, $5 type, $6 queue, $7 labels as JSON, $8 created at or after, $9 created before (null: any),
-- $10 and $11 the same times as the bounds of UUIDv7 IDs, with an hour's slack for clocks that differ,
-- $12 look at how many.
SELECT
    id, type, queue, priority, state, sequence, dispatch_no, wait_time, run_epoch, attempt, max_attempts,
    create_time, queue_time, start_time, end_time, error_type, error_message, error_retryable,
    traceparent, tracestate, labels::text, progress,
    CASE WHEN $1 THEN payload_kind END AS payload_kind,
    CASE WHEN $1 THEN payload_type END AS payload_type, CASE WHEN $1 THEN payload END AS payload,
    CASE WHEN $1 THEN result_kind END AS result_kind,
    CASE WHEN $1 THEN result_type END AS result_type, CASE WHEN $1 THEN result END AS result,
    matches, n = $12 AS is_last_looked_at
FROM (
    SELECT
        *,
        ($4::smallint[] IS NULL OR state = ANY ($4))
            AND ($5::text IS NULL OR type = $5)
            AND ($6::text IS NULL OR queue = $6)
            AND ($7::text IS NULL OR labels @> $7::jsonb)
            AND ($8::timestamptz IS NULL OR create_time >= $8)
            AND ($9::timestamptz IS NULL OR create_time < $9) AS matches,
        row_number() OVER (ORDER BY id DESC) AS n
    FROM (
        SELECT * FROM jobs
        WHERE id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
          AND id >= coalesce($10::uuid, '00000000-0000-0000-0000-000000000000')
          AND id <= coalesce($11::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        ORDER BY id DESC
        LIMIT $12
    ) AS span
) AS seen
WHERE matches OR n = $12
ORDER BY id DESC
LIMIT $3

-- name: unfinished
-- Jobs that are not COMPLETED or CANCELLED: the newest that run, the newest that are dead, and some that wait.
-- $1 states, $2 before this ID (null: from the newest), $3 how many of each kind.
(
    SELECT job_id AS id, false AS waits FROM runs
    WHERE 3 = ANY ($1::smallint[]) AND job_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    ORDER BY job_id DESC
    LIMIT $3
)
UNION ALL
(
    SELECT job_id, false FROM dead_letters
    WHERE 6 = ANY ($1::smallint[]) AND job_id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    ORDER BY job_id DESC
    LIMIT $3
)
UNION ALL
(
    SELECT id, true FROM jobs
    WHERE wait_time IS NOT NULL AND state = ANY ($1::smallint[])
      AND id < coalesce($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    LIMIT $3
)

-- name: list_among
-- A page of jobs, newest first, of these. $1 and $3 to $9 as in `list`, $2 ids.
SELECT
    id, type, queue, priority, state, sequence, dispatch_no, wait_time, run_epoch, attempt, max_attempts,
    create_time, queue_time, start_time, end_time, error_type, error_message, error_retryable,
    traceparent, tracestate, labels::text, progress,
    CASE WHEN $1 THEN payload_kind END AS payload_kind,
    CASE WHEN $1 THEN payload_type END AS payload_type, CASE WHEN $1 THEN payload END AS payload,
    CASE WHEN $1 THEN result_kind END AS result_kind,
    CASE WHEN $1 THEN result_type END AS result_type, CASE WHEN $1 THEN result END AS result
FROM jobs
WHERE id = ANY ($2::uuid[])
  AND ($4::smallint[] IS NULL OR state = ANY ($4))
  AND ($5::text IS NULL OR type = $5)
  AND ($6::text IS NULL OR queue = $6)
  AND ($7::text IS NULL OR labels @> $7::jsonb)
  AND ($8::timestamptz IS NULL OR create_time >= $8)
  AND ($9::timestamptz IS NULL OR create_time < $9)
ORDER BY id DESC
LIMIT $3

-- name: cancel
-- A waiting job is CANCELLED now, a running one is asked to stop. $1 id, $2 reason.
WITH locked AS MATERIALIZED (
    SELECT id, state, cancel_time FROM jobs WHERE id = $1 FOR NO KEY UPDATE
), cancelled AS (
    UPDATE jobs SET
        state = CASE WHEN locked.state = 3 THEN 3 ELSE 7 END,
        sequence = sequence + 1,
        wait_time = NULL,
        cancel_time = clock_timestamp(),
        cancel_reason = $2,
        end_time = CASE WHEN locked.state = 3 THEN NULL ELSE clock_timestamp() END
    FROM locked
    WHERE jobs.id = locked.id
      AND (locked.state IN (1, 2, 5) OR (locked.state = 3 AND locked.cancel_time IS NULL))
    RETURNING jobs.*
), event AS (
    INSERT INTO job_events (
        job_id, sequence, type, state, attempt, run_epoch, message, queue_time, start_time, end_time,
        error_type, error_message, error_retryable, progress
    )
    SELECT
        id, sequence, CASE WHEN state = 3 THEN 9 ELSE 12 END, state, attempt, run_epoch, $2,
        queue_time, start_time, end_time, error_type, error_message, error_retryable, progress
    FROM cancelled
), unsent AS (
    DELETE FROM outbox USING cancelled WHERE outbox.job_id = cancelled.id AND cancelled.state = 7
)
SELECT EXISTS (SELECT FROM locked) AS found
