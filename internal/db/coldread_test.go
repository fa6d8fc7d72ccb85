package db_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

// TestManyColdReadsAtOnce: more readers than connections, each with a statement
// nobody has used before, as just after a start.
func TestManyColdReadsAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		const readers, together = 64, 4
		var crowd sync.WaitGroup // the first few begin before any of them asks
		crowd.Add(together)
		var all sync.WaitGroup
		for i := range readers {
			all.Go(func() {
				err := d.Read(ctx, func(tx db.Tx) error {
					if i < together {
						crowd.Done()
						crowd.Wait()
					}
					var n int
					return tx.QueryRow(ctx, fmt.Sprintf("SELECT %d", i)).Scan(&n)
				})
				if err != nil {
					t.Errorf("reader %d: %v", i, err)
				}
			})
			if i == together-1 {
				crowd.Wait()
			}
		}
		all.Wait()
	})
}
