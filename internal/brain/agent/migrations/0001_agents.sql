-- +goose Up
CREATE TABLE agents (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    archived_at BIGINT,
    json TEXT NOT NULL
);
CREATE INDEX agents_of_workspace ON agents (workspace_id, id);
CREATE TABLE agent_versions (
    agent_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (agent_id, version)
);
-- +goose Down
DROP TABLE agents;
DROP TABLE agent_versions;
