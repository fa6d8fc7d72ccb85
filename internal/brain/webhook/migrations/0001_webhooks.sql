-- Times are microseconds since 1970, UTC.
-- +goose Up
CREATE TABLE webhook_endpoints (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    url TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    events TEXT NOT NULL,
    state TEXT NOT NULL,
    disabled_reason TEXT NOT NULL,
    secret TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX webhook_endpoints_of_workspace ON webhook_endpoints (workspace_id);
CREATE TABLE webhook_failures (
    endpoint_id TEXT PRIMARY KEY,
    since BIGINT NOT NULL,
    attempts BIGINT NOT NULL
);
CREATE TABLE webhook_events (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    type TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    json TEXT NOT NULL
);
CREATE INDEX webhook_events_in_order ON webhook_events (workspace_id, created_at);
CREATE TABLE webhook_deliveries (
    id TEXT PRIMARY KEY,
    endpoint_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    cause TEXT NOT NULL,
    status TEXT NOT NULL,
    attempts TEXT NOT NULL,
    due_at BIGINT,
    lease BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_of_endpoint ON webhook_deliveries (endpoint_id, id);
CREATE INDEX webhook_deliveries_of_event ON webhook_deliveries (event_id, endpoint_id);
-- +goose Down
DROP TABLE webhook_endpoints;
DROP TABLE webhook_failures;
DROP TABLE webhook_events;
DROP TABLE webhook_deliveries;
