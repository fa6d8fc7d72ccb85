package auth

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"hearth/api"
	"hearth/internal/db"
	"hearth/internal/secret"
)

const (
	// maxKeyName is how many characters a key's name may have.
	maxKeyName = 256
	// minOperatorKey is how many characters a key has at the least that the
	// operator chose.
	minOperatorKey = 16
	// usedEvery is how often a key's last use is written down.
	usedEvery = time.Minute
)

const keyColumns = "id, workspace_id, name, role, hint, created_by_type, created_by_id, created_at, expires_at, revoked_at, last_used_at"

func (k *Keys) scanKey(row interface{ Scan(...any) error }) (api.APIKey, error) {
	key := api.APIKey{Type: "api_key", Status: api.KeyActive}
	var created int64
	var expires, revoked, used sql.NullInt64
	var hint, byType, byID sql.NullString
	err := row.Scan(&key.ID, &key.WorkspaceID, &key.Name, &key.Role, &hint, &byType, &byID, &created, &expires, &revoked, &used)
	key.CreatedAt = time.UnixMicro(created).UTC()
	key.ExpiresAt, key.RevokedAt, key.LastUsedAt = stamp(expires), stamp(revoked), stamp(used)
	if hint.Valid {
		key.PartialKeyHint = &hint.String
	}
	if byType.Valid {
		key.CreatedBy = &api.Actor{Type: byType.String, ID: byID.String}
	}
	switch {
	case revoked.Valid:
		key.Status = api.KeyRevoked
	case expires.Valid && expires.Int64 <= k.now().UnixMicro():
		key.Status = api.KeyExpired
	}
	return key, err
}

