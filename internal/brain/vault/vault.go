// Package vault keeps vaults and their credentials: what agents authenticate with
// at MCP servers and elsewhere. Secrets go in, are sealed for their place, and come
// out only for who makes a request with them; OAuth tokens are refreshed on the
// way. It owns the tables vaults and vault_credentials and may call db, seal,
// outbound and outbox.
package vault

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"hearth/api"
	"hearth/internal/brain/outbox"
	"hearth/internal/brain/seal"
	"hearth/internal/db"
)

// Config of a Store.
type Config struct {
	DB     *db.DB
	Sealer *seal.Sealer
	// Client calls token endpoints and MCP servers, whose addresses are users' to
	// choose: make it with package outbound.
	Client *http.Client
	Log    *slog.Logger // default slog.Default()
}

// Store is every vault.
type Store struct {
	Config
	now func() time.Time
	outbox.Sender
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the store and migrates its tables.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := cfg.DB.Migrate(ctx, "vault", dir); err != nil {
		return nil, err
	}
	return &Store{Config: cfg, now: time.Now}, nil
}

func (s *Store) moment() time.Time { return s.now().UTC().Truncate(time.Microsecond) }

// Params are the fields of a request to create or update a vault.
type Params struct {
	DisplayName api.Optional[string]             `json:"display_name"`
	Metadata    api.Optional[map[string]*string] `json:"metadata"`
}

const maxDisplayName = 255

func (p Params) apply(v *api.Vault) error {
	if p.DisplayName.Given() {
		if err := within(maxDisplayName)("display_name", p.DisplayName.Value); err != nil {
			return err
		}
		v.DisplayName = p.DisplayName.Value
	}
	return api.MergeMetadata(v.Metadata, p.Metadata.Value)
}

// Create makes a vault.
func (s *Store) Create(ctx context.Context, workspaceID string, p Params) (api.Vault, error) {
	now := s.moment()
	v := api.Vault{ID: api.NewID(api.PrefixVault), Type: "vault", Metadata: map[string]string{}, CreatedAt: now, UpdatedAt: now}
	if !p.DisplayName.Given() {
		return v, api.Invalid("display_name", "is required")
	}
	if err := p.apply(&v); err != nil {
		return v, err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return v, err
	}
	return v, s.DB.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO vaults (id, workspace_id, json) VALUES (?, ?, ?)", v.ID, workspaceID, string(raw))
		if err != nil {
			return err
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened("vault.created", v.ID))
	})
}

// Get returns a vault.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (v api.Vault, err error) {
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		v, err = get(ctx, tx, workspaceID, id, "")
		return err
	})
	return v, err
}

func get(ctx context.Context, tx db.Tx, workspaceID, id, lock string) (v api.Vault, err error) {
	var raw string
	err = tx.QueryRow(ctx, "SELECT json FROM vaults WHERE id = ? AND workspace_id = ?"+lock, id, workspaceID).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return v, api.NotFound("vault", id)
	}
	if err != nil {
		return v, fmt.Errorf("read vault %s: %w", id, err)
	}
	return v, json.Unmarshal([]byte(raw), &v)
}

// List returns a page of vaults, newest first, and whether more follow. After is
// the id of the last one of the page before, "" for the first.
func (s *Store) List(ctx context.Context, workspaceID, after string, limit int, archived bool) ([]api.Vault, bool, error) {
	return list[api.Vault](ctx, s.DB, "SELECT json FROM vaults WHERE workspace_id = ?", workspaceID, after, limit, archived)
}

func list[T any](ctx context.Context, d *db.DB, query, of, after string, limit int, archived bool) (all []T, more bool, err error) {
	args := []any{of}
	if after != "" {
		query, args = query+" AND id < ?", append(args, after)
	}
	if !archived {
		query += " AND archived_at IS NULL"
	}
	err = d.Read(ctx, func(tx db.Tx) error {
		all, err = db.Objects[T](tx.Query(ctx, query+" ORDER BY id DESC LIMIT ?", append(args, limit+1)...))
		return err
	})
	if len(all) > limit {
		return all[:limit], true, err
	}
	return all, false, err
}

// Update changes a vault. Absent fields stay.
func (s *Store) Update(ctx context.Context, workspaceID, id string, p Params) (api.Vault, error) {
	return s.change(ctx, workspaceID, id, func(_ db.Tx, v *api.Vault) error {
		if v.ArchivedAt != nil {
			return api.BadRequest("vault %s is archived and cannot be changed", id)
		}
		return p.apply(v)
	})
}

