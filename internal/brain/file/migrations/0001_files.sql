-- Times are microseconds since 1970, UTC.
-- +goose Up
CREATE TABLE files (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    session_id TEXT,
    filename TEXT NOT NULL,
    mime_type TEXT NOT NULL,
    size BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);
CREATE INDEX files_of_workspace ON files (workspace_id, id);
CREATE INDEX files_of_session ON files (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX files_expiring ON files (expires_at) WHERE expires_at IS NOT NULL;
-- +goose Down
DROP TABLE files;
