// Package tunnel keeps tunnels, the tokens their connectors are let in by, and
// the certificates their far ends are trusted by. What goes through a tunnel is
// not its business. It owns the tables tunnels, tunnel_workspaces, tunnel_tokens
// and tunnel_certificates and may call db, seal and secret.
package tunnel

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode/utf8"

	"hearth/api"
	"hearth/internal/db"
	"hearth/internal/secret"
)

// The limits of tunnels.
const (
	MaxActive   = 10 // tunnels of a workspace that are not archived
	maxName     = 255
	maxReason   = 1024
	maxBaseName = 200 // bytes of the base domain, so that names below it can be names
)

// DefaultDomain is what tunnels are named below unless the operator says
// otherwise. It is reserved for private use and resolves nowhere.
const DefaultDomain = "tunnel.internal"

// Sealer encrypts tokens, each for its id.
type Sealer interface {
	Seal(place, text string) string
	Open(ctx context.Context, place, sealed string) (string, error)
}

// Config is what a store needs.
type Config struct {
	DB     *db.DB
	Sealer Sealer
	// Domain is what tunnels are named below. Default DefaultDomain.
	Domain string
}

// Store is every tunnel.
type Store struct {
	Config
	now func() time.Time
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the store and migrates its tables.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Domain == "" {
		cfg.Domain = DefaultDomain
	}
	if err := CheckDomain(cfg.Domain); err != nil {
		return nil, err
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := cfg.DB.Migrate(ctx, "tunnel", dir); err != nil {
		return nil, err
	}
	return &Store{cfg, time.Now}, nil
}

// CheckDomain checks what tunnels are to be named below: a host name in lower
// case.
func CheckDomain(domain string) error {
	bad := len(domain) > maxBaseName
	for label := range strings.SplitSeq(domain, ".") {
		bad = bad || label == "" || len(label) > 63 || strings.Trim(label, "-") != label ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != ""
	}
	if bad {
		return fmt.Errorf("tunnels cannot be named below %.250q: it must be a host name in lower case, such as %s", domain, DefaultDomain)
	}
	return nil
}

const columns = "id, domain, display_name, created_at, archived_at"

func scan(row interface{ Scan(...any) error }) (api.Tunnel, error) {
	t := api.Tunnel{Type: "tunnel"}
	var created int64
	var archived sql.NullInt64
	err := row.Scan(&t.ID, &t.Domain, &t.DisplayName, &created, &archived)
	t.CreatedAt, t.ArchivedAt = *stamp(sql.NullInt64{Int64: created, Valid: true}), stamp(archived)
	return t, err
}

func stamp(micros sql.NullInt64) *time.Time {
	if !micros.Valid {
		return nil
	}
	at := time.UnixMicro(micros.Int64).UTC()
	return &at
}

// Create makes a tunnel with a name that no other has had or will have, and its
// first token.
func (s *Store) Create(ctx context.Context, workspaceID string, displayName *string) (api.Tunnel, error) {
	if displayName != nil {
		if n := utf8.RuneCountInString(*displayName); n == 0 || n > maxName {
			return api.Tunnel{}, api.Invalid("display_name", "must have 1 to %d characters", maxName)
		}
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	t := api.Tunnel{
		ID: api.NewID(api.PrefixTunnel), Type: "tunnel", DisplayName: displayName,
		Domain: strings.ToLower(rand.Text()) + "." + s.Domain, CreatedAt: now,
	}
	err := s.DB.Write(ctx, func(tx db.Tx) error {
		if err := hasRoom(ctx, tx, workspaceID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO tunnels (id, workspace_id, domain, display_name, created_at) VALUES (?, ?, ?, ?, ?)",
			t.ID, workspaceID, t.Domain, t.DisplayName, now.UnixMicro())
		if err != nil {
			return err
		}
		_, err = s.newToken(ctx, tx, t.ID)
		return err
	})
	return t, err
}

// hasRoom fails when a workspace has as many tunnels as it may. Until the
// transaction ends, nobody else counts them.
func hasRoom(ctx context.Context, tx db.Tx, workspaceID string) error {
	if _, err := tx.Exec(ctx, "INSERT INTO tunnel_workspaces (workspace_id) VALUES (?) ON CONFLICT (workspace_id) DO NOTHING", workspaceID); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, "SELECT workspace_id FROM tunnel_workspaces WHERE workspace_id = ?"+tx.ForUpdate(), workspaceID).Scan(&workspaceID); err != nil {
		return err
	}
	var active int
	if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM tunnels WHERE workspace_id = ? AND archived_at IS NULL", workspaceID).Scan(&active); err != nil {
		return err
	}
	if active >= MaxActive {
		return api.BadRequest("the workspace has %d tunnels, which is as many as it may have; archive one first", active)
	}
	return nil
}

// Get returns a tunnel.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (t api.Tunnel, err error) {
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		t, err = get(ctx, tx, workspaceID, id, "")
		return err
	})
	return t, err
}

