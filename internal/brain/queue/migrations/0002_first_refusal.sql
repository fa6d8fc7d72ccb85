-- +goose Up
ALTER TABLE work ADD COLUMN worker_id TEXT NOT NULL DEFAULT '';
ALTER TABLE work ADD COLUMN kept_for TEXT NOT NULL DEFAULT '';
ALTER TABLE work ADD COLUMN kept_until BIGINT NOT NULL DEFAULT 0;
CREATE INDEX work_of_session ON work (session_id, id);
-- +goose Down
DROP INDEX work_of_session;
ALTER TABLE work DROP COLUMN worker_id;
ALTER TABLE work DROP COLUMN kept_for;
ALTER TABLE work DROP COLUMN kept_until;
