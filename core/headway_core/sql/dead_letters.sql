-- name: list
-- DEAD jobs, latest death first.
-- $1 type, $2 queue, $3 fingerprint, $4 died at or after, $5 died before (null: any),
-- $6 and $7 before this death (null: from the latest), $8 how many.
SELECT
    jobs.id, jobs.type, jobs.queue, jobs.priority, state, sequence, dispatch_no, wait_time, run_epoch,
    attempt, max_attempts, create_time, queue_time, start_time, end_time, error_type, error_message,
    error_retryable, traceparent, tracestate, labels::text, progress,
    NULL::smallint AS payload_kind, NULL::text AS payload_type, NULL::bytea AS payload,
    NULL::smallint AS result_kind, NULL::text AS result_type, NULL::bytea AS result,
    letter.fingerprint, letter.reason, letter.dead_time
FROM dead_letters AS letter JOIN jobs ON jobs.id = letter.job_id
WHERE ($1::text IS NULL OR letter.type = $1)
  AND ($2::text IS NULL OR letter.queue = $2)
  AND ($3::text IS NULL OR letter.fingerprint = $3)
  AND ($4::timestamptz IS NULL OR letter.dead_time >= $4)
  AND ($5::timestamptz IS NULL OR letter.dead_time < $5)
  AND ($6::timestamptz IS NULL OR (letter.dead_time, letter.job_id) < ($6, $7::uuid))
ORDER BY letter.dead_time DESC, letter.job_id DESC
LIMIT $8

-- name: group
-- Alike deaths, most first. $1 to $5 as in `list`, $6 how many.
SELECT
    letter.fingerprint, letter.type, letter.queue, count(*) AS count,
    min(letter.dead_time) AS first_dead_time, max(letter.dead_time) AS last_dead_time,
    (array_agg(jobs.error_type ORDER BY letter.dead_time DESC))[1] AS error_type,
    (array_agg(jobs.error_message ORDER BY letter.dead_time DESC))[1] AS error_message,
    (array_agg(jobs.error_retryable ORDER BY letter.dead_time DESC))[1] AS error_retryable
FROM dead_letters AS letter JOIN jobs ON jobs.id = letter.job_id
WHERE ($1::text IS NULL OR letter.type = $1)
  AND ($2::text IS NULL OR letter.queue = $2)
  AND ($3::text IS NULL OR letter.fingerprint = $3)
  AND ($4::timestamptz IS NULL OR letter.dead_time >= $4)
  AND ($5::timestamptz IS NULL OR letter.dead_time < $5)
GROUP BY letter.fingerprint, letter.type, letter.queue
ORDER BY count(*) DESC, letter.fingerprint
LIMIT $6

-- name: choose
-- DEAD jobs to be replayed and the run in which each died, oldest death first. $1 to $5 as in `list`, $6 how many.
SELECT jobs.id, jobs.run_epoch
FROM dead_letters AS letter JOIN jobs ON jobs.id = letter.job_id
WHERE ($1::text IS NULL OR letter.type = $1)
  AND ($2::text IS NULL OR letter.queue = $2)
  AND ($3::text IS NULL OR letter.fingerprint = $3)
  AND ($4::timestamptz IS NULL OR letter.dead_time >= $4)
  AND ($5::timestamptz IS NULL OR letter.dead_time < $5)
ORDER BY letter.dead_time, letter.job_id
LIMIT $6

-- name: standing
-- How a job stands with regard to a replay. $1 job id.
SELECT state, run_epoch, replays FROM jobs WHERE id = $1

-- name: replay
-- DEAD -> PENDING with fresh budgets, if the death is the one the caller saw.
-- $1 job ids, $2 run epochs, $3 how long the outbox row is left to this process.
WITH item AS (
    SELECT * FROM unnest($1::uuid[], $2::integer[]) AS t (job_id, run_epoch)
), locked AS MATERIALIZED (
    SELECT id, state, run_epoch FROM jobs WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE
), replayed AS (
    UPDATE jobs SET
        state = 1, sequence = sequence + 1, dispatch_no = dispatch_no + 1, wait_time = clock_timestamp(),
        attempt = 0, failures = 0, crashes = 0, declines = 0, replays = replays + 1,
        cancel_time = NULL, cancel_reason = NULL, end_time = NULL, claim_id = NULL, progress = NULL,
        error_type = NULL, error_message = NULL, error_retryable = NULL
    FROM locked JOIN item ON item.job_id = locked.id
    WHERE jobs.id = locked.id AND locked.state = 6 AND locked.run_epoch = item.run_epoch
    RETURNING jobs.*
), event AS (
    INSERT INTO job_events (
        job_id, sequence, type, state, attempt, run_epoch, queue_time, start_time, next_attempt_time
    )
    SELECT id, sequence, 13, state, attempt, run_epoch, queue_time, start_time, wait_time FROM replayed
), letter AS (
    DELETE FROM dead_letters USING replayed WHERE dead_letters.job_id = replayed.id
), sent AS (
    INSERT INTO outbox (job_id, dispatch_no, queue, priority, available_at, reserved_until)
    SELECT id, dispatch_no, queue, priority, wait_time, clock_timestamp() + $3::interval FROM replayed
    RETURNING id, job_id
)
SELECT
    sent.id, sent.job_id, replayed.dispatch_no, replayed.queue, replayed.priority, false AS dead,
    replayed.type, replayed.traceparent, replayed.tracestate
FROM replayed JOIN sent ON sent.job_id = replayed.id
