-- +goose Up
CREATE TABLE vaults (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    archived_at BIGINT,
    json TEXT NOT NULL
);
CREATE INDEX vaults_of_workspace ON vaults (workspace_id, id);
CREATE TABLE vault_credentials (
    id TEXT PRIMARY KEY,
    vault_id TEXT NOT NULL,
    match_key TEXT,
    archived_at BIGINT,
    json TEXT NOT NULL,
    token TEXT NOT NULL,
    refresh_token TEXT NOT NULL,
    client_secret TEXT NOT NULL,
    claimed_until BIGINT NOT NULL,
    failed_at BIGINT NOT NULL,
    failure TEXT NOT NULL
);
CREATE UNIQUE INDEX vault_credentials_by_key ON vault_credentials (vault_id, match_key);
CREATE INDEX vault_credentials_of_vault ON vault_credentials (vault_id, id);
-- +goose Down
DROP TABLE vaults;
DROP TABLE vault_credentials;
