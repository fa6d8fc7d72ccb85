-- A thread's usage has all that its session's has.
-- +goose Up
ALTER TABLE threads ADD COLUMN cache_write_1h_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE threads ADD COLUMN web_searches BIGINT NOT NULL DEFAULT 0;
ALTER TABLE threads ADD COLUMN web_fetches BIGINT NOT NULL DEFAULT 0;
ALTER TABLE threads ADD COLUMN cost BIGINT NOT NULL DEFAULT 0;
ALTER TABLE threads ADD COLUMN unpriced BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE threads SET unpriced = TRUE WHERE input_tokens + output_tokens > 0;
-- +goose Down
ALTER TABLE threads DROP COLUMN cache_write_1h_tokens;
ALTER TABLE threads DROP COLUMN web_searches;
ALTER TABLE threads DROP COLUMN web_fetches;
ALTER TABLE threads DROP COLUMN cost;
ALTER TABLE threads DROP COLUMN unpriced;
