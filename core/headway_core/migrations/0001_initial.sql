-- Headway's tables. Only `jobs` is the truth of a job; `runs`, `outbox` and `dead_letters` repeat a part
-- of it in the same transactions, small enough to be searched.

CREATE TABLE queues (
    name        text PRIMARY KEY,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT a_queue_name_is_short_and_plain CHECK (name ~ '^[a-z0-9_-]{1,64}$')
);
INSERT INTO queues (name) VALUES ('default');

-- What workers have registered: the handler's part of "submit > handler > defaults".
CREATE TABLE job_types (
    type            text PRIMARY KEY,
    queue           text NOT NULL,
    max_attempts    integer,
    initial_backoff interval,
    max_backoff     interval,
    multiplier      double precision,
    timeout         interval,
    update_time     timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE jobs (
    id              uuid PRIMARY KEY,
    type            text NOT NULL,
    queue           text NOT NULL,
    queue_given     boolean NOT NULL,          -- by the submit; else a first registration may move it
    priority        smallint NOT NULL,
    state           smallint NOT NULL,
    sequence        bigint NOT NULL DEFAULT 1, -- of its last event
    dispatch_no     integer NOT NULL DEFAULT 1,
    -- When a PENDING or FAILED job is due, since when a QUEUED one is queued; null otherwise.
    wait_time       timestamptz,
    -- The run: who, which one, and what it has cost.
    run_epoch       integer NOT NULL DEFAULT 0,
    worker_id       uuid,
    claim_id        uuid,                      -- null once somebody else has ended the run
    attempt         integer NOT NULL DEFAULT 0,
    failures        integer NOT NULL DEFAULT 0,
    crashes         integer NOT NULL DEFAULT 0,
    declines        integer NOT NULL DEFAULT 0,
    replays         integer NOT NULL DEFAULT 0,
    isolation       smallint NOT NULL DEFAULT 0,
    boost_time      timestamptz,               -- when it was last published again for starving
    cancel_time     timestamptz,               -- when someone asked to cancel the running job
    cancel_reason   text,
    -- Policy: null takes the default.
    max_attempts    integer,
    initial_backoff interval,
    max_backoff     interval,
    multiplier      double precision,
    timeout         interval,
    create_time     timestamptz NOT NULL DEFAULT clock_timestamp(),
    queue_time      timestamptz,
    start_time      timestamptz,
    end_time        timestamptz,
    payload_kind    smallint,
    result_kind     smallint,
    error_retryable boolean,
    traceparent     text NOT NULL,
    tracestate      text NOT NULL DEFAULT '',
    labels          jsonb,
    error_type      text,
    error_message   text,
    progress        bytea,
    payload_type    text,
    payload         bytea,
    result_type     text,
    result          bytea,
    CONSTRAINT a_state_is_one_of_seven CHECK (state BETWEEN 1 AND 7),
    CONSTRAINT a_priority_is_zero_to_nine CHECK (priority BETWEEN 0 AND 9),
    -- Postgres checks these also on a row version that it then finds outdated and recomputes. So every
    -- change of state sets state, wait_time and end_time together, whatever they were.
    CONSTRAINT exactly_the_waiting_jobs_have_a_wait_time
        CHECK ((state IN (1, 2, 5)) = (wait_time IS NOT NULL)),
    CONSTRAINT exactly_the_done_jobs_have_an_end_time
        CHECK ((state IN (4, 6, 7)) = (end_time IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- For the sweeps and the depth of queues. Its predicate is no state: a batch statement that guards by
-- state must never be tempted to walk it.
CREATE INDEX jobs_waiting ON jobs (state, queue, wait_time) WHERE wait_time IS NOT NULL;

CREATE TABLE job_events (
    job_id            uuid NOT NULL,
    sequence          bigint NOT NULL,
    time              timestamptz NOT NULL DEFAULT clock_timestamp(),
    type              smallint NOT NULL,
    -- The job as of this event, as far as it changes.
    state             smallint NOT NULL,
    attempt           integer NOT NULL,
    run_epoch         integer NOT NULL,
    queue_time        timestamptz,
    start_time        timestamptz,
    end_time          timestamptz,
    next_attempt_time timestamptz,
    error_retryable   boolean,
    error_type        text,
    error_message     text,
    message           text NOT NULL DEFAULT '',
    progress          bytea,
    PRIMARY KEY (job_id, sequence)
);

-- The RUNNING jobs, one row each.
CREATE TABLE runs (
    job_id     uuid PRIMARY KEY,
    worker_id  uuid NOT NULL,
    run_epoch  integer NOT NULL,
    claim_id   uuid NOT NULL,
    start_time timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX runs_of_a_worker ON runs (worker_id);

-- One row per executor process: its lease is its right to its runs.
CREATE TABLE workers (
    id            uuid PRIMARY KEY,
    name          text NOT NULL,
    queues        text[] NOT NULL,
    types         text[] NOT NULL,
    start_time    timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_expires timestamptz NOT NULL,
    ended_time    timestamptz,
    ended_how     smallint,
    company       integer          -- how many runs it had when its lease ended
) WITH (fillfactor = 50);

-- Messages to be published. Append-only: a row is deleted at the broker's confirm.
CREATE TABLE outbox (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id         uuid NOT NULL,
    dispatch_no    integer NOT NULL,
    queue          text NOT NULL,
    priority       smallint NOT NULL,
    dead           boolean NOT NULL DEFAULT false,  -- to the dead-letter exchange
    available_at   timestamptz NOT NULL,
    reserved_until timestamptz                      -- till then for the process that wrote it
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX outbox_due ON outbox (priority, available_at);
CREATE INDEX outbox_of_a_job ON outbox (job_id);

CREATE TABLE idempotency_keys (
    key          text PRIMARY KEY,
    job_id       uuid NOT NULL,
    request_hash bytea NOT NULL,
    create_time  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Results of finished steps.
CREATE TABLE job_steps (
    job_id      uuid NOT NULL,
    name        text NOT NULL,
    run_epoch   integer NOT NULL,
    kind        smallint NOT NULL,
    type        text NOT NULL,
    data        bytea NOT NULL,
    time        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (job_id, name)
);

-- The DEAD jobs, one row each.
CREATE TABLE dead_letters (
    job_id      uuid PRIMARY KEY,
    type        text NOT NULL,
    queue       text NOT NULL,
    fingerprint text NOT NULL,
    reason      text NOT NULL,
    dead_time   timestamptz NOT NULL
);
CREATE INDEX dead_letters_by_time ON dead_letters (dead_time, job_id);
