// Package secret makes keys, hashes them for keeping, and keeps the key that
// signs tokens. It owns the table signing_keys.
package secret

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"

	"hearth/internal/db"
)

// The prefixes of the keys people handle, so that a leaked one is recognised.
const (
	PrefixAPIKey         = "hak_"
	PrefixEnvironmentKey = "hek_"
	PrefixTunnelToken    = "htt_"
)

// New makes a key of 256 bits: prefix and 52 characters.
func New(prefix string) string { return prefix + rand.Text() + rand.Text() }

// Hash is what is kept of a key. Keys have too much entropy to be guessed, so
// a fast hash is enough, and equal keys have equal hashes for looking them up.
func Hash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

//go:embed migrations/*.sql
var migrations embed.FS

// SigningKey returns the key that signs tokens, the same for every server of
// one database; the first to ask makes it.
func SigningKey(ctx context.Context, d *db.DB) ([]byte, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := d.Migrate(ctx, "secret", dir); err != nil {
		return nil, err
	}
	fresh := make([]byte, 32)
	if _, err := rand.Read(fresh); err != nil {
		return nil, err
	}
	var kept string
	err = d.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO signing_keys (name, key) VALUES ('sessions', ?) ON CONFLICT (name) DO NOTHING", base64.StdEncoding.EncodeToString(fresh))
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT key FROM signing_keys WHERE name = 'sessions'").Scan(&kept)
	})
	if err != nil {
		return nil, fmt.Errorf("read the signing key: %w", err)
	}
	return base64.StdEncoding.DecodeString(kept)
}
