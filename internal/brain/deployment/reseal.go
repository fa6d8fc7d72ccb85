package deployment

import (
	"context"
	"encoding/json"
	"fmt"

	"hearth/internal/db"
)

// Reseal has the tokens of all deployments sealed anew, and returns how many
// tokens that has changed.
func (s *Store) Reseal(ctx context.Context, anew func(ctx context.Context, place, sealed string) (string, error)) (changed int, err error) {
	var ids []string
	err = s.DB.Read(ctx, func(tx db.Tx) (err error) {
		ids, err = db.Strings(tx.Query(ctx, "SELECT id FROM deployments WHERE archived_at IS NULL ORDER BY id"))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the deployments: %w", err)
	}
	for _, id := range ids {
		n, err := s.reseal(ctx, id, anew)
		if err != nil {
			return changed, fmt.Errorf("deployment %s: %w", id, err)
		}
		changed += n
	}
	return changed, nil
}

func (s *Store) reseal(ctx context.Context, id string, anew func(ctx context.Context, place, sealed string) (string, error)) (changed int, err error) {
	var kept string
	var tokens map[int]token
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, "SELECT tokens FROM deployments WHERE id = ?", id).Scan(&kept)
	})
	if err == nil {
		err = json.Unmarshal([]byte(kept), &tokens)
	}
	if err != nil {
		return 0, err
	}
	for i, t := range tokens {
		fresh, err := anew(ctx, t.Place, t.Sealed)
		if err != nil {
			return 0, err
		}
		if fresh != t.Sealed {
			tokens[i] = token{Place: t.Place, Sealed: fresh}
			changed++
		}
	}
	if changed == 0 {
		return 0, nil
	}
	raw, err := json.Marshal(tokens)
	if err != nil {
		return 0, err
	}
	// Those that have been replaced meanwhile are another's to seal.
	return changed, s.DB.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE deployments SET tokens = ? WHERE id = ? AND tokens = ?", string(raw), id, kept)
		return err
	})
}
