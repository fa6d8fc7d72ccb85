package seal

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"gocloud.dev/secrets"

	"hearth/internal/db"
)

// Rewrap has another master key wrap every data key, all in one transaction, and
// returns how many there are. Servers that have opened the data keys go on; from
// their next start on they need the new master key.
func (s *Sealer) Rewrap(ctx context.Context, master *secrets.Keeper) (int, error) {
	type key struct{ id, before, after string }
	var keys []key
	err := s.db.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, "SELECT id, wrapped FROM data_keys ORDER BY id")
		if err != nil {
			return err
		}
		defer rows.Close()
		keys = nil
		for rows.Next() {
			var k key
			if err := rows.Scan(&k.id, &k.before); err != nil {
				return err
			}
			keys = append(keys, k)
		}
		return rows.Err()
	})
	if err != nil {
		return 0, fmt.Errorf("read the data keys: %w", err)
	}
	for i, k := range keys {
		raw, err := s.plain(ctx, k.id, k.before)
		if err != nil {
			return 0, err
		}
		wrapped, err := master.Encrypt(ctx, raw)
		if err != nil {
			return 0, fmt.Errorf("wrap data key %s with the new master key: %w", k.id, err)
		}
		// What cannot be unwrapped again is lost, so look before it counts.
		if again, err := master.Decrypt(ctx, wrapped); err != nil || string(again) != string(raw) {
			return 0, errors.Join(fmt.Errorf("the new master key does not open what it has wrapped"), err)
		}
		keys[i].after = base64.StdEncoding.EncodeToString(wrapped)
	}
	err = s.db.Write(ctx, func(tx db.Tx) error {
		there, err := db.Strings(tx.Query(ctx, "SELECT id FROM data_keys"))
		if err != nil {
			return err
		}
		changed := len(there) != len(keys)
		for _, k := range keys {
			done, err := tx.Exec(ctx, "UPDATE data_keys SET wrapped = ? WHERE id = ? AND wrapped = ?", k.after, k.id, k.before)
			if err != nil {
				return err
			}
			n, err := done.RowsAffected()
			if err != nil {
				return err
			}
			changed = changed || n != 1
		}
		if changed {
			return errors.New("somebody else was changing the data keys, so nothing has been done; try again")
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("keep the data keys: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.master = master
	return len(keys), nil
}

// Anew seals with the newest data key what an older one has sealed for a place. It
// returns what is sealed with the newest already as it is.
func (s *Sealer) Anew(ctx context.Context, place, sealed string) (string, error) {
	s.mu.Lock()
	current := s.current
	s.mu.Unlock()
	if strings.HasPrefix(sealed, current+".") {
		return sealed, nil
	}
	text, err := s.Open(ctx, place, sealed)
	if err != nil {
		return "", err
	}
	return s.Seal(place, text), nil
}
