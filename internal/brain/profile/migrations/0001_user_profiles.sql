-- sort_name is the name as lists are sorted by it, as bytes, so that every
-- database sorts alike.
-- +goose Up
CREATE TABLE user_profiles (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    sort_name BYTEA,
    json TEXT NOT NULL
);
CREATE INDEX user_profiles_of_workspace ON user_profiles (workspace_id, id);
CREATE INDEX user_profiles_by_name ON user_profiles (workspace_id, sort_name, id);
-- +goose Down
DROP TABLE user_profiles;
