-- name: after
-- A job's events after a sequence, in order, each with the job as of then. $1 job id, $2 sequence, $3 how many.
SELECT
    jobs.id, jobs.type, jobs.queue, jobs.priority, jobs.max_attempts, jobs.create_time, jobs.dispatch_no,
    jobs.traceparent, jobs.tracestate, jobs.labels::text,
    event.sequence, event.time AS event_time, event.type AS event_type, event.message,
    event.state, event.attempt, event.run_epoch, event.queue_time, event.start_time, event.end_time,
    event.next_attempt_time AS wait_time, event.error_type, event.error_message, event.error_retryable,
    event.progress, NULL::smallint AS payload_kind, NULL::text AS payload_type, NULL::bytea AS payload,
    CASE WHEN event.type = 10 THEN jobs.result_kind END AS result_kind,
    CASE WHEN event.type = 10 THEN jobs.result_type END AS result_type,
    CASE WHEN event.type = 10 THEN jobs.result END AS result
FROM job_events AS event JOIN jobs ON jobs.id = event.job_id
WHERE event.job_id = $1 AND event.sequence > $2
ORDER BY event.sequence
LIMIT $3

-- name: first_sequence
-- The first event of a job that is still stored. $1 job id.
SELECT min(sequence) FROM job_events WHERE job_id = $1

-- name: heads
-- How far the histories of jobs go. $1 job ids.
SELECT id, state, sequence, run_epoch, progress FROM jobs WHERE id = ANY ($1::uuid[])