func get(ctx context.Context, tx db.Tx, workspaceID, id, lock string) (api.Tunnel, error) {
	t, err := scan(tx.QueryRow(ctx, "SELECT "+columns+" FROM tunnels WHERE id = ? AND workspace_id = ?"+lock, id, workspaceID))
	if errors.Is(err, sql.ErrNoRows) {
		return t, api.NotFound("tunnel", id)
	}
	return t, err
}

// active is get for what an archived tunnel does not have any more.
func active(ctx context.Context, tx db.Tx, workspaceID, id, lock string) (api.Tunnel, error) {
	t, err := get(ctx, tx, workspaceID, id, lock)
	if err == nil && t.ArchivedAt != nil {
		err = api.BadRequest("tunnel %s is archived, for good; create another one", id)
	}
	return t, err
}

// List returns a page of tunnels, newest first, and whether more follow. After
// is the id of the last one of the page before, "" for the first.
func (s *Store) List(ctx context.Context, workspaceID, after string, limit int, archived bool) ([]api.Tunnel, bool, error) {
	return list(ctx, s.DB, "SELECT "+columns+" FROM tunnels WHERE workspace_id = ?", []any{workspaceID}, after, limit, archived, scan)
}

type scanner[T any] func(row interface{ Scan(...any) error }) (T, error)

func list[T any](ctx context.Context, d *db.DB, query string, args []any, after string, limit int, archived bool, scan scanner[T]) (all []T, more bool, err error) {
	if after != "" {
		query, args = query+" AND id < ?", append(args, after)
	}
	if !archived {
		query += " AND archived_at IS NULL"
	}
	err = d.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, query+" ORDER BY id DESC LIMIT ?", append(args, limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			one, err := scan(rows)
			if err != nil {
				return err
			}
			all = append(all, one)
		}
		return rows.Err()
	})
	if len(all) > limit {
		return all[:limit], true, err
	}
	return all, false, err
}

// Archive ends a tunnel for good, its token and its certificates with it.
// Repeating it is harmless.
func (s *Store) Archive(ctx context.Context, workspaceID, id string) (t api.Tunnel, err error) {
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		if t, err = get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil || t.ArchivedAt != nil {
			return err
		}
		now := s.now().UTC().Truncate(time.Microsecond)
		t.ArchivedAt = &now
		if err := retire(ctx, tx, id, now, "the tunnel was archived"); err != nil {
			return err
		}
		for _, query := range []string{
			"UPDATE tunnels SET archived_at = ? WHERE id = ?",
			"UPDATE tunnel_certificates SET archived_at = ? WHERE tunnel_id = ? AND archived_at IS NULL",
		} {
			if _, err := tx.Exec(ctx, query, now.UnixMicro(), id); err != nil {
				return err
			}
		}
		return nil
	})
	return t, err
}

// newToken makes a tunnel's token; another one it had must be retired before.
func (s *Store) newToken(ctx context.Context, tx db.Tx, tunnelID string) (api.TunnelToken, error) {
	t := api.TunnelToken{ID: api.NewID(api.PrefixTunnelToken), Type: "tunnel_token", TunnelToken: secret.New(secret.PrefixTunnelToken)}
	_, err := tx.Exec(ctx, "INSERT INTO tunnel_tokens (id, tunnel_id, hash, sealed, created_at) VALUES (?, ?, ?, ?, ?)",
		t.ID, tunnelID, secret.Hash(t.TunnelToken), s.Sealer.Seal(t.ID, t.TunnelToken), s.now().UnixMicro())
	return t, err
}

func retire(ctx context.Context, tx db.Tx, tunnelID string, at time.Time, reason string) error {
	_, err := tx.Exec(ctx, "UPDATE tunnel_tokens SET retired_at = ?, reason = ?, sealed = NULL WHERE tunnel_id = ? AND retired_at IS NULL", at.UnixMicro(), reason, tunnelID)
	return err
}

// Token reveals a tunnel's token.
func (s *Store) Token(ctx context.Context, workspaceID, id string) (api.TunnelToken, error) {
	t := api.TunnelToken{Type: "tunnel_token"}
	var sealed string
	err := s.DB.Read(ctx, func(tx db.Tx) error {
		if _, err := active(ctx, tx, workspaceID, id, ""); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT id, sealed FROM tunnel_tokens WHERE tunnel_id = ? AND retired_at IS NULL", id).Scan(&t.ID, &sealed)
	})
	if err != nil {
		return api.TunnelToken{}, err
	}
	t.TunnelToken, err = s.Sealer.Open(ctx, t.ID, sealed)
	return t, err
}

// Rotate retires a tunnel's token, for a reason that is kept, and returns its
// next one.
func (s *Store) Rotate(ctx context.Context, workspaceID, id string, reason *string) (t api.TunnelToken, err error) {
	why := ""
	if reason != nil {
		why = *reason
	}
	if n := utf8.RuneCountInString(why); n > maxReason {
		return t, api.Invalid("reason", "has %d characters, at most %d are allowed", n, maxReason)
	}
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		if _, err := active(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		if err := retire(ctx, tx, id, s.now(), why); err != nil {
			return err
		}
		t, err = s.newToken(ctx, tx, id)
		return err
	})
	return t, err
}
