-- +goose Up
CREATE TABLE signing_keys (
    name TEXT PRIMARY KEY,
    key TEXT NOT NULL
);
-- +goose Down
DROP TABLE signing_keys;
