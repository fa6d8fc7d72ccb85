package vault

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"hearth/api"
	"hearth/internal/db"
)

// MaxCredentials is how many credentials of a vault may be open at once.
const MaxCredentials = 20

// CredentialParams are the fields of a request to create or update a credential.
type CredentialParams struct {
	DisplayName api.Optional[string]             `json:"display_name"`
	Metadata    api.Optional[map[string]*string] `json:"metadata"`
	Auth        api.Optional[AuthParams]         `json:"auth"`
}

// credential is a row.
type credential struct {
	api.Credential
	kept         sealed
	claimedUntil int64 // until when somebody may be refreshing it, in microseconds
	failedAt     int64 // when a refresh failed last, in microseconds; 0 when none has since one succeeded
	failure      string
}

// sealed are a credential's secrets as they are kept; "" for those it has not.
type sealed struct{ token, refreshToken, clientSecret string }

// columns are those of the table that a credential is read from.
const columns = "c.json, c.token, c.refresh_token, c.client_secret, c.claimed_until, c.failed_at, c.failure"

func (c *credential) scan(row interface{ Scan(...any) error }) error {
	var raw string
	if err := row.Scan(&raw, &c.kept.token, &c.kept.refreshToken, &c.kept.clientSecret, &c.claimedUntil, &c.failedAt, &c.failure); err != nil {
		return err
	}
	return json.Unmarshal([]byte(raw), &c.Credential)
}

// place is where a secret belongs. Sealed for it, it opens nowhere else.
func place(c api.Credential, what string) string { return c.VaultID + "/" + c.ID + "/" + what }

// The secrets of a credential, by which their places are told apart.
const (
	placeToken        = "token"
	placeRefreshToken = "refresh_token"
	placeClientSecret = "client_secret"
)

// keep seals new secrets. Those that are "" stay as they are.
func (s *Store) keep(c *credential, fresh secrets) {
	for _, one := range []struct {
		text, what string
		to         *string
	}{{fresh.token, placeToken, &c.kept.token}, {fresh.refreshToken, placeRefreshToken, &c.kept.refreshToken}, {fresh.clientSecret, placeClientSecret, &c.kept.clientSecret}} {
		if one.text != "" {
			*one.to = s.Sealer.Seal(place(c.Credential, one.what), one.text)
		}
	}
}

// open opens a credential's secrets.
func (s *Store) open(ctx context.Context, c credential) (all secrets, err error) {
	for _, one := range []struct {
		sealed, what string
		to           *string
	}{{c.kept.token, placeToken, &all.token}, {c.kept.refreshToken, placeRefreshToken, &all.refreshToken}, {c.kept.clientSecret, placeClientSecret, &all.clientSecret}} {
		if one.sealed == "" {
			continue
		}
		if *one.to, err = s.Sealer.Open(ctx, place(c.Credential, one.what), one.sealed); err != nil {
			return secrets{}, fmt.Errorf("credential %s: %w", c.ID, err)
		}
	}
	return all, nil
}

// matchKey is what a vault has only one open credential for: an MCP server, or a
// variable. It is a digest, since URLs are longer than an index takes.
func matchKey(a api.CredentialAuth) string {
	if a.Type == api.CredentialEnvironmentVariable {
		return digest("variable", a.SecretName)
	}
	return digest("mcp", Normalize(a.MCPServerURL))
}

func digest(kind, name string) string {
	sum := sha256.Sum256([]byte(kind + " " + name))
	return hex.EncodeToString(sum[:])
}

