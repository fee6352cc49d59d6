-- name: settle
-- End runs: RUNNING -> COMPLETED, FAILED, PENDING, DEAD or CANCELLED, each guarded by worker and epoch.
-- While a cancel request stands, any end but COMPLETED is CANCELLED.
-- $1 worker, $2 job ids, $3 run epochs, $4 claim ids, $5 states, $6 event types, $7 messages (null: none), $8 failures,
-- $9 crashes, $10 isolations, $11 delays until due (null: at once), $12 result kinds,
-- $13 result types, $14 results, $15 error types (null: keep), $16 error messages, $17 error retryables,
-- $18 fingerprints, $19 whether the delivery is in hand (else a DEAD job is published to the dead letters),
-- $20 progress (null: keep), $21 whether the worker itself ends them (else the claim is struck off).
-- Columns of nulls alone may be empty.
WITH item AS (
    SELECT * FROM unnest(
        $2::uuid[], $3::integer[], $4::uuid[], $5::smallint[], $6::smallint[], $7::text[], $8::integer[],
        $9::integer[], $10::smallint[], $11::interval[], $12::smallint[], $13::text[], $14::bytea[],
        $15::text[], $16::text[], $17::boolean[], $18::text[], $19::boolean[], $20::bytea[]
    ) AS t (
        job_id, run_epoch, claim_id, state, event_type, message, failures, crashes, isolation, delay,
        result_kind, result_type, result, error_type, error_message, error_retryable, fingerprint, in_hand,
        progress
    )
), locked AS MATERIALIZED (
    SELECT id, state, worker_id, run_epoch, claim_id, cancel_time, cancel_reason, sequence
    FROM jobs
    WHERE id = ANY ($2::uuid[])
    ORDER BY id
    FOR NO KEY UPDATE
), decided AS (
    SELECT
        item.*,
        locked.cancel_time IS NOT NULL AND item.state <> 4 AS cancelled, locked.cancel_reason,
        CASE WHEN locked.cancel_time IS NOT NULL AND item.state <> 4 THEN 7 ELSE item.state END AS end_state
    FROM item JOIN locked ON locked.id = item.job_id
    WHERE locked.state = 3 AND locked.worker_id = $1 AND locked.run_epoch = item.run_epoch
), settled AS (
    UPDATE jobs SET
        state = decided.end_state, sequence = jobs.sequence + 1,
        claim_id = CASE WHEN $21 THEN jobs.claim_id END,
        failures = decided.failures, crashes = decided.crashes, isolation = decided.isolation,
        dispatch_no = jobs.dispatch_no + (decided.end_state IN (1, 5))::integer,
        wait_time = CASE WHEN decided.end_state IN (1, 5) THEN clock_timestamp() + coalesce(decided.delay, '0') END,
        end_time = CASE WHEN decided.end_state IN (4, 6, 7) THEN clock_timestamp() END,
        result_kind = CASE WHEN decided.end_state = 4 THEN decided.result_kind END,
        result_type = CASE WHEN decided.end_state = 4 THEN decided.result_type END,
        result = CASE WHEN decided.end_state = 4 THEN decided.result END,
        error_type = CASE WHEN decided.end_state = 4 THEN NULL ELSE coalesce(decided.error_type, jobs.error_type) END,
        error_message = CASE WHEN decided.end_state = 4 THEN NULL
            WHEN decided.error_type IS NULL THEN jobs.error_message ELSE decided.error_message END,
        error_retryable = CASE WHEN decided.end_state = 4 THEN NULL
            WHEN decided.error_type IS NULL THEN jobs.error_retryable ELSE decided.error_retryable END,
        progress = coalesce(decided.progress, jobs.progress)
    FROM decided
    WHERE jobs.id = decided.job_id
    RETURNING
        jobs.id, jobs.type, jobs.queue, jobs.priority, jobs.state, jobs.sequence, jobs.dispatch_no,
        jobs.attempt, jobs.run_epoch, jobs.wait_time, jobs.queue_time, jobs.start_time, jobs.end_time,
        jobs.error_type, jobs.error_message, jobs.error_retryable, jobs.progress,
        CASE WHEN decided.cancelled THEN 12 ELSE decided.event_type END AS event_type,
        CASE WHEN decided.cancelled THEN decided.cancel_reason ELSE decided.message END AS message,
        decided.fingerprint, decided.in_hand
), ended AS (
    DELETE FROM runs USING settled WHERE runs.job_id = settled.id
), event AS (
    INSERT INTO job_events (
        job_id, sequence, type, state, attempt, run_epoch, message, queue_time, start_time, end_time,
        next_attempt_time, error_type, error_message, error_retryable, progress
    )
    SELECT
        id, sequence, event_type, state, attempt, run_epoch, coalesce(message, ''), queue_time, start_time,
        end_time, wait_time, error_type, error_message, error_retryable, progress
    FROM settled
), sent AS (
    INSERT INTO outbox (job_id, dispatch_no, queue, priority, dead, available_at)
    SELECT id, dispatch_no, queue, priority, state = 6, coalesce(wait_time, end_time)
    FROM settled
    WHERE state IN (1, 5) OR (state = 6 AND NOT in_hand)
), letter AS (
    INSERT INTO dead_letters (job_id, type, queue, fingerprint, reason, dead_time)
    SELECT id, type, queue, fingerprint, coalesce(message, ''), end_time FROM settled WHERE state = 6
)
SELECT
    item.job_id, settled.state, settled.sequence,
    locked.state AS locked_state, locked.sequence AS locked_sequence,
    locked.state <> 3 AND locked.run_epoch = item.run_epoch AND locked.claim_id = item.claim_id AS settled_before
