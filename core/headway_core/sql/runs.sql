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
    RETURNING jobs.*
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

-- name: settle
-- End runs: RUNNING -> COMPLETED, FAILED, PENDING, DEAD or CANCELLED, each guarded by worker and epoch.
-- While a cancel request stands, any end but COMPLETED is CANCELLED.
-- $1 worker, $2 job ids, $3 run epochs, $4 claim ids, $5 states, $6 event types, $7 messages, $8 failures,
-- $9 crashes, $10 isolations, $11 delays until due (for PENDING and FAILED), $12 result kinds,
-- $13 result types, $14 results, $15 error types (null: keep), $16 error messages, $17 error retryables,
-- $18 fingerprints, $19 whether the delivery is in hand (else a DEAD job is published to the dead letters),
-- $20 progress (null: keep), $21 whether the worker itself ends them (else the claim is struck off).
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
        wait_time = CASE WHEN decided.end_state IN (1, 5) THEN clock_timestamp() + decided.delay END,
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
    SELECT id, type, queue, fingerprint, message, end_time FROM settled WHERE state = 6
)
SELECT
    item.job_id, settled.state, settled.sequence,
    locked.state AS locked_state, locked.sequence AS locked_sequence,
    locked.state <> 3 AND locked.run_epoch = item.run_epoch AND locked.claim_id = item.claim_id AS settled_before
FROM item
LEFT JOIN settled ON settled.id = item.job_id
LEFT JOIN locked ON locked.id = item.job_id

-- name: complete_step
-- Store a step's result, once per job and name, as long as the run is the job's own.
-- $1 worker, $2 job id, $3 run epoch, $4 step, $5 kind, $6 type, $7 data.
WITH locked AS MATERIALIZED (
    SELECT id, state, worker_id, run_epoch FROM jobs WHERE id = $2 FOR NO KEY UPDATE
), step AS (
    INSERT INTO job_steps (job_id, name, run_epoch, kind, type, data)
    SELECT id, $4, $3, $5, $6, $7
    FROM locked
    WHERE state = 3 AND worker_id = $1 AND run_epoch = $3
    ON CONFLICT (job_id, name) DO NOTHING
    RETURNING job_id
), stepped AS (
    UPDATE jobs SET sequence = jobs.sequence + 1 FROM step WHERE jobs.id = step.job_id RETURNING jobs.*
), event AS (
    INSERT INTO job_events (
        job_id, sequence, type, state, attempt, run_epoch, message, queue_time, start_time,
        error_type, error_message, error_retryable, progress
    )
    SELECT
        id, sequence, 4, state, attempt, run_epoch, $4, queue_time, start_time,
        error_type, error_message, error_retryable, progress
    FROM stepped
)
SELECT
    (SELECT sequence FROM stepped) AS sequence,
    EXISTS (SELECT FROM locked WHERE state = 3 AND worker_id = $1 AND run_epoch = $3) AS own

-- name: load_steps
-- The stored results of a job's steps. $1 job id.
SELECT name, kind, type, data FROM job_steps WHERE job_id = $1

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
