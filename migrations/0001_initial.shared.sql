-- The same tables shared with the TypeScript library: its INT ids, whatever of its own migrations has
-- run already, and triggers that do for its writers what ours do themselves. Adding a nullable column
-- or one with a constant default rewrites nothing, so no lock here lasts.

CREATE TABLE IF NOT EXISTS {schema}.job_queue (
    id              SERIAL PRIMARY KEY,
    job_type        VARCHAR(255) NOT NULL,
    payload         JSONB NOT NULL,
    status          VARCHAR(50) DEFAULT 'pending',
    created_at      TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
    updated_at      TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
    locked_at       TIMESTAMPTZ,
    locked_by       VARCHAR(255),
    attempts        INT DEFAULT 0,
    max_attempts    INT DEFAULT 3,
    next_attempt_at TIMESTAMPTZ,
    priority        INT DEFAULT 0,
    run_at          TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
    pending_reason  TEXT,
    error_history   JSONB DEFAULT '[]'::jsonb
);

ALTER TABLE {schema}.job_queue
    ADD COLUMN IF NOT EXISTS timeout_ms            INT,
    ADD COLUMN IF NOT EXISTS failure_reason        VARCHAR,
    ADD COLUMN IF NOT EXISTS completed_at          TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS started_at            TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS last_retried_at       TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS last_failed_at        TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS last_cancelled_at     TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS tags                  TEXT[],
    ADD COLUMN IF NOT EXISTS force_kill_on_timeout BOOLEAN DEFAULT FALSE,
    ADD COLUMN IF NOT EXISTS idempotency_key       VARCHAR(255),
    ADD COLUMN IF NOT EXISTS wait_until            TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS wait_token_id         VARCHAR(255),
    ADD COLUMN IF NOT EXISTS step_data             JSONB DEFAULT '{}'::jsonb,
    ADD COLUMN IF NOT EXISTS progress              INT,
    ADD COLUMN IF NOT EXISTS retry_delay           INT,
    ADD COLUMN IF NOT EXISTS retry_backoff         BOOLEAN,
    ADD COLUMN IF NOT EXISTS retry_delay_max       INT,
    ADD COLUMN IF NOT EXISTS output                JSONB,
    ADD COLUMN IF NOT EXISTS group_id              VARCHAR(255),
    ADD COLUMN IF NOT EXISTS group_tier            VARCHAR(255),
    ADD COLUMN IF NOT EXISTS dead_letter_job_type  VARCHAR(255),
    ADD COLUMN IF NOT EXISTS dead_lettered_at      TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS dead_letter_job_id    INT,
    ADD COLUMN IF NOT EXISTS depends_on_job_ids    INTEGER[],
    ADD COLUMN IF NOT EXISTS depends_on_tags       TEXT[],
    ADD COLUMN IF NOT EXISTS lease_id              BIGINT,
    ADD COLUMN IF NOT EXISTS cancel_requested_at   TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS due                   BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN IF NOT EXISTS ready_at              TIMESTAMPTZ;

CREATE TABLE IF NOT EXISTS {schema}.job_events (
    id         SERIAL,
    job_id     INT NOT NULL,
    event_type TEXT NOT NULL,
    created_at TIMESTAMPTZ DEFAULT now(),
    metadata   JSONB,
    PRIMARY KEY (job_id, id)  -- both look events up by job, neither by id
);

CREATE TABLE IF NOT EXISTS {schema}.waitpoints (
    id           VARCHAR(255) PRIMARY KEY,
    job_id       INT,
    status       VARCHAR(20) NOT NULL DEFAULT 'waiting',
    output       JSONB,
    timeout_at   TIMESTAMPTZ,
    created_at   TIMESTAMPTZ DEFAULT now(),
    completed_at TIMESTAMPTZ,
    tags         TEXT[]
);

