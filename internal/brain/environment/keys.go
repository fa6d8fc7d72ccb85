package environment

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"hearth/api"
	"hearth/internal/db"
	"hearth/internal/secret"
)

const keyColumns = "id, environment_id, name, created_at, expires_at, revoked_at, last_used_at"

func scanKey(row interface{ Scan(...any) error }) (api.EnvironmentKey, error) {
	k := api.EnvironmentKey{Type: "environment_key"}
	var created int64
	var expires, revoked, used sql.NullInt64
	err := row.Scan(&k.ID, &k.EnvironmentID, &k.Name, &created, &expires, &revoked, &used)
	k.CreatedAt = time.UnixMicro(created).UTC()
	k.ExpiresAt, k.RevokedAt, k.LastUsedAt = stamp(expires), stamp(revoked), stamp(used)
	return k, err
}

func stamp(micros sql.NullInt64) *time.Time {
	if !micros.Valid {
		return nil
	}
	at := time.UnixMicro(micros.Int64).UTC()
	return &at
}

// CreateKey makes a key for an environment. The secret is in the answer and
// nowhere else: only its hash is kept. A nil expiry means until it is revoked.
func (s *Store) CreateKey(ctx context.Context, workspaceID, environmentID, name string, expires *time.Time) (api.EnvironmentKey, error) {
	now := s.now().UTC().Truncate(time.Microsecond)
	if n := utf8.RuneCountInString(name); n == 0 || n > maxName {
		return api.EnvironmentKey{}, api.Invalid("name", "must have 1 to %d characters", maxName)
	}
	var until sql.NullInt64
	if expires != nil {
		if !expires.After(now) {
			return api.EnvironmentKey{}, api.Invalid("expires_at", "must be in the future")
		}
		until = sql.NullInt64{Int64: expires.UnixMicro(), Valid: true}
	}
	k := api.EnvironmentKey{
		ID: api.NewID(api.PrefixEnvKey), Type: "environment_key", EnvironmentID: environmentID, Name: name,
		Key: secret.New(secret.PrefixEnvironmentKey), CreatedAt: now, ExpiresAt: stamp(until),
	}
	err := s.db.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, environmentID, ""); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO environment_keys (id, environment_id, hash, name, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
			k.ID, environmentID, secret.Hash(k.Key), name, now.UnixMicro(), until)
		return err
	})
	return k, err
}

// ListKeys returns a page of an environment's keys, newest first, without
// their secrets, and whether more follow.
func (s *Store) ListKeys(ctx context.Context, workspaceID, environmentID, after string, limit int) (keys []api.EnvironmentKey, more bool, err error) {
	query, args := "SELECT "+keyColumns+" FROM environment_keys WHERE environment_id = ?", []any{environmentID}
	if after != "" {
		query, args = query+" AND id < ?", append(args, after)
	}
	err = s.db.Read(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, environmentID, ""); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, query+" ORDER BY id DESC LIMIT ?", append(args, limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			k, err := scanKey(rows)
			if err != nil {
				return err
			}
			keys = append(keys, k)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, false, err
	}
	if len(keys) > limit {
		return keys[:limit], true, nil
	}
	return keys, false, nil
}

// RevokeKey revokes a key; the next request made with it is refused. Repeating
// it is harmless.
func (s *Store) RevokeKey(ctx context.Context, workspaceID, environmentID, keyID string) (k api.EnvironmentKey, err error) {
	err = s.db.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, environmentID, ""); err != nil {
			return err
		}
		k, err = scanKey(tx.QueryRow(ctx, "UPDATE environment_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ? AND environment_id = ? RETURNING "+keyColumns,
			s.now().UnixMicro(), keyID, environmentID))
		if errors.Is(err, sql.ErrNoRows) {
			return api.NotFound("environment key", keyID)
		}
		return err
	})
	return k, err
}

// usedEvery is how often a key's last use is written down.
const usedEvery = time.Minute

// Authenticate returns the environment a key serves, and its workspace, beside
// the refusal of a key that was known, too. Nothing is cached, so that a
// revocation takes effect at once.
func (s *Store) Authenticate(ctx context.Context, key string) (environmentID, workspaceID, keyID string, err error) {
	var expires, revoked, used sql.NullInt64
	err = s.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, `SELECT k.id, k.environment_id, e.workspace_id, k.expires_at, k.revoked_at, k.last_used_at
			FROM environment_keys k JOIN environments e ON e.id = k.environment_id WHERE k.hash = ?`, secret.Hash(key)).
			Scan(&keyID, &environmentID, &workspaceID, &expires, &revoked, &used)
	})
	now := s.now().UnixMicro()
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", "", "", api.Unauthenticated("the environment key is not known")
	case err != nil:
		return "", "", "", fmt.Errorf("authenticate: %w", err)
	case revoked.Valid:
		return environmentID, workspaceID, keyID, api.Unauthenticated("the environment key has been revoked")
	case expires.Valid && expires.Int64 <= now:
		return environmentID, workspaceID, keyID, api.Unauthenticated("the environment key has expired")
	}
	if !used.Valid || now-used.Int64 > usedEvery.Microseconds() {
		err = s.db.Write(ctx, func(tx db.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE environment_keys SET last_used_at = ? WHERE id = ?", now, keyID)
			return err
		})
	}
	return environmentID, workspaceID, keyID, err
}
