-- name: submit
-- Store new jobs with event 1, outbox row and idempotency key.
-- $1 ids, $2 types, $3 queues (null: the handler's), $4 priorities, $5 keys (null: none), $6 request hashes (null: no key),
-- $7 delays (null: none), $8 run times (null: none), $9 max_attempts, $10 initial_backoffs,
-- $11 max_backoffs, $12 multipliers, $13 timeouts (null: the handler's), $14 labels as JSON,
-- $15 traceparents, $16 tracestates (null: none), $17 payload kinds, $18 payload types, $19 payloads,
-- $20 how long a due row is left to this process. Columns of nulls alone may be empty.
-- submissions.submit_statement makes shorter ones of this: a line that ends with a note is left out where no
-- item names a queue, or a key, or has been stored before; in unnest stand parameters and their types alone.
-- An item without a row in the answer has a key that is there already (or an ID, if again), or an unknown queue.
WITH item AS (
    SELECT *
    FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::text[], $6::bytea[], $7::interval[],
        $8::timestamptz[], $9::integer[], $10::interval[], $11::interval[], $12::double precision[],
        $13::interval[], $14::text[], $15::text[], $16::text[], $17::smallint[], $18::text[], $19::bytea[]
    ) AS t (
        id, type, queue, priority, key, request_hash, delay, run_time, max_attempts, initial_backoff,
        max_backoff, multiplier, timeout, labels, traceparent, tracestate, payload_kind, payload_type, payload
    )
    WHERE queue IS NULL OR EXISTS (SELECT FROM queues WHERE name = t.queue) -- if queues
), keyed AS ( -- if keys
    INSERT INTO idempotency_keys (key, job_id, request_hash) -- if keys
    SELECT key, id, request_hash FROM item WHERE key IS NOT NULL ORDER BY key -- if keys
    ON CONFLICT (key) DO NOTHING -- if keys
    RETURNING job_id -- if keys
), job AS (
    INSERT INTO jobs (
        id, type, queue, queue_given, priority, state, wait_time, max_attempts, initial_backoff,
        max_backoff, multiplier, timeout, labels, traceparent, tracestate, payload_kind, payload_type, payload
    )
    SELECT
        item.id, item.type, coalesce(item.queue, known.queue, 'default'), item.queue IS NOT NULL,
        item.priority, 1,
        greatest(coalesce(item.run_time, clock_timestamp() + item.delay), clock_timestamp()),
        coalesce(item.max_attempts, known.max_attempts),
        coalesce(item.initial_backoff, known.initial_backoff),
        coalesce(item.max_backoff, known.max_backoff),
        coalesce(item.multiplier, known.multiplier), coalesce(item.timeout, known.timeout),
        item.labels::jsonb, item.traceparent, coalesce(item.tracestate, ''),
        item.payload_kind, item.payload_type, item.payload
    FROM item LEFT JOIN job_types AS known ON known.type = item.type
    WHERE item.key IS NULL OR item.id IN (SELECT job_id FROM keyed) -- if keys
    ON CONFLICT (id) DO NOTHING -- if again
    RETURNING id, queue, priority, max_attempts, create_time, wait_time
), event AS (
    INSERT INTO job_events (job_id, sequence, type, state, attempt, run_epoch, next_attempt_time)
    SELECT id, 1, 1, 1, 0, 0, wait_time FROM job
), sent AS (
    INSERT INTO outbox (job_id, dispatch_no, queue, priority, available_at, reserved_until)
    SELECT
        id, 1, queue, priority, wait_time,
        CASE WHEN wait_time <= clock_timestamp() THEN clock_timestamp() + $20::interval END
    FROM job
    RETURNING job_id, CASE WHEN reserved_until IS NOT NULL THEN id END AS outbox_id
)
SELECT job.*, sent.outbox_id FROM job JOIN sent ON sent.job_id = job.id

-- name: find_submitted
-- What stands in the way of submissions that made no row.
-- $1 ids, $2 keys, $3 queues.
SELECT
    item.id, stored.job_id AS key_job_id, stored.request_hash,
    jobs.id IS NOT NULL AS stored_before,
    item.queue IS NOT NULL AND queues.name IS NULL AS queue_unknown
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS item (id, key, queue)
LEFT JOIN idempotency_keys AS stored ON stored.key = item.key
LEFT JOIN jobs ON jobs.id = item.id
LEFT JOIN queues ON queues.name = item.queue
