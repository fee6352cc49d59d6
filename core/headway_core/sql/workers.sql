-- name: register_types
-- Store handlers. $1 types, $2 queues, $3 max_attempts, $4 initial_backoffs, $5 max_backoffs, $6 multipliers,
-- $7 timeouts. Returns the types that were not known before.
INSERT INTO job_types AS known (type, queue, max_attempts, initial_backoff, max_backoff, multiplier, timeout)
SELECT *
FROM unnest(
    $1::text[], $2::text[], $3::integer[], $4::interval[], $5::interval[], $6::double precision[], $7::interval[]
) AS t (type, queue, max_attempts, initial_backoff, max_backoff, multiplier, timeout)
ORDER BY type
ON CONFLICT (type) DO UPDATE SET
    queue = excluded.queue, max_attempts = excluded.max_attempts,
    initial_backoff = excluded.initial_backoff, max_backoff = excluded.max_backoff,
    multiplier = excluded.multiplier, timeout = excluded.timeout, update_time = clock_timestamp()
RETURNING type, xmax = 0 AS new

-- name: register
-- A new worker with a lease. $1 id, $2 name, $3 queues, $4 types, $5 lease. Safe to run twice.
INSERT INTO workers (id, name, queues, types, lease_expires)
VALUES ($1, $2, $3, $4, clock_timestamp() + $5::interval)
ON CONFLICT (id) DO NOTHING

-- name: make_due
-- Declined jobs of these types are due now. $1 types, $2 how many. Job and outbox row get the same due time.
WITH locked AS MATERIALIZED (
    SELECT id FROM jobs
    WHERE wait_time > clock_timestamp() AND state = 1 AND declines > 0 AND type = ANY ($1::text[])
    ORDER BY id
    LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
), due AS (
    UPDATE jobs SET wait_time = clock_timestamp()
    FROM locked
    WHERE jobs.id = locked.id
    RETURNING jobs.id, jobs.dispatch_no, jobs.wait_time
), sent AS (
    UPDATE outbox SET available_at = due.wait_time
    FROM due
    WHERE outbox.job_id = due.id AND outbox.dispatch_no = due.dispatch_no
)
SELECT count(*) FROM due

-- name: adopt
-- Jobs that were submitted before their type was known take the handler's queue and policy where the submit
-- gave none, and are due. $1 types, $2 how many. A job that changes its queue is dispatched there anew.
WITH locked AS MATERIALIZED (
    SELECT jobs.id, jobs.queue_given OR jobs.queue = known.queue AS stays
    FROM jobs JOIN job_types AS known ON known.type = jobs.type
    WHERE jobs.wait_time IS NOT NULL AND jobs.type = ANY ($1::text[])
      AND (
          (NOT jobs.queue_given AND jobs.queue <> known.queue)
          OR (jobs.max_attempts IS NULL AND known.max_attempts IS NOT NULL)
          OR (jobs.initial_backoff IS NULL AND known.initial_backoff IS NOT NULL)
          OR (jobs.max_backoff IS NULL AND known.max_backoff IS NOT NULL)
          OR (jobs.multiplier IS NULL AND known.multiplier IS NOT NULL)
          OR (jobs.timeout IS NULL AND known.timeout IS NOT NULL)
      )
    ORDER BY jobs.id
    LIMIT $2
    FOR NO KEY UPDATE OF jobs SKIP LOCKED
), adopted AS (
    UPDATE jobs SET
        queue = CASE WHEN locked.stays THEN jobs.queue ELSE known.queue END,
        max_attempts = coalesce(jobs.max_attempts, known.max_attempts),
        initial_backoff = coalesce(jobs.initial_backoff, known.initial_backoff),
        max_backoff = coalesce(jobs.max_backoff, known.max_backoff),
        multiplier = coalesce(jobs.multiplier, known.multiplier),
        timeout = coalesce(jobs.timeout, known.timeout),
        dispatch_no = jobs.dispatch_no + (NOT locked.stays)::integer
    FROM locked, job_types AS known
    WHERE jobs.id = locked.id AND known.type = jobs.type
    RETURNING jobs.id, jobs.dispatch_no, jobs.queue, jobs.priority, jobs.wait_time, locked.stays
), unsent AS (
    DELETE FROM outbox USING adopted WHERE outbox.job_id = adopted.id AND NOT adopted.stays
), sent AS (
    INSERT INTO outbox (job_id, dispatch_no, queue, priority, available_at)
    SELECT id, dispatch_no, queue, priority, wait_time FROM adopted WHERE NOT stays
)
SELECT count(*) FROM adopted

-- name: waiting_by_type
-- How many jobs of these types wait in a queue. $1 types, $2 count at most.
SELECT type, count(*) FROM (
    SELECT type FROM jobs WHERE wait_time IS NOT NULL AND type = ANY ($1::text[]) LIMIT $2
) AS waiting
GROUP BY type

-- name: beat
-- Renew leases that have not been ended, lapsed or not. $1 worker ids, $2 lease. Returns those renewed.
UPDATE workers SET lease_expires = clock_timestamp() + $2::interval
FROM (SELECT id FROM workers WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE) AS locked
WHERE workers.id = locked.id AND workers.ended_time IS NULL
RETURNING workers.id

-- name: lock_lease
-- Lock a worker's lease; claims and beats of this worker wait. $1 id.
SELECT id, ended_time, ended_how, company, lease_expires <= clock_timestamp() AS lapsed
FROM workers WHERE id = $1 FOR UPDATE

-- name: end
-- End a lease for good and remember how many runs it covered. $1 id, $2 how.
UPDATE workers SET
    ended_time = clock_timestamp(), ended_how = $2,
    company = (SELECT count(*) FROM runs WHERE runs.worker_id = workers.id)
WHERE id = $1 AND ended_time IS NULL
RETURNING company

-- name: lapsed
-- Workers without a live lease that still have runs. $1 how many.
-- From the workers, not from the runs: under a forgotten transaction dead rows of all runs since pile up there.
-- No run is without its worker's row: `forget` spares those that have runs, and an ended one gets no more.
SELECT id AS worker_id FROM workers
WHERE (ended_time IS NOT NULL OR lease_expires <= clock_timestamp())
  AND EXISTS (SELECT FROM runs WHERE runs.worker_id = workers.id)
LIMIT $1

-- name: end_idle
-- End lapsed leases that cover no run, $1 after their lapse, so that the table tells who is there.
UPDATE workers SET ended_time = clock_timestamp(), ended_how = 4, company = 0
WHERE ended_time IS NULL AND lease_expires < clock_timestamp() - $1::interval
  AND NOT EXISTS (SELECT FROM runs WHERE runs.worker_id = workers.id)

-- name: forget
-- Drop workers that ended long ago. $1 how long.
DELETE FROM workers
WHERE ended_time < clock_timestamp() - $1::interval
  AND NOT EXISTS (SELECT FROM runs WHERE runs.worker_id = workers.id)

-- name: clock
-- The database's time and the time its server was started.
SELECT clock_timestamp() AS now, pg_postmaster_start_time() AS postmaster_start_time
