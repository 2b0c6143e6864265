-- Schedules: the columns that the other library's table has not.
ALTER TABLE {schema}.cron_schedules
    ADD COLUMN IF NOT EXISTS group_id         VARCHAR(255),
    ADD COLUMN IF NOT EXISTS missed           TEXT NOT NULL DEFAULT 'run_once',  -- skip, run_once, catch_up
    ADD COLUMN IF NOT EXISTS catch_up_limit   INT,
    ADD COLUMN IF NOT EXISTS last_skipped_at  TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS last_skip_reason TEXT,
    ADD COLUMN IF NOT EXISTS problem          TEXT,         -- why it cannot fire
    ADD COLUMN IF NOT EXISTS declared_at      TIMESTAMPTZ;  -- when a worker that started has last declared it

CREATE INDEX IF NOT EXISTS dataqueue_next_fires ON {schema}.cron_schedules (next_run_at) WHERE status = 'active';
