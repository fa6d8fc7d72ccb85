-- Times are microseconds since 1970, UTC.
-- +goose Up
CREATE TABLE dreams (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    status TEXT NOT NULL,
    updates_store TEXT,
    created_at BIGINT NOT NULL,
    archived_at BIGINT,
    json TEXT NOT NULL
);
CREATE INDEX dreams_of_workspace ON dreams (workspace_id, id);
CREATE INDEX dreams_updating ON dreams (updates_store) WHERE updates_store IS NOT NULL;
-- One row per memory store, locked while the dreams that write to it are looked for.
CREATE TABLE dream_stores (
    memory_store_id TEXT PRIMARY KEY
);
-- +goose Down
DROP TABLE dreams;
DROP TABLE dream_stores;
