-- The primary thread is part of its session's row, so that a session without
-- other threads stays one row. Events are those of a log: the session's, which
-- is the primary thread's, or that of another thread, by its id.
-- +goose Up
ALTER TABLE events RENAME COLUMN session_id TO log_id;
ALTER TABLE tool_calls ADD COLUMN thread_id TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN thread_status TEXT NOT NULL DEFAULT 'idle';
ALTER TABLE sessions ADD COLUMN thread_blocking TEXT NOT NULL DEFAULT '[]';
ALTER TABLE sessions ADD COLUMN thread_running_since BIGINT;
ALTER TABLE sessions ADD COLUMN thread_active BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN halted BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN rested BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN children BIGINT NOT NULL DEFAULT 0;
UPDATE sessions SET thread_status = status, thread_blocking = blocking, thread_running_since = running_since, thread_active = active;
UPDATE sessions SET rested = 1 WHERE epoch > 0;
UPDATE sessions SET halted = 1 WHERE id IN (SELECT log_id FROM events WHERE processed_at IS NULL AND type = 'user.interrupt');
CREATE TABLE threads (
    id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    name TEXT NOT NULL,
    agent TEXT NOT NULL,
    status TEXT NOT NULL,
    blocking TEXT NOT NULL,
    halted BIGINT NOT NULL,
    rested BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT,
    seq BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    due_at BIGINT,
    run_until BIGINT,
    span_id TEXT NOT NULL,
    failures BIGINT NOT NULL,
    running_since BIGINT,
    active BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL
);
CREATE UNIQUE INDEX threads_in_order ON threads (session_id, number);
CREATE INDEX threads_due ON threads (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX threads_runs ON threads (run_until) WHERE run_until IS NOT NULL;
CREATE TABLE deliveries (
    log_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (log_id, seq)
);
-- +goose Down
DROP TABLE deliveries;
DROP TABLE threads;
ALTER TABLE sessions DROP COLUMN children;
ALTER TABLE sessions DROP COLUMN rested;
ALTER TABLE sessions DROP COLUMN halted;
ALTER TABLE sessions DROP COLUMN thread_active;
ALTER TABLE sessions DROP COLUMN thread_running_since;
ALTER TABLE sessions DROP COLUMN thread_blocking;
ALTER TABLE sessions DROP COLUMN thread_status;
ALTER TABLE tool_calls DROP COLUMN thread_id;
ALTER TABLE events RENAME COLUMN log_id TO session_id;
