-- +goose Up
ALTER TABLE sessions ADD COLUMN deployment_id TEXT;
CREATE INDEX sessions_of_deployment ON sessions (deployment_id, created_at, id) WHERE deployment_id IS NOT NULL;
-- +goose Down
DROP INDEX sessions_of_deployment;
ALTER TABLE sessions DROP COLUMN deployment_id;
