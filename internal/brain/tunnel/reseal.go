package tunnel

import (
	"context"
	"fmt"

	"hearth/internal/db"
)

// Reseal has the tokens of all tunnels sealed anew, and returns how many that has
// changed.
func (s *Store) Reseal(ctx context.Context, anew func(ctx context.Context, place, sealed string) (string, error)) (changed int, err error) {
	kept := map[string]string{}
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, "SELECT id, sealed FROM tunnel_tokens WHERE sealed IS NOT NULL")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id, sealed string
			if err := rows.Scan(&id, &sealed); err != nil {
				return err
			}
			kept[id] = sealed
		}
		return rows.Err()
	})
	if err != nil {
		return 0, fmt.Errorf("read the tokens of tunnels: %w", err)
	}
	for id, sealed := range kept {
		fresh, err := anew(ctx, id, sealed)
		if err != nil {
			return changed, fmt.Errorf("token %s of a tunnel: %w", id, err)
		}
		if fresh == sealed {
			continue
		}
		err = s.DB.Write(ctx, func(tx db.Tx) error {
			// One that has been retired meanwhile is not sealed any more.
			_, err := tx.Exec(ctx, "UPDATE tunnel_tokens SET sealed = ? WHERE id = ? AND sealed = ?", fresh, id, sealed)
			return err
		})
		if err != nil {
			return changed, fmt.Errorf("keep token %s of a tunnel: %w", id, err)
		}
		changed++
	}
	return changed, nil
}
