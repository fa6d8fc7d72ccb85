package seal

import (
	"context"
	"fmt"

	"hearth/internal/db"
)

// AnewFunc is (*Sealer).Anew.
type AnewFunc = func(ctx context.Context, place, sealed string) (string, error)

// AnewRows has the secrets in a column of its caller's table sealed anew, and returns
// how many that has changed. The column place says where each is sealed, and is
// different in each row.
func AnewRows(ctx context.Context, d *db.DB, table, place, column string, anew AnewFunc) (changed int, err error) {
	kept := map[string]string{} // by place
	err = d.Read(ctx, func(tx db.Tx) error {
		clear(kept)
		rows, err := tx.Query(ctx, "SELECT "+place+", "+column+" FROM "+table+" WHERE "+column+" IS NOT NULL")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var at, sealed string
			if err := rows.Scan(&at, &sealed); err != nil {
				return err
			}
			kept[at] = sealed
		}
		return rows.Err()
	})
	if err != nil {
		return 0, fmt.Errorf("read the secrets of %s: %w", table, err)
	}
	for at, sealed := range kept {
		fresh, err := anew(ctx, at, sealed)
		if err != nil {
			return changed, fmt.Errorf("the secret of %s: %w", at, err)
		}
		if fresh == sealed {
			continue
		}
		err = d.Write(ctx, func(tx db.Tx) error {
			// One that has been replaced meanwhile is another's to seal.
			_, err := tx.Exec(ctx, "UPDATE "+table+" SET "+column+" = ? WHERE "+place+" = ? AND "+column+" = ?", fresh, at, sealed)
			return err
		})
		if err != nil {
			return changed, fmt.Errorf("keep the secret of %s: %w", at, err)
		}
		changed++
	}
	return changed, nil
}
