-- name: stranded
-- Jobs PENDING or FAILED, due, and without an outbox row, oldest first. $1 how many.
SELECT id, dispatch_no FROM jobs
WHERE wait_time <= clock_timestamp() AND state IN (1, 5)
  AND NOT EXISTS (SELECT FROM outbox WHERE outbox.job_id = jobs.id)
ORDER BY wait_time
LIMIT $1

-- name: queued_counts
-- Jobs that have been QUEUED for $1, by queue.
SELECT queue, count(*) AS count FROM jobs
WHERE state = 2 AND wait_time <= clock_timestamp() - $1::interval
GROUP BY queue

-- name: redispatch
-- Publish jobs again with the same dispatch number, if they still wait for that one and no row is there.
-- $1 job ids, $2 dispatch numbers, $3 how long the row is left to this process.
WITH item AS (
    SELECT * FROM unnest($1::uuid[], $2::integer[]) AS t (job_id, dispatch_no)
), locked AS MATERIALIZED (
    SELECT id, type, queue, priority, state, dispatch_no, traceparent, tracestate FROM jobs
    WHERE id = ANY ($1::uuid[])
    ORDER BY id
    FOR NO KEY UPDATE SKIP LOCKED
), sent AS (
    INSERT INTO outbox (job_id, dispatch_no, queue, priority, available_at, reserved_until)
    SELECT locked.id, locked.dispatch_no, locked.queue, locked.priority, clock_timestamp(),
           clock_timestamp() + $3::interval
    FROM locked JOIN item ON item.job_id = locked.id
    WHERE locked.state IN (1, 2, 5) AND locked.dispatch_no = item.dispatch_no
      AND NOT EXISTS (SELECT FROM outbox WHERE outbox.job_id = locked.id)
    RETURNING id, job_id, dispatch_no, queue, priority, dead
), lowered AS (
    -- If the broker lost the message, it lost its copy at the highest priority, too.
    UPDATE jobs SET boost_time = NULL FROM sent WHERE jobs.id = sent.job_id AND jobs.boost_time IS NOT NULL
)
SELECT sent.*, locked.type, locked.traceparent, locked.tracestate FROM sent JOIN locked ON locked.id = sent.job_id

-- name: queued
-- Jobs that have been QUEUED in a queue for $2, oldest first. $1 queue, $3 how many.
SELECT id, dispatch_no FROM jobs
WHERE state = 2 AND queue = $1 AND wait_time <= clock_timestamp() - $2::interval
  AND NOT EXISTS (SELECT FROM outbox WHERE outbox.job_id = jobs.id)
ORDER BY wait_time
LIMIT $3

-- name: redispatch_starving
-- Publish jobs QUEUED for $1 again at the highest priority: once, or a backlog that nobody drains would
-- grow at the broker without end. $2 how many, $3 as in `redispatch`.
WITH starving AS (
    SELECT id FROM jobs
    WHERE state = 2 AND wait_time <= clock_timestamp() - $1::interval
      AND priority < 9 AND boost_time IS NULL
    ORDER BY wait_time
    LIMIT $2
), locked AS MATERIALIZED (
    SELECT id, state FROM jobs WHERE id IN (SELECT id FROM starving) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
), boosted AS (
    UPDATE jobs SET boost_time = clock_timestamp()
    FROM locked
    WHERE jobs.id = locked.id AND locked.state = 2
    RETURNING jobs.id, jobs.type, jobs.queue, jobs.dispatch_no, jobs.traceparent, jobs.tracestate
), sent AS (
    INSERT INTO outbox (job_id, dispatch_no, queue, priority, available_at, reserved_until)
    SELECT id, dispatch_no, queue, 9, clock_timestamp(), clock_timestamp() + $3::interval FROM boosted
    RETURNING id, job_id, dispatch_no, queue, priority, dead
)
SELECT sent.*, boosted.type, boosted.traceparent, boosted.tracestate
FROM sent JOIN boosted ON boosted.id = sent.job_id

-- name: queue_statistics
-- How each queue stands: jobs that wait, jobs that run, seconds the first queued one has waited, dead letters.
-- Each table is read once, whatever the number of queues.
WITH waiting AS MATERIALIZED (
    SELECT queue, count(*) AS count, min(wait_time) FILTER (WHERE state = 2) AS first_time
    FROM jobs
    WHERE wait_time IS NOT NULL
    GROUP BY queue
), running AS MATERIALIZED (
    SELECT job.queue, count(*) AS count
    -- OFFSET 0: job by job, or a wrong estimate makes it a walk along all jobs.
    FROM runs CROSS JOIN LATERAL (SELECT queue FROM jobs WHERE jobs.id = runs.job_id OFFSET 0) AS job
    GROUP BY job.queue
), dead AS MATERIALIZED (
    SELECT queue, count(*) AS count FROM dead_letters GROUP BY queue
)
SELECT
    queues.name AS queue,
    coalesce(waiting.count, 0) AS waiting,
    coalesce(running.count, 0) AS running,
    extract(epoch FROM clock_timestamp() - waiting.first_time)::double precision AS oldest_wait_seconds,
    coalesce(dead.count, 0) AS dead
FROM queues
LEFT JOIN waiting ON waiting.queue = queues.name
LEFT JOIN running ON running.queue = queues.name
LEFT JOIN dead ON dead.queue = queues.name
ORDER BY name
