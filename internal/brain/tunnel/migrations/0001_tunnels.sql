-- Times are microseconds since 1970, UTC.
-- +goose Up
CREATE TABLE tunnels (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    domain TEXT NOT NULL UNIQUE,
    display_name TEXT,
    created_at BIGINT NOT NULL,
    archived_at BIGINT
);
CREATE INDEX tunnels_of_workspace ON tunnels (workspace_id, id);
-- One row per workspace, locked while its tunnels are counted.
CREATE TABLE tunnel_workspaces (
    workspace_id TEXT PRIMARY KEY
);
-- Every token there was. One that is retired is no longer kept, only when and why.
CREATE TABLE tunnel_tokens (
    id TEXT PRIMARY KEY,
    tunnel_id TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    sealed TEXT,
    created_at BIGINT NOT NULL,
    retired_at BIGINT,
    reason TEXT
);
CREATE UNIQUE INDEX tunnel_tokens_current ON tunnel_tokens (tunnel_id) WHERE retired_at IS NULL;
CREATE TABLE tunnel_certificates (
    id TEXT PRIMARY KEY,
    tunnel_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    pem TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    archived_at BIGINT
);
CREATE INDEX tunnel_certificates_of_tunnel ON tunnel_certificates (tunnel_id, id);
-- +goose Down
DROP TABLE tunnels;
DROP TABLE tunnel_workspaces;
DROP TABLE tunnel_tokens;
DROP TABLE tunnel_certificates;
