package webhook

import (
	"context"
	"fmt"

	"hearth/internal/db"
)

// Reseal has the secrets of all endpoints sealed anew, and returns how many that
// has changed.
func (s *Store) Reseal(ctx context.Context, anew func(ctx context.Context, place, sealed string) (string, error)) (changed int, err error) {
	var ids []string
	err = s.DB.Read(ctx, func(tx db.Tx) (err error) {
		ids, err = db.Strings(tx.Query(ctx, "SELECT id FROM webhook_endpoints ORDER BY id"))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the webhook endpoints: %w", err)
	}
	for _, id := range ids {
		fresh, err := s.reseal(ctx, id, anew)
		if err != nil {
			return changed, fmt.Errorf("webhook endpoint %s: %w", id, err)
		}
		if fresh {
			changed++
		}
	}
	return changed, nil
}

func (s *Store) reseal(ctx context.Context, id string, anew func(ctx context.Context, place, sealed string) (string, error)) (changed bool, err error) {
	var kept []string // none, if it has been deleted meanwhile
	err = s.DB.Read(ctx, func(tx db.Tx) (err error) {
		kept, err = db.Strings(tx.Query(ctx, "SELECT secret FROM webhook_endpoints WHERE id = ?", id))
		return err
	})
	if err != nil || len(kept) == 0 {
		return false, err
	}
	fresh, err := anew(ctx, id, kept[0])
	if err != nil || fresh == kept[0] {
		return false, err
	}
	// One that has been replaced meanwhile is another's to seal.
	return true, s.DB.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE webhook_endpoints SET secret = ? WHERE id = ? AND secret = ?", fresh, id, kept[0])
		return err
	})
}
