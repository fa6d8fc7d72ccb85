package vault

import (
	"context"
	"fmt"
	"time"

	"hearth/internal/db"
)

// Reseal has the secrets of all credentials sealed anew with the newest data key, and
// returns how many credentials that has changed. It waits for refreshes in progress,
// at this server or another: what they bring is kept only where the refresh token they
// used still is.
func (s *Store) Reseal(ctx context.Context) (changed int, err error) {
	var ids []string
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		ids, err = db.Strings(tx.Query(ctx, "SELECT id FROM vault_credentials WHERE archived_at IS NULL ORDER BY id"))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the credentials: %w", err)
	}
	for _, id := range ids {
		fresh, err := s.reseal(ctx, id)
		if err != nil {
			return changed, err
		}
		if fresh {
			changed++
		}
	}
	return changed, nil
}

func (s *Store) reseal(ctx context.Context, id string) (changed bool, err error) {
	for {
		c, err := s.anyCredential(ctx, id)
		if err != nil || c.ID == "" || c.ArchivedAt != nil {
			return false, err
		}
		fresh := c.kept
		for _, one := range []struct {
			what string
			to   *string
		}{{placeToken, &fresh.token}, {placeRefreshToken, &fresh.refreshToken}, {placeClientSecret, &fresh.clientSecret}} {
			if *one.to == "" {
				continue
			}
			if *one.to, err = s.Sealer.Anew(ctx, place(c.Credential, one.what), *one.to); err != nil {
				return false, fmt.Errorf("credential %s: %w", id, err)
			}
		}
		if fresh == c.kept {
			return false, nil
		}
		var done int64
		err = s.DB.Write(ctx, func(tx db.Tx) error {
			result, err := tx.Exec(ctx, "UPDATE vault_credentials SET token = ?, refresh_token = ?, client_secret = ? WHERE id = ? AND token = ? AND refresh_token = ? AND client_secret = ? AND claimed_until <= ?",
				fresh.token, fresh.refreshToken, fresh.clientSecret, id, c.kept.token, c.kept.refreshToken, c.kept.clientSecret, s.now().UnixMicro())
			if err != nil {
				return err
			}
			done, err = result.RowsAffected()
			return err
		})
		if err != nil || done == 1 {
			return err == nil, err
		}
		select { // it has been changed, or is being refreshed
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// anyCredential reads a credential of whichever vault; its id is "" when it is gone.
func (s *Store) anyCredential(ctx context.Context, id string) (c credential, err error) {
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+columns+" FROM vault_credentials c WHERE c.id = ?", id)
		if err != nil {
			return err
		}
		defer rows.Close()
		if rows.Next() {
			if err := c.scan(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return c, err
}
