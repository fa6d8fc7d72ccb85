package db_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

var migrations = fstest.MapFS{
	"0001_notes.sql": {Data: []byte("-- +goose Up\nCREATE TABLE notes (id TEXT PRIMARY KEY, n BIGINT NOT NULL, body TEXT NOT NULL);\n-- +goose Down\nDROP TABLE notes;\n")},
}

func migrated(tb testing.TB, d *db.DB) *db.DB {
	tb.Helper()
	for range 2 { // the second time changes nothing
		if err := d.Migrate(tb.Context(), "notes", migrations); err != nil {
			tb.Fatal(err)
		}
	}
	return d
}

func insert(ctx context.Context, d *db.DB, id string, n int) error {
	return d.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO notes (id, n, body) VALUES (?, ?, '?')", id, n)
		return err
	})
}

func count(t *testing.T, d *db.DB) (n int) {
	t.Helper()
	err := d.Read(t.Context(), func(tx db.Tx) error {
		return tx.QueryRow(t.Context(), "SELECT count(*) FROM notes WHERE body = '?' AND n >= ?", 0).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestConcurrentWritesEachSucceedOrFailAlone(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		migrated(t, d)
		var wg sync.WaitGroup
		var failed atomic.Int64
		for i := range 200 {
			wg.Go(func() {
				// Every fourth id is taken twice, and every tenth write changes its mind.
				err := d.Write(t.Context(), func(tx db.Tx) error {
					_, err := tx.Exec(t.Context(), "INSERT INTO notes (id, n, body) VALUES (?, ?, '?')", fmt.Sprint(i-i%4/3), i)
					if err == nil && i%10 == 0 {
						return errors.New("changed my mind")
					}
					if err == nil && i == 7 {
						panic("on purpose")
					}
					return err
				})
				if err != nil {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		if got, want := count(t, d), 200-int(failed.Load()); got != want || failed.Load() < 21 {
			t.Errorf("%d rows, want %d; %d writes failed", got, want, failed.Load())
		}
	})
}

func TestCancelledWriteIsNotRun(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		migrated(t, d)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := insert(ctx, d, "a", 1); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		if n := count(t, d); n != 0 {
			t.Errorf("%d rows, want none", n)
		}
	})
}

func TestNotifyReachesOtherProcesses(t *testing.T) {
	url := dbtest.PostgresURL(t)
	one, two := dbtest.Open(t, url), dbtest.Open(t, url)
	heard := map[string]<-chan string{}
	for name, d := range map[string]*db.DB{"same": one, "other": two} {
		ch, cancel := d.Subscribe("topic")
		defer cancel()
		heard[name] = ch
	}
	err := one.Write(t.Context(), func(tx db.Tx) error {
		tx.Notify("topic", "hello")
		tx.Notify("elsewhere", "not for you")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, ch := range heard {
		select {
		case got := <-ch:
			if got != "hello" {
				t.Errorf("%s process heard %q", name, got)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s process heard nothing", name)
		}
	}
}

// What a killed process has committed and not announced is looked for once it
// has been silent for a while.
func TestSilenceOfAnotherProcessWakesSubscribers(t *testing.T) {
	t.Parallel()
	url := dbtest.PostgresURL(t)
	d := dbtest.Open(t, url)
	woken, cancel := d.Subscribe("topic")
	defer cancel()
	ghost, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer ghost.Close(context.WithoutCancel(t.Context()))
	if _, err := ghost.Exec(t.Context(), `NOTIFY hearth, '["ghost","","alive"]'`); err != nil {
		t.Fatal(err)
	}
	select {
	case payload := <-woken:
		if payload != "" {
			t.Errorf("woken with %q", payload)
		}
	case <-time.After(30 * time.Second):
		t.Error("nobody looks for what the dead one has left")
	}
}

func TestNotifyWaitsForTheCommit(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		heard, cancel := d.Subscribe("topic")
		defer cancel()
		ran := false
		err := d.Write(t.Context(), func(tx db.Tx) error {
			tx.Notify("topic", "never")
			tx.AfterCommit(func() { ran = true })
			return errors.New("no")
		})
		if err == nil || ran {
			t.Errorf("err %v, after-commit ran %t", err, ran)
		}
		for i := range 100 {
			if err := d.Publish(t.Context(), "topic", fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		// A reader that lags is told so, and still sees the last one.
		var got []string
		for len(got) == 0 || got[len(got)-1] != "99" {
			got = append(got, <-heard)
		}
		if got[0] == "never" || len(got) > 20 || !strings.Contains(strings.Join(got, ","), ",,") {
			t.Errorf("heard %q", got)
		}
	})
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"hearth.db":                            "must begin with sqlite://",
		"mysql://x":                            "unknown kind",
		"sqlite://" + file + "/x.db":           "not a directory",
		"postgres://u:s3cret@127.0.0.1:1/x":    "connect",
		"postgres://u:s3cret@127.0.0.1:port/x": "cannot be parsed",
	} {
		_, err := db.Open(t.Context(), db.Config{URL: url})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
}

func TestClosedDatabaseRefusesWrites(t *testing.T) {
	d, err := db.Open(t.Context(), db.Config{URL: dbtest.SQLiteURL(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(t.Context(), func(db.Tx) error { return nil }); err == nil {
		t.Error("a closed database took a write")
	}
}

func BenchmarkDurableRows(b *testing.B) {
	for name, open := range map[string]func(testing.TB) *db.DB{"sqlite": dbtest.OpenSQLite, "postgres": dbtest.OpenPostgres} {
		b.Run(name, func(b *testing.B) {
			d := migrated(b, open(b))
			body := strings.Repeat("x", 500)
			b.ResetTimer()
			var id atomic.Int64
			b.SetParallelism(64)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					err := d.Write(context.Background(), func(tx db.Tx) error {
						_, err := tx.Exec(context.Background(), "INSERT INTO notes (id, n, body) VALUES (?, ?, ?)", fmt.Sprint(id.Add(1)), 1, body)
						return err
					})
					if err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