// CreateCredential adds a credential to a vault.
func (s *Store) CreateCredential(ctx context.Context, workspaceID, vaultID string, p CredentialParams) (api.Credential, error) {
	now := s.moment()
	c := credential{Credential: api.Credential{
		ID: api.NewID(api.PrefixCredential), Type: "vault_credential", VaultID: vaultID, Metadata: map[string]string{}, CreatedAt: now, UpdatedAt: now,
	}}
	if !p.Auth.Given() {
		return c.Credential, api.Invalid("auth", "is required")
	}
	if p.DisplayName.Value == "" {
		p.DisplayName = api.Optional[string]{} // as good as none at first
	}
	if err := p.describe(&c.Credential); err != nil {
		return c.Credential, err
	}
	auth, fresh, err := p.Auth.Value.create(now)
	if err != nil {
		return c.Credential, err
	}
	c.Auth = auth
	s.keep(&c, fresh)
	raw, err := json.Marshal(c.Credential)
	if err != nil {
		return c.Credential, err
	}
	return c.Credential, s.DB.Write(ctx, func(tx db.Tx) error {
		if err := s.fits(ctx, tx, workspaceID, c.Credential); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO vault_credentials (id, vault_id, match_key, json, token, refresh_token, client_secret, claimed_until, failed_at, failure) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, '')",
			c.ID, c.VaultID, matchKey(c.Auth), string(raw), c.kept.token, c.kept.refreshToken, c.kept.clientSecret)
		if err != nil {
			return err
		}
		return s.tell(ctx, tx, "vault_credential.created", c.VaultID, c.ID)
	})
}

// fits tells whether a new credential can be in its vault, which it locks.
func (s *Store) fits(ctx context.Context, tx db.Tx, workspaceID string, c api.Credential) error {
	v, err := get(ctx, tx, workspaceID, c.VaultID, tx.ForUpdate())
	if err != nil {
		return err
	}
	if v.ArchivedAt != nil {
		return api.BadRequest("vault %s is archived and takes no more credentials", v.ID)
	}
	var there int
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM vault_credentials WHERE vault_id = ? AND archived_at IS NULL", v.ID).Scan(&there); err != nil {
		return err
	}
	var other string
	err = tx.QueryRow(ctx, "SELECT id FROM vault_credentials WHERE vault_id = ? AND match_key = ?", v.ID, matchKey(c.Auth)).Scan(&other)
	switch {
	case errors.Is(err, sql.ErrNoRows) && there < MaxCredentials:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return api.BadRequest("vault %s has %d credentials, and no more are allowed; archive one, or use another vault", v.ID, there)
	case err != nil:
		return err
	case c.Auth.Type == api.CredentialEnvironmentVariable:
		return api.Conflict("auth.secret_name: credential %s of this vault is for %s already; archive it first", other, c.Auth.SecretName)
	}
	return api.Conflict("auth.mcp_server_url: credential %s of this vault is for %.200s already; archive it first", other, Normalize(c.Auth.MCPServerURL))
}

// describe changes what a credential is called.
func (p CredentialParams) describe(c *api.Credential) error {
	if p.DisplayName.Given() {
		if err := within(maxDisplayName)("display_name", p.DisplayName.Value); err != nil {
			return err
		}
		c.DisplayName = &p.DisplayName.Value
	}
	return api.MergeMetadata(c.Metadata, p.Metadata.Value)
}

// GetCredential returns a credential.
func (s *Store) GetCredential(ctx context.Context, workspaceID, vaultID, id string) (api.Credential, error) {
	c, err := s.read(ctx, workspaceID, vaultID, id)
	return c.Credential, err
}

func (s *Store) read(ctx context.Context, workspaceID, vaultID, id string) (c credential, err error) {
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, vaultID, ""); err != nil {
			return err
		}
		c, err = getCredential(ctx, tx, vaultID, id, "")
		return err
	})
	return c, err
}

func getCredential(ctx context.Context, tx db.Tx, vaultID, id, lock string) (c credential, err error) {
	err = c.scan(tx.QueryRow(ctx, "SELECT "+columns+" FROM vault_credentials c WHERE c.id = ? AND c.vault_id = ?"+lock, id, vaultID))
	if errors.Is(err, sql.ErrNoRows) {
		return c, api.NotFound("credential", id)
	}
	if err != nil {
		return c, fmt.Errorf("read credential %s: %w", id, err)
	}
	return c, nil
}

// ListCredentials returns a page of a vault's credentials, newest first, and
// whether more follow.
func (s *Store) ListCredentials(ctx context.Context, workspaceID, vaultID, after string, limit int, archived bool) ([]api.Credential, bool, error) {
	if _, err := s.Get(ctx, workspaceID, vaultID); err != nil {
		return nil, false, err
	}
	return list[api.Credential](ctx, s.DB, "SELECT json FROM vault_credentials WHERE vault_id = ?", vaultID, after, limit, archived)
}

