package session

import (
	"context"
	"fmt"
	"testing"

	"hearth/api"
	"hearth/internal/brain/queue"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

// longLog is how many events the session of BenchmarkEventPages has.
const longLog = 1_000_000

// BenchmarkEventPages lists pages of a thousand events at both ends of a log of
// a million, in both orders, as a client does that follows cursors. The last
// page should take no longer than the first.
func BenchmarkEventPages(b *testing.B) {
	for name, open := range map[string]func(testing.TB) *db.DB{"sqlite": dbtest.OpenSQLite, "postgres": dbtest.OpenPostgres} {
		b.Run(name, func(b *testing.B) { benchmarkEventPages(b, open(b)) })
	}
}

func benchmarkEventPages(b *testing.B, d *db.DB) {
	ctx := context.Background()
	store, err := New(ctx, Config{DB: d})
	if err != nil {
		b.Fatal(err)
	}
	q, err := queue.New(ctx, queue.Config{DB: d, SigningKey: make([]byte, 32), Sessions: store})
	if err != nil {
		b.Fatal(err)
	}
	store.UseQueue(q)
	id := (&bench{ctx: ctx, store: store}).create(b, api.EnvironmentSelfHosted)
	if err := fillLog(ctx, d, id); err != nil {
		b.Fatal(err)
	}
	for _, page := range []struct {
		name       string
		descending bool
		cursor     int64 // seq before the page
		more       bool
	}{
		{"first/asc", false, 0, true}, {"middle/asc", false, longLog / 2, true}, {"last/asc", false, longLog - 1000, false},
		{"first/desc", true, 0, true}, {"middle/desc", true, longLog / 2, true}, {"last/desc", true, 1001, false},
	} {
		b.Run(page.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				events, more, err := store.Events(ctx, id, EventFilter{Limit: 1000, CursorSeq: page.cursor, Descending: page.descending})
				if err != nil || len(events) != 1000 || more != page.more {
					b.Fatalf("%d events, more %v: %v", len(events), more, err)
				}
			}
		})
	}
	for name, filter := range map[string]EventFilter{
		"few of a type": {Types: []api.EventType{api.EventSessionUpdated}, Limit: 1000},
		"since lately":  {After: Bound{Time: at(longLog - 500)}, Limit: 1000},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := store.Events(ctx, id, filter); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fillLog gives a session a log: messages of the agent, and one event of
// another type for each hundred thousand of them.
func fillLog(ctx context.Context, d *db.DB, id string) error {
	return d.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, `WITH RECURSIVE n (seq) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT seq + 1 FROM n WHERE seq < ?)
			INSERT INTO events (session_id, seq, id, type, processed_at, json)
			SELECT ?, seq, 'sevt_' || seq, CASE WHEN seq % 100000 = 0 THEN 'session.updated' ELSE 'agent.message' END, seq,
				'{"id":"sevt_' || seq || '","type":"agent.message","processed_at":"2026-01-01T00:00:00Z","content":[{"type":"text","text":"one of very many messages"}]}' FROM n`, longLog, id)
		if err != nil {
			return fmt.Errorf("fill a log: %w", err)
		}
		_, err = tx.Exec(ctx, "UPDATE sessions SET seq = ? WHERE id = ?", longLog, id)
		return err
	})
}
