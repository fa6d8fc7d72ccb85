-- Times are microseconds since 1970, UTC.
-- +goose Up
CREATE TABLE deployments (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    archived_at BIGINT,
    tick_at BIGINT,
    due_at BIGINT,
    json TEXT NOT NULL,
    tokens TEXT NOT NULL
);
CREATE INDEX deployments_of_workspace ON deployments (workspace_id, id);
CREATE INDEX deployments_of_agent ON deployments (agent_id);
CREATE INDEX deployments_due ON deployments (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE deployment_runs (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    agent TEXT NOT NULL,
    cause TEXT NOT NULL,
    scheduled_at BIGINT,
    session_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    lease BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    error TEXT
);
CREATE UNIQUE INDEX deployment_runs_ticks ON deployment_runs (deployment_id, scheduled_at);
CREATE INDEX deployment_runs_of_workspace ON deployment_runs (workspace_id, id);
CREATE INDEX deployment_runs_open ON deployment_runs (lease) WHERE finished_at IS NULL;
-- +goose Down
DROP TABLE deployments;
DROP TABLE deployment_runs;