FROM item
LEFT JOIN settled ON settled.id = item.job_id
LEFT JOIN locked ON locked.id = item.job_id

-- name: save_progress
-- Keep the newest progress of running jobs. $1 job ids, $2 run epochs, $3 progress.
WITH item AS (
    SELECT * FROM unnest($1::uuid[], $2::integer[], $3::bytea[]) AS t (job_id, run_epoch, progress)
), locked AS MATERIALIZED (
    SELECT id, state, run_epoch FROM jobs WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE jobs SET progress = item.progress
FROM item JOIN locked ON locked.id = item.job_id
WHERE jobs.id = item.job_id AND locked.state = 3 AND locked.run_epoch = item.run_epoch

-- name: held
-- What runs in a worker's name. $1 worker.
SELECT runs.job_id, runs.run_epoch, runs.claim_id, jobs.cancel_time IS NOT NULL AS cancel_requested
FROM runs JOIN jobs ON jobs.id = runs.job_id
WHERE runs.worker_id = $1

-- name: judge
-- The facts by which runs are ended from outside. $1 worker, $2 job ids (null: all of its runs).
-- The caller holds the jobs' locks.
SELECT
    jobs.id AS job_id, jobs.run_epoch, jobs.claim_id, jobs.type, jobs.failures, jobs.crashes, jobs.isolation,
    jobs.max_attempts, jobs.initial_backoff, jobs.max_backoff, jobs.multiplier, jobs.timeout
FROM runs JOIN jobs ON jobs.id = runs.job_id
WHERE runs.worker_id = $1
  AND ($2::uuid[] IS NULL OR runs.job_id = ANY ($2))
  AND jobs.state = 3 AND jobs.worker_id = $1 AND jobs.run_epoch = runs.run_epoch

-- name: lock
-- Lock a worker's running jobs that nobody else has locked. $1 worker, $2 job ids (null: all).
SELECT id FROM jobs
WHERE id IN (SELECT job_id FROM runs WHERE worker_id = $1 AND ($2::uuid[] IS NULL OR job_id = ANY ($2)))
ORDER BY id
FOR NO KEY UPDATE SKIP LOCKED

-- name: lock_waiting
-- Lock a worker's running jobs, waiting for those that others hold. $1 worker, $2 job ids (null: all).
SELECT id FROM jobs
WHERE id IN (SELECT job_id FROM runs WHERE worker_id = $1 AND ($2::uuid[] IS NULL OR job_id = ANY ($2)))
ORDER BY id
FOR NO KEY UPDATE
