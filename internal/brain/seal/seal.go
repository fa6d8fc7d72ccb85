// Package seal encrypts what has to be kept and must never be shown: the tokens
// and passwords that clients hand over. A data key does that; it is kept in the
// database, wrapped by a master key that is not. It owns the table data_keys and
// may call db.
package seal

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"gocloud.dev/secrets"

	"hearth/api"
	"hearth/internal/db"
)

// Sealer seals and opens. It is safe for concurrent use, by several servers of
// one database too, as long as they have the same master key.
type Sealer struct {
	db *db.DB

	mu      sync.Mutex
	master  *secrets.Keeper        // guarded by mu
	keys    map[string]cipher.AEAD // data keys unwrapped so far, by id; guarded by mu
	current string                 // the one that seals; guarded by mu
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes a Sealer and migrates its table. It fails when the master key is not
// the one that has wrapped the data key in the database.
func New(ctx context.Context, d *db.DB, master *secrets.Keeper) (*Sealer, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := d.Migrate(ctx, "seal", dir); err != nil {
		return nil, err
	}
	s := &Sealer{db: d, master: master, keys: map[string]cipher.AEAD{}}
	id, wrapped, err := s.newest(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return s, s.Rotate(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("read the data key: %w", err)
	}
	if _, err := s.unwrap(ctx, id, wrapped); err != nil {
		return nil, err
	}
	s.current = id
	return s, nil
}

func (s *Sealer) newest(ctx context.Context) (id, wrapped string, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, "SELECT id, wrapped FROM data_keys ORDER BY id DESC LIMIT 1").Scan(&id, &wrapped)
	})
	return id, wrapped, err
}

// Rotate makes a new data key. What others have sealed stays readable.
func (s *Sealer) Rotate(ctx context.Context) error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	wrapped, err := s.keeper().Encrypt(ctx, key)
	if err != nil {
		return fmt.Errorf("wrap a data key with the master key: %w", err)
	}
	aead, err := cipherOf(key)
	if err != nil {
		return err
	}
	id := api.NewID(api.PrefixDataKey)
	err = s.db.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO data_keys (id, created_at, wrapped) VALUES (?, ?, ?)", id, time.Now().UnixMicro(), base64.StdEncoding.EncodeToString(wrapped))
		return err
	})
	if err != nil {
		return fmt.Errorf("keep a data key: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[id], s.current = aead, id
	return nil
}

func cipherOf(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (s *Sealer) keeper() *secrets.Keeper {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.master
}

// managerTimeout bounds a request to a key manager.
const managerTimeout = 20 * time.Second

// plain is a data key as it was before the master key wrapped it.
func (s *Sealer) plain(ctx context.Context, id, wrapped string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(wrapped)
	if err != nil {
		return nil, fmt.Errorf("data key %s is damaged: %w", id, err)
	}
	ctx, cancel := context.WithTimeout(ctx, managerTimeout)
	defer cancel()
	key, err := s.keeper().Decrypt(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("the master key does not open data key %s; give every server of a database the same one, as --secrets-key: %w", id, err)
	}
	return key, nil
}

func (s *Sealer) unwrap(ctx context.Context, id, wrapped string) (cipher.AEAD, error) {
	key, err := s.plain(ctx, id, wrapped)
	if err != nil {
		return nil, err
	}
	aead, err := cipherOf(key)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[id] = aead
	return aead, nil
}

// key finds a data key.
func (s *Sealer) key(ctx context.Context, id string) (cipher.AEAD, error) {
	s.mu.Lock()
	aead, ok := s.keys[id]
	s.mu.Unlock()
	if ok {
		return aead, nil
	}
	var wrapped string
	err := s.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, "SELECT wrapped FROM data_keys WHERE id = ?", id).Scan(&wrapped)
	})
	if err != nil {
		return nil, fmt.Errorf("read data key %.60q: %w", id, err)
	}
	return s.unwrap(ctx, id, wrapped)
}

// Seal encrypts text for one place, the id of an object say. It opens at no
// other, so that nobody can have it shown as something else.
func (s *Sealer) Seal(place, text string) string {
	s.mu.Lock()
	id := s.current
	aead := s.keys[id]
	s.mu.Unlock()
	return id + "." + base64.RawStdEncoding.EncodeToString(aead.Seal(nil, nil, []byte(text), []byte(place)))
}

// Open decrypts what Seal has sealed for the same place.
func (s *Sealer) Open(ctx context.Context, place, sealed string) (string, error) {
	id, body, found := strings.Cut(sealed, ".")
	raw, err := base64.RawStdEncoding.DecodeString(body)
	if !found || err != nil {
		return "", errors.New("what was sealed is damaged")
	}
	aead, err := s.key(ctx, id)
	if err != nil {
		return "", err
	}
	text, err := aead.Open(nil, nil, raw, []byte(place))
	if err != nil {
		return "", fmt.Errorf("open what was sealed for %s: it has been changed, or was sealed for something else", place)
	}
	return string(text), nil
}