// EnsureAPIKey makes key, which the operator chose, a valid API key with the
// role admin in the default workspace.
func (k *Keys) EnsureAPIKey(ctx context.Context, name, key string) error {
	if len(key) < minOperatorKey {
		return fmt.Errorf("an API key must have at least %d characters", minOperatorKey)
	}
	var kept api.APIKey
	err := k.db.Write(ctx, func(tx db.Tx) (err error) {
		_, err = tx.Exec(ctx, "INSERT INTO api_keys (id, workspace_id, hash, name, role, created_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (hash) DO NOTHING",
			api.NewID(api.PrefixAPIKey), DefaultWorkspace, secret.Hash(key), name, RoleAdmin, k.now().UnixMicro())
		if err != nil {
			return err
		}
		kept, err = k.scanKey(tx.QueryRow(ctx, "SELECT "+keyColumns+" FROM api_keys WHERE hash = ?", secret.Hash(key)))
		if err != nil || kept.WorkspaceID != DefaultWorkspace || kept.Role != string(RoleAdmin) || kept.ExpiresAt != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE api_keys SET revoked_at = NULL WHERE id = ?", kept.ID)
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("register the API key: %w", err)
	case kept.WorkspaceID != DefaultWorkspace || kept.Role != string(RoleAdmin):
		return fmt.Errorf("%s has the role %s in workspace %s; the server needs an admin's key of the default workspace", kept.ID, kept.Role, kept.WorkspaceID)
	case kept.ExpiresAt != nil:
		return fmt.Errorf("%s expires at %s; the server needs a key that does not", kept.ID, kept.ExpiresAt)
	}
	return nil
}

// KeyParams are those of a new API key. A nil ExpiresAt means until it is
// revoked.
type KeyParams struct {
	Name, Role string
	ExpiresAt  *time.Time
}

// CreateKey makes an API key in the workspace that by acts in. The secret is in
// the answer and nowhere else: only its hash is kept.
func (k *Keys) CreateKey(ctx context.Context, by Principal, p KeyParams) (api.APIKey, error) {
	now := k.now().UTC().Truncate(time.Microsecond)
	if err := checkName(p.Name, maxKeyName); err != nil {
		return api.APIKey{}, err
	}
	if ranks[Role(p.Role)] == 0 {
		return api.APIKey{}, api.Invalid("role", "must be %s, %s or %s, not %.40q", RoleAdmin, RoleDeveloper, RoleViewer, p.Role)
	}
	var until sql.NullInt64
	if p.ExpiresAt != nil {
		if !p.ExpiresAt.After(now) {
			return api.APIKey{}, api.Invalid("expires_at", "must be in the future")
		}
		until = sql.NullInt64{Int64: p.ExpiresAt.UnixMicro(), Valid: true}
	}
	key := secret.New(secret.PrefixAPIKey)
	hint := key[:len(secret.PrefixAPIKey)+4] + "…" + key[len(key)-4:]
	made := api.APIKey{
		ID: api.NewID(api.PrefixAPIKey), Type: "api_key", Name: p.Name, Role: p.Role, WorkspaceID: by.WorkspaceID, Key: key, PartialKeyHint: &hint,
		Status: api.KeyActive, CreatedBy: &api.Actor{Type: string(by.Kind), ID: by.ID}, CreatedAt: now, ExpiresAt: stamp(until),
	}
	err := k.db.Write(ctx, func(tx db.Tx) error {
		w, err := getWorkspace(ctx, tx, by.WorkspaceID, tx.ForUpdate())
		if err != nil {
			return err
		}
		if w.ArchivedAt != nil {
			return api.BadRequest("workspace %s is archived", w.ID).WithCode("workspace_archived")
		}
		_, err = tx.Exec(ctx, `INSERT INTO api_keys (id, workspace_id, hash, name, role, hint, created_by_type, created_by_id, created_at, expires_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, made.ID, made.WorkspaceID, secret.Hash(key), made.Name, made.Role, hint, by.Kind, by.ID, now.UnixMicro(), until)
		return err
	})
	return made, err
}

// GetKey returns an API key of a workspace, without its secret.
func (k *Keys) GetKey(ctx context.Context, workspaceID, id string) (key api.APIKey, err error) {
	err = k.db.Read(ctx, func(tx db.Tx) error {
		key, err = k.scanKey(tx.QueryRow(ctx, "SELECT "+keyColumns+" FROM api_keys WHERE id = ? AND workspace_id = ?", id, workspaceID))
		return err
	})
	return key, absent(err, id)
}

func absent(err error, id string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return api.NotFound("API key", id)
	}
	if err != nil {
		return fmt.Errorf("API key %s: %w", id, err)
	}
	return nil
}

// ListKeys returns a page of a workspace's API keys, newest first, without their
// secrets, and whether more follow. After is the id of the last one of the page
// before, "" for the first.
func (k *Keys) ListKeys(ctx context.Context, workspaceID, after string, limit int) (list []api.APIKey, more bool, err error) {
	query, args := "SELECT "+keyColumns+" FROM api_keys WHERE workspace_id = ?", []any{workspaceID}
	if after != "" {
		query, args = query+" AND id < ?", append(args, after)
	}
	list, err = collect(ctx, k.db, k.scanKey, query+" ORDER BY id DESC LIMIT ?", append(args, limit+1)...)
	if err != nil {
		return nil, false, fmt.Errorf("list API keys: %w", err)
	}
	if len(list) > limit {
		return list[:limit], true, nil
	}
	return list, false, nil
}

// RevokeKey revokes an API key; the next request made with it is refused.
// Repeating it is harmless.
func (k *Keys) RevokeKey(ctx context.Context, workspaceID, id string) (key api.APIKey, err error) {
	err = k.db.Write(ctx, func(tx db.Tx) error {
		key, err = k.scanKey(tx.QueryRow(ctx, "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?) WHERE id = ? AND workspace_id = ? RETURNING "+keyColumns,
			k.now().UnixMicro(), id, workspaceID))
		return err
	})
	return key, absent(err, id)
}

// apiKey finds the holder of an API key.
func (k *Keys) apiKey(ctx context.Context, credential string) (Principal, error) {
	var p Principal
	var expires, revoked, used, archived sql.NullInt64
	err := k.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, `SELECT k.id, k.workspace_id, k.role, k.expires_at, k.revoked_at, k.last_used_at, w.archived_at
			FROM api_keys k JOIN workspaces w ON w.id = k.workspace_id WHERE k.hash = ?`, secret.Hash(credential)).
			Scan(&p.ID, &p.WorkspaceID, &p.Role, &expires, &revoked, &used, &archived)
	})
	p.Kind = KindAPIKey
	p.Operator = p.Role == RoleAdmin && p.WorkspaceID == DefaultWorkspace
	now := k.now().UnixMicro()
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Principal{}, api.Unauthenticated("the API key is not valid")
	case err != nil:
		return Principal{}, fmt.Errorf("authenticate: %w", err)
	case revoked.Valid:
		return p, api.Unauthenticated("the API key has been revoked")
	case expires.Valid && expires.Int64 <= now:
		return p, api.Unauthenticated("the API key has expired")
	case archived.Valid:
		return p, errArchived
	}
	if !used.Valid || now-used.Int64 > usedEvery.Microseconds() {
		k.noteUse(ctx, p.ID, now)
	}
	return p, nil
}

// noteUse writes down that a key was used. A database that cannot be written to
// is no reason to refuse who only reads.
func (k *Keys) noteUse(ctx context.Context, id string, now int64) {
	err := k.db.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE api_keys SET last_used_at = ? WHERE id = ?", now, id)
		return err
	})
	if err != nil && ctx.Err() == nil {
		k.log.Warn("could not note the use of an API key", "key", id, "error", err)
	}
}