// UpdateCredential changes a credential. What it is for, an MCP server or a
// variable, never changes.
func (s *Store) UpdateCredential(ctx context.Context, workspaceID, vaultID, id string, p CredentialParams) (api.Credential, error) {
	return s.withCredential(ctx, workspaceID, vaultID, id, func(c *credential) error {
		if c.ArchivedAt != nil {
			return api.BadRequest("credential %s is archived and cannot be changed", id)
		}
		if err := p.describe(&c.Credential); err != nil {
			return err
		}
		if !p.Auth.Given() {
			return nil
		}
		fresh, err := p.Auth.Value.update(&c.Auth, s.now())
		if err != nil {
			return err
		}
		s.keep(c, fresh)
		if fresh != (secrets{}) {
			c.failedAt, c.failure = 0, ""
		}
		if fresh.refreshToken != "" {
			c.claimedUntil = 0 // who is at it is so with the token before
		}
		return nil
	})
}

// ArchiveCredential closes a credential, for good, and purges its secrets.
// Repeating it is harmless.
func (s *Store) ArchiveCredential(ctx context.Context, workspaceID, vaultID, id string) (api.Credential, error) {
	return s.withCredential(ctx, workspaceID, vaultID, id, s.archive)
}

func (s *Store) archive(c *credential) error {
	if c.ArchivedAt == nil {
		now := s.moment()
		c.ArchivedAt = &now
		c.kept, c.claimedUntil, c.failedAt, c.failure = sealed{}, 0, 0, ""
	}
	return nil
}

func (s *Store) withCredential(ctx context.Context, workspaceID, vaultID, id string, fn func(*credential) error) (c api.Credential, err error) {
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, vaultID, ""); err != nil {
			return err
		}
		c, err = s.changeCredential(ctx, tx, vaultID, id, fn)
		return err
	})
	return c, err
}

// changeCredential changes a credential within a transaction. It keeps the key by
// which an open credential is found, and drops that of an archived one.
func (s *Store) changeCredential(ctx context.Context, tx db.Tx, vaultID, id string, fn func(*credential) error) (api.Credential, error) {
	c, err := getCredential(ctx, tx, vaultID, id, tx.ForUpdate())
	if err != nil {
		return c.Credential, err
	}
	before, open, failedAt := c.kept, c.ArchivedAt == nil, c.failedAt
	raw, err := changed(&c.Credential, &c.UpdatedAt, s.moment(), func() error { return fn(&c) })
	if err != nil {
		return c.Credential, err
	}
	if raw == "" && before != c.kept { // only a secret is new
		c.UpdatedAt = s.moment()
	}
	encoded, err := json.Marshal(c.Credential)
	if err != nil {
		return c.Credential, err
	}
	key := sql.NullString{String: matchKey(c.Auth), Valid: c.ArchivedAt == nil}
	_, err = tx.Exec(ctx, "UPDATE vault_credentials SET match_key = ?, archived_at = ?, json = ?, token = ?, refresh_token = ?, client_secret = ?, claimed_until = ?, failed_at = ?, failure = ? WHERE id = ?",
		key, micros(c.ArchivedAt), string(encoded), c.kept.token, c.kept.refreshToken, c.kept.clientSecret, c.claimedUntil, c.failedAt, c.failure, id)
	if err != nil {
		return c.Credential, fmt.Errorf("change credential %s: %w", id, err)
	}
	switch {
	case open && c.ArchivedAt != nil:
		err = s.tell(ctx, tx, "vault_credential.archived", vaultID, id)
	case c.failure != "" && c.failedAt != failedAt:
		err = s.tell(ctx, tx, "vault_credential.refresh_failed", vaultID, id)
	}
	return c.Credential, err
}

// DeleteCredential removes a credential and its secrets.
func (s *Store) DeleteCredential(ctx context.Context, workspaceID, vaultID, id string) error {
	return s.DB.Write(ctx, func(tx db.Tx) error {
		if _, err := get(ctx, tx, workspaceID, vaultID, ""); err != nil {
			return err
		}
		if _, err := getCredential(ctx, tx, vaultID, id, tx.ForUpdate()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM vault_credentials WHERE id = ?", id)
		if err != nil {
			return err
		}
		return s.tell(ctx, tx, "vault_credential.deleted", vaultID, id)
	})
}
