-- +goose Up
CREATE TABLE data_keys (
    id TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    wrapped TEXT NOT NULL
);
-- +goose Down
DROP TABLE data_keys;
