-- Times are microseconds since 1970, UTC.
-- +goose Up
CREATE TABLE work (
    id TEXT PRIMARY KEY,
    environment_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    state TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    claim BIGINT NOT NULL,
    claimed_at BIGINT,
    acknowledged_at BIGINT,
    started_at BIGINT,
    last_heartbeat TEXT,
    previous_heartbeat TEXT,
    beat_at BIGINT,
    ttl BIGINT NOT NULL,
    expires_at BIGINT,
    stop_requested_at BIGINT,
    stopped_at BIGINT
);
CREATE INDEX work_on_offer ON work (environment_id, not_before, id) WHERE state = 'queued';
CREATE UNIQUE INDEX work_one_live_item ON work (session_id) WHERE state <> 'stopped';
CREATE INDEX work_leases ON work (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX work_of_environment ON work (environment_id, id);
CREATE TABLE work_offers (
    session_id TEXT PRIMARY KEY,
    fruitless BIGINT NOT NULL
);
CREATE TABLE work_pollers (
    environment_id TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (environment_id, worker_id)
);
-- +goose Down
DROP TABLE work;
DROP TABLE work_offers;
DROP TABLE work_pollers;
