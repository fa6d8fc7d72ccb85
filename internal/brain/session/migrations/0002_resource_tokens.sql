-- +goose Up
CREATE TABLE resource_tokens (
    session_id TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    sealed TEXT NOT NULL,
    PRIMARY KEY (session_id, resource_id)
);
-- +goose Down
DROP TABLE resource_tokens;
