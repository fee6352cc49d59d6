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
