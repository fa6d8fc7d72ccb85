-- Times are microseconds since 1970, UTC. Paths are kept as bytes, so that they
-- sort alike in every database and locale.
-- +goose Up
CREATE TABLE memory_stores (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    archived_at BIGINT,
    seq BIGINT NOT NULL,
    json TEXT NOT NULL
);
CREATE INDEX memory_stores_of_workspace ON memory_stores (workspace_id, id);
CREATE TABLE memories (
    id TEXT PRIMARY KEY,
    store_id TEXT NOT NULL,
    path BYTEA NOT NULL,
    sha256 TEXT NOT NULL,
    size BIGINT NOT NULL,
    version_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX memories_by_path ON memories (store_id, path);
CREATE TABLE memory_versions (
    id TEXT PRIMARY KEY,
    store_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    memory_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    path TEXT,
    content TEXT,
    sha256 TEXT,
    size BIGINT,
    created_at BIGINT NOT NULL,
    actor_type TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    redacted_at BIGINT,
    redactor_type TEXT NOT NULL,
    redactor_id TEXT NOT NULL
);
CREATE UNIQUE INDEX memory_versions_of_store ON memory_versions (store_id, seq);
CREATE INDEX memory_versions_of_memory ON memory_versions (memory_id, seq);
CREATE INDEX memory_versions_by_age ON memory_versions (created_at);
-- +goose Down
DROP TABLE memory_stores;
DROP TABLE memories;
DROP TABLE memory_versions;
