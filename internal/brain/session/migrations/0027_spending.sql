-- cost is in billionths of a dollar. Once unpriced, what else was used is not
-- known in money. held: the budget has stopped a turn, which a higher one lets
-- go on.
-- +goose Up
ALTER TABLE sessions ADD COLUMN budget TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN cost BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN unpriced BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE sessions ADD COLUMN held BIGINT NOT NULL DEFAULT 0;
ALTER TABLE threads ADD COLUMN held BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN cache_write_1h_tokens BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN web_searches BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN web_fetches BIGINT NOT NULL DEFAULT 0;
UPDATE sessions SET unpriced = TRUE WHERE input_tokens + output_tokens > 0;
-- +goose Down
ALTER TABLE sessions DROP COLUMN budget;
ALTER TABLE sessions DROP COLUMN cost;
ALTER TABLE sessions DROP COLUMN unpriced;
ALTER TABLE sessions DROP COLUMN held;
ALTER TABLE threads DROP COLUMN held;
ALTER TABLE sessions DROP COLUMN cache_write_1h_tokens;
ALTER TABLE sessions DROP COLUMN web_searches;
ALTER TABLE sessions DROP COLUMN web_fetches;
