-- What bench.history fills a database with; each statement makes the same IDs from the jobs' numbers.
-- $1 and $2 numbers from, to (exclusive), $3 how many in all, $4 the time of the newest.

-- name: numbered
WITH numbered AS (
    SELECT
        n, at, md5(n::text) AS hash,
        (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
            || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid AS id,
        CASE WHEN n % 1000 = 999 AND n / 1000 < 10000 THEN 1
             WHEN n % 1000 < 10 THEN 6 WHEN n % 1000 < 19 THEN 7 ELSE 4 END AS state
    FROM generate_series($1::bigint, $2::bigint - 1) AS n
    CROSS JOIN LATERAL (SELECT $4::timestamptz - interval '20 days' * (1 - n / $3::float8)) AS t (at)
)

-- name: jobs
INSERT INTO jobs (
    id, type, queue, queue_given, priority, state, sequence, wait_time, run_epoch, worker_id, claim_id,
    attempt, failures, max_attempts, create_time, queue_time, start_time, end_time, payload_kind, payload,
    result_kind, result, error_type, error_message, error_retryable, traceparent, labels
)
SELECT
    id, CASE WHEN n % 100000 = 54321 THEN 'rare.type' ELSE 'type.' || n % 20 END, 'default', false, 4, state,
    CASE state WHEN 1 THEN 1 ELSE 3 END, CASE state WHEN 1 THEN at + interval '1 year' END,
    CASE state WHEN 1 THEN 0 ELSE 1 END,
    CASE WHEN state <> 1 THEN md5((n % 50)::text)::uuid END, CASE WHEN state <> 1 THEN hash::uuid END,
    CASE state WHEN 1 THEN 0 ELSE 1 END, CASE state WHEN 6 THEN 5 ELSE 0 END, 5, at,
    NULL, CASE WHEN state <> 1 THEN at + interval '20 ms' END,
    CASE WHEN state <> 1 THEN at + interval '1 s' END,
    1, convert_to('{"country": "FR", "n": ' || n || ', "text": "' || repeat(hash, 4) || '"}', 'UTF8'),
    CASE state WHEN 4 THEN 1 END, CASE state WHEN 4 THEN convert_to('{"pages": 12}', 'UTF8') END,
    CASE state WHEN 6 THEN 'ValueError' END, CASE state WHEN 6 THEN 'it is no use' END,
    CASE state WHEN 6 THEN true END,
    '00-' || hash || '-b7ad6b7169203331-01',
    CASE WHEN n % 100000 = 54321 THEN '{"rare": "yes"}'::jsonb
         WHEN n % 2 = 0 THEN jsonb_build_object('tenant', 't' || n % 1000) END
FROM numbered

-- name: events
INSERT INTO job_events (
    job_id, sequence, time, type, state, attempt, run_epoch, start_time, end_time, next_attempt_time
)
SELECT
    id, sequence, at + interval '10 ms' * sequence,
    CASE sequence WHEN 1 THEN 1 WHEN 2 THEN 3 ELSE CASE state WHEN 4 THEN 10 WHEN 6 THEN 11 ELSE 12 END END,
    CASE sequence WHEN 1 THEN 1 WHEN 2 THEN 3 ELSE state END,
    least(sequence - 1, 1), least(sequence - 1, 1),
    CASE WHEN sequence > 1 AND state <> 1 THEN at + interval '20 ms' END,
    CASE WHEN sequence > 2 THEN at + interval '1 s' END, CASE sequence WHEN 1 THEN at END
FROM numbered CROSS JOIN generate_series(1, 3) AS sequence
WHERE sequence < 2 OR state <> 1

-- name: keys
INSERT INTO idempotency_keys (key, job_id, request_hash, create_time)
SELECT hash, id, decode(hash, 'hex'), at FROM numbered ORDER BY hash

-- name: steps
INSERT INTO job_steps (job_id, name, run_epoch, kind, type, data, time)
SELECT id, 'fetch', 1, 1, '', convert_to('{"rows": 28298}', 'UTF8'), at + interval '500 ms'
FROM numbered WHERE state <> 1 AND n % 20 = 0

-- name: letters
INSERT INTO dead_letters (job_id, type, queue, fingerprint, reason, dead_time)
SELECT id, 'type.' || n % 20, 'default', 'type.' || n % 20 || ':ValueError', 'attempts are used up',
    at + interval '1 s'
FROM numbered WHERE state = 6

-- name: outbox
INSERT INTO outbox (job_id, dispatch_no, queue, priority, available_at)
SELECT id, 1, 'default', 4, at + interval '1 year' FROM numbered WHERE state = 1
