-- name: measure_depth
-- For each item its queue, how many jobs wait in it (counted up to $4) and since when the first does.
-- $1 types, $2 queues (null: the handler's), $3 keys, $4 count at most.
WITH item AS (
    SELECT
        n, coalesce(t.queue, known.queue, 'default') AS queue,
        EXISTS (SELECT FROM idempotency_keys AS stored WHERE stored.key = t.key) AS repeated
    FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS t (type, queue, key, n)
    LEFT JOIN job_types AS known ON known.type = t.type
), depth AS (
    SELECT
        name AS queue,
        (SELECT count(*) FROM (
            SELECT FROM jobs
            WHERE wait_time IS NOT NULL AND state IN (1, 2, 5) AND jobs.queue = name
            LIMIT $4
        ) AS waiting) AS depth,
        (SELECT min(wait_time) FROM jobs
            WHERE wait_time IS NOT NULL AND state = 2 AND jobs.queue = name) AS oldest_wait_time
    FROM (SELECT DISTINCT queue AS name FROM item) AS named
)
SELECT item.queue, repeated, depth, clock_timestamp() - oldest_wait_time AS oldest_wait
FROM item JOIN depth ON depth.queue = item.queue
ORDER BY n