// Archive closes a vault, for good: its credentials are archived too, and their
// secrets are gone. Repeating it is harmless.
func (s *Store) Archive(ctx context.Context, workspaceID, id string) (api.Vault, error) {
	return s.change(ctx, workspaceID, id, func(tx db.Tx, v *api.Vault) error {
		if v.ArchivedAt != nil {
			return nil
		}
		now := s.moment()
		v.ArchivedAt = &now
		active, err := db.Strings(tx.Query(ctx, "SELECT id FROM vault_credentials WHERE vault_id = ? AND archived_at IS NULL ORDER BY id", id))
		if err != nil {
			return err
		}
		for _, one := range active {
			if _, err := s.changeCredential(ctx, tx, id, one, s.archive); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) change(ctx context.Context, workspaceID, id string, fn func(db.Tx, *api.Vault) error) (v api.Vault, err error) {
	err = s.DB.Write(ctx, func(tx db.Tx) (err error) {
		if v, err = get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		open := v.ArchivedAt == nil
		raw, err := changed(&v, &v.UpdatedAt, s.moment(), func() error { return fn(tx, &v) })
		if err != nil || raw == "" {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE vaults SET archived_at = ?, json = ? WHERE id = ?", micros(v.ArchivedAt), raw, id)
		if err != nil || !open || v.ArchivedAt == nil {
			return err
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened("vault.archived", id))
	})
	return v, err
}

// changed runs a change of an object and returns it as JSON, with the time of the
// update set; "" when the change has changed nothing.
func changed(object any, updated *time.Time, now time.Time, change func() error) (string, error) {
	before, err := json.Marshal(object)
	if err != nil {
		return "", err
	}
	if err := change(); err != nil {
		return "", err
	}
	after, err := json.Marshal(object)
	if err != nil || bytes.Equal(before, after) {
		return "", err
	}
	*updated = now
	raw, err := json.Marshal(object)
	return string(raw), err
}

func micros(t *time.Time) sql.NullInt64 {
	if t == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: t.UnixMicro(), Valid: true}
}

// Delete removes a vault and all its credentials. Sessions that name it find
// nothing there any more.
func (s *Store) Delete(ctx context.Context, workspaceID, id string) error {
	return s.DB.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		credentials, err := db.Strings(tx.Query(ctx, "SELECT id FROM vault_credentials WHERE vault_id = ? ORDER BY id", id))
		if err != nil {
			return err
		}
		for _, one := range credentials {
			if err := s.tell(ctx, tx, "vault_credential.deleted", id, one); err != nil {
				return err
			}
		}
		for _, query := range []string{"DELETE FROM vault_credentials WHERE vault_id = ?", "DELETE FROM vaults WHERE id = ?"} {
			if _, err := tx.Exec(ctx, query, id); err != nil {
				return fmt.Errorf("delete vault %s: %w", id, err)
			}
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened("vault.deleted", id))
	})
}

// tell tells what happened to a credential.
func (s *Store) tell(ctx context.Context, tx db.Tx, happened, vaultID, credentialID string) error {
	var workspaceID string
	if err := tx.QueryRow(ctx, "SELECT workspace_id FROM vaults WHERE id = ?", vaultID).Scan(&workspaceID); err != nil {
		return fmt.Errorf("find the workspace of vault %s: %w", vaultID, err)
	}
	event := api.Happened(happened, credentialID)
	event.VaultID = vaultID
	return s.Announce(ctx, tx, workspaceID, event)
}

// MaxPerSession is how many vaults a session may name.
const MaxPerSession = 50

// Check checks the vaults that a session is to use: that they are there, open, and
// named once.
func (s *Store) Check(ctx context.Context, workspaceID string, ids []string) error {
	if len(ids) > MaxPerSession {
		return api.Invalid("vault_ids", "names %d vaults, at most %d are allowed", len(ids), MaxPerSession)
	}
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			return api.Invalid("vault_ids", "%.80q is given twice", id)
		}
		v, err := s.Get(ctx, workspaceID, id)
		if err != nil {
			return err
		}
		if v.ArchivedAt != nil {
			return api.Invalid("vault_ids", "vault %s is archived", id).WithCode("vault_archived")
		}
	}
	return nil
}
