-- +goose Up
CREATE TABLE session_memory_stores (
    memory_store_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    PRIMARY KEY (memory_store_id, session_id)
);
CREATE INDEX session_memory_stores_of_session ON session_memory_stores (session_id);
-- +goose Down
DROP TABLE session_memory_stores;
