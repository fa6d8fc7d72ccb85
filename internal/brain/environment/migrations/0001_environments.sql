-- +goose Up
CREATE TABLE environments (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    archived_at BIGINT,
    json TEXT NOT NULL
);
CREATE UNIQUE INDEX environments_by_name ON environments (workspace_id, name);
CREATE INDEX environments_of_workspace ON environments (workspace_id, id);
CREATE TABLE environment_keys (
    id TEXT PRIMARY KEY,
    environment_id TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT
);
CREATE INDEX environment_keys_of_environment ON environment_keys (environment_id, id);
-- +goose Down
DROP TABLE environments;
DROP TABLE environment_keys;