CREATE TABLE IF NOT EXISTS {schema}.cron_schedules (
    id                    SERIAL PRIMARY KEY,
    schedule_name         VARCHAR(255) NOT NULL UNIQUE,
    cron_expression       VARCHAR(255) NOT NULL,
    job_type              VARCHAR(255) NOT NULL,
    payload               JSONB NOT NULL DEFAULT '{}'::jsonb,
    max_attempts          INT DEFAULT 3,
    priority              INT DEFAULT 0,
    timeout_ms            INT,
    force_kill_on_timeout BOOLEAN DEFAULT FALSE,
    tags                  TEXT[],
    timezone              VARCHAR(100) DEFAULT 'UTC',
    allow_overlap         BOOLEAN DEFAULT FALSE,
    status                VARCHAR(50) DEFAULT 'active',
    last_enqueued_at      TIMESTAMPTZ,
    last_job_id           INT,
    next_run_at           TIMESTAMPTZ,
    created_at            TIMESTAMPTZ DEFAULT now(),
    updated_at            TIMESTAMPTZ DEFAULT now()
);
ALTER TABLE {schema}.cron_schedules
    ADD COLUMN IF NOT EXISTS retry_delay          INT,
    ADD COLUMN IF NOT EXISTS retry_backoff        BOOLEAN,
    ADD COLUMN IF NOT EXISTS retry_delay_max      INT,
    ADD COLUMN IF NOT EXISTS dead_letter_job_type VARCHAR(255);

CREATE SEQUENCE IF NOT EXISTS {schema}.dataqueue_lease_seq CACHE 100;

CREATE TABLE IF NOT EXISTS {schema}.dataqueue_workers (
    id                TEXT PRIMARY KEY,
    host              TEXT NOT NULL,
    pid               INT NOT NULL,
    job_types         TEXT[] NOT NULL,
    concurrency       INT NOT NULL,
    version           TEXT NOT NULL,
    started_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_heartbeat_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    lease_expires_at  TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE IF NOT EXISTS {schema}.dataqueue_listeners (
    topic TEXT NOT NULL,
    id    TEXT NOT NULL,
    until TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (topic, id)
) WITH (fillfactor = 50);

-- Keeps ready_at (a generated column on tables of our own) and fences the other library's writers.
-- It never sets lease_id; ours do at each claim, and clear it at each exit. So a row with a lease is
-- held by one of our workers, and a write that leaves 'processing' without clearing the lease is foreign.
CREATE OR REPLACE FUNCTION {schema}.dataqueue_keep_row() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.status IN ('completed', 'failed', 'waiting')
           AND (NEW.status <> OLD.status OR NEW.completed_at IS DISTINCT FROM OLD.completed_at
                OR NEW.last_failed_at IS DISTINCT FROM OLD.last_failed_at)
           AND NEW.lease_id IS NOT DISTINCT FROM OLD.lease_id
           AND (OLD.lease_id IS NOT NULL OR OLD.status <> 'processing') THEN
            RETURN NULL;  -- a late completion, failure or wait of an attempt that does not own the job
        END IF;
        IF OLD.lease_id IS NOT NULL AND NEW.lease_id = OLD.lease_id AND NEW.status <> 'processing' THEN
            NEW.lease_id := NULL;  -- its reclaim or retry took the job from our worker, which is told
            NEW.cancel_requested_at := NULL;
        END IF;
    END IF;
    NEW.ready_at := CASE NEW.status
        WHEN 'pending' THEN CASE WHEN NEW.attempts < NEW.max_attempts THEN NEW.run_at END
        WHEN 'failed'  THEN CASE WHEN NEW.attempts < NEW.max_attempts THEN NEW.next_attempt_at END
        WHEN 'waiting' THEN CASE WHEN NEW.wait_token_id IS NULL THEN NEW.wait_until END
    END;
    IF NEW.ready_at IS NULL THEN
        NEW.due := FALSE;
    ELSIF TG_OP = 'INSERT' OR NEW.ready_at IS DISTINCT FROM OLD.ready_at THEN
        NEW.due := NEW.ready_at <= now();
    END IF;
    RETURN NEW;
END
$body$;

CREATE OR REPLACE FUNCTION {schema}.dataqueue_tell_added() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM pg_notify('dataqueue:' || left(TG_TABLE_SCHEMA, 50), 'work')
    WHERE EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'work' AND until > now());
    RETURN NULL;
END
$body$;

DROP TRIGGER IF EXISTS dataqueue_keep_row ON {schema}.job_queue;
CREATE TRIGGER dataqueue_keep_row BEFORE INSERT OR UPDATE ON {schema}.job_queue
    FOR EACH ROW EXECUTE FUNCTION {schema}.dataqueue_keep_row();
DROP TRIGGER IF EXISTS dataqueue_tell_added ON {schema}.job_queue;
CREATE TRIGGER dataqueue_tell_added AFTER INSERT ON {schema}.job_queue
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.dataqueue_tell_added();
