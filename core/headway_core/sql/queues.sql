-- name: lock_queues
-- One transaction at a time makes queue names known. A statement of its own: only one that begins after the
-- wait sees what was committed meanwhile.
SELECT pg_advisory_xact_lock(hashtext('headway.queues'))

-- name: add_queues
-- Make queue names known, at most $2 in all, under lock_queues. $1 names. Returns the names that are known now.
WITH added AS (
    INSERT INTO queues (name)
    SELECT name FROM unnest($1::text[]) AS name
    WHERE NOT EXISTS (SELECT FROM queues WHERE queues.name = name.name)
    ORDER BY name
    LIMIT greatest($2 - (SELECT count(*) FROM queues), 0)
    ON CONFLICT DO NOTHING
    RETURNING name
)
SELECT name FROM added UNION SELECT name FROM queues WHERE name = ANY ($1)
