-- Times are microseconds since 1970, UTC.
-- +goose Up
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    environment_id TEXT NOT NULL,
    environment_type TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    agent_version BIGINT NOT NULL,
    thread_id TEXT NOT NULL,
    status TEXT NOT NULL,
    blocking TEXT NOT NULL,
    title TEXT,
    agent TEXT NOT NULL,
    metadata TEXT NOT NULL,
    vault_ids TEXT NOT NULL,
    resources TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    archived_at BIGINT,
    deleted_at BIGINT,
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
CREATE INDEX sessions_in_order ON sessions (workspace_id, created_at, id);
CREATE INDEX sessions_due ON sessions (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX sessions_runs ON sessions (run_until) WHERE run_until IS NOT NULL;
CREATE INDEX sessions_deleted ON sessions (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE TABLE events (
    session_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    processed_at BIGINT,
    json TEXT NOT NULL,
    private TEXT,
    PRIMARY KEY (session_id, seq)
);
CREATE UNIQUE INDEX events_by_id ON events (session_id, id);
CREATE INDEX events_inbox ON events (session_id) WHERE processed_at IS NULL;
CREATE TABLE tool_calls (
    id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    permission TEXT NOT NULL,
    state TEXT NOT NULL,
    answer TEXT NOT NULL,
    result_id TEXT NOT NULL,
    confirmation_id TEXT NOT NULL
);
CREATE INDEX tool_calls_open ON tool_calls (session_id) WHERE state = 'open';
CREATE INDEX tool_calls_of_session ON tool_calls (session_id);
-- +goose Down
DROP TABLE sessions;
DROP TABLE events;
DROP TABLE tool_calls;
