-- name: remove_finished
-- One step along the jobs in the order of their IDs, which is that of their submission: remove those that are
-- COMPLETED or CANCELLED for long, with events and steps. $1 after this ID, $2 for how long, $3 look at how many.
-- Jobs submitted within the hour before the limit are left for later, so that one walk meets most jobs done.
-- One that still has an outbox row stays: the relay reads it together with its job.
WITH span AS MATERIALIZED (
    SELECT id, state, end_time FROM jobs
    WHERE id > $1
      AND id < rpad(lpad(to_hex(greatest(
          (extract(epoch FROM statement_timestamp() - $2::interval - interval '1 hour') * 1000)::bigint, 0
      )), 12, '0'), 32, '0')::uuid
    ORDER BY id
    LIMIT $3
), locked AS MATERIALIZED (
    SELECT id FROM jobs
    WHERE id = ANY (ARRAY(
        SELECT id FROM span WHERE state IN (4, 7) AND end_time < statement_timestamp() - $2::interval
    ))
      AND NOT EXISTS (SELECT FROM outbox WHERE outbox.job_id = jobs.id)
    ORDER BY id
    FOR UPDATE SKIP LOCKED
), event AS (
    DELETE FROM job_events WHERE job_id = ANY (ARRAY(SELECT id FROM locked))
), step AS (
    DELETE FROM job_steps WHERE job_id = ANY (ARRAY(SELECT id FROM locked))
), removed AS (
    DELETE FROM jobs WHERE id = ANY (ARRAY(SELECT id FROM locked)) RETURNING id
)
SELECT
    (SELECT id FROM span ORDER BY id DESC LIMIT 1) AS last_id,
    (SELECT count(*) FROM span) AS seen,
    (SELECT count(*) FROM removed) AS removed

-- name: remove_keys
-- One step along the pages of the idempotency keys: remove those that are old and whose job is gone.
-- $1 first page, $2 how many pages, $3 how old. A walk along the pages needs no index, which every submit would pay.
WITH removed AS (
    DELETE FROM idempotency_keys
    WHERE ctid >= format('(%s,0)', $1::bigint)::tid AND ctid < format('(%s,0)', $1::bigint + $2::bigint)::tid
      AND create_time < statement_timestamp() - $3::interval
      AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = idempotency_keys.job_id)
    RETURNING 1
)
SELECT
    (SELECT count(*) FROM removed) AS removed,
    $1::bigint + $2::bigint
        >= pg_relation_size('idempotency_keys') / current_setting('block_size')::bigint AS at_end
