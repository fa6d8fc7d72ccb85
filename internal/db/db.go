// Package db opens the database, SQLite or Postgres behind one interface, runs
// each package's migrations, and carries notifications between the processes
// that share it. It holds no business SQL and knows nobody above it.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

// Config says which database to open.
type Config struct {
	// URL is sqlite:///absolute/path.db, sqlite://relative/path.db or postgres://….
	URL string
	// Log receives what goes wrong in the background. Default slog.Default().
	Log *slog.Logger
}

// DB is an open database. Its methods are safe for concurrent use.
type DB struct {
	store
	hub *hub
}

// store is one kind of database.
type store interface {
	read(ctx context.Context, fn func(Tx) error) error
	write(ctx context.Context, fn func(Tx) error) error
	publish(ctx context.Context, topic, payload string) error
	// migrations is the connection pool to migrate through, and its dialect.
	migrations() (*sql.DB, goose.Dialect)
	close() error
}

// Open opens the database and checks that it answers.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	scheme, rest, ok := strings.Cut(cfg.URL, "://")
	if !ok {
		return nil, errors.New("open database: the URL must begin with sqlite:// or postgres://")
	}
	h := newHub()
	var s store
	var err error
	switch scheme {
	case "sqlite":
		s, err = openSQLite(ctx, rest, h)
	case "postgres", "postgresql":
		s, err = openPostgres(ctx, cfg.URL, h, cfg.Log)
	default:
		return nil, fmt.Errorf("open database: unknown kind %q, want sqlite or postgres", scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s database: %w", scheme, err)
	}
	return &DB{store: s, hub: h}, nil
}

// Close waits for the transactions in flight and closes every connection.
func (d *DB) Close() error { return d.store.close() }

// Migrate applies the migrations in fsys (goose SQL files at its root) that
// this database has not seen, under a version table of their own, so that each
// package owns its schema. On Postgres several processes may call it at once; a
// SQLite database belongs to one process.
func (d *DB) Migrate(ctx context.Context, name string, fsys fs.FS) error {
	pool, dialect := d.store.migrations()
	versions, err := database.NewStore(dialect, "schema_"+name)
	if err != nil {
		return fmt.Errorf("migrate %s: %w", name, err)
	}
	options := []goose.ProviderOption{goose.WithStore(versions)}
	if dialect == goose.DialectPostgres {
		// Ask each second, for five minutes: servers that start together should
		// not wait for each other longer than a migration takes.
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
		if err != nil {
			return fmt.Errorf("migrate %s: %w", name, err)
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	provider, err := goose.NewProvider("", pool, fsys, options...)
	if err != nil {
		return fmt.Errorf("migrate %s: %w", name, err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate %s: %w", name, err)
	}
	return nil
}

// Read runs fn in a read-only snapshot.
func (d *DB) Read(ctx context.Context, fn func(Tx) error) error { return d.store.read(ctx, fn) }

// Write runs fn in a transaction and returns once it is durable. On SQLite
// concurrent writes share one sync, each fn in a savepoint of its own; on
// Postgres a serialisation failure runs fn again. So fn must not touch anything
// but the transaction and variables it assigns anew each run. Once begun, a
// write ignores the cancellation of ctx: its outcome is always known.
func (d *DB) Write(ctx context.Context, fn func(Tx) error) error { return d.store.write(ctx, fn) }

// Publish sends a notification without a transaction.
func (d *DB) Publish(ctx context.Context, topic, payload string) error {
	return d.store.publish(ctx, topic, payload)
}

// Subscribe delivers the payloads notified on topic by any process that shares
// this database, from the moment it returns until cancel is called. To a reader
// that lags, the oldest payloads are replaced by one empty payload, which means
// "look for yourself"; so does one after a lost connection.
func (d *DB) Subscribe(topic string) (payloads <-chan string, cancel func()) {
	return d.hub.subscribe(topic)
}

// Tx is a transaction. Queries use ? placeholders on both databases. It is for
// one goroutine.
type Tx interface {
	Exec(ctx context.Context, query string, args ...any) (sql.Result, error)
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) *sql.Row
	// ForUpdate is " FOR UPDATE" where rows must be locked, and "" where the
	// single writer makes that needless; append it to a SELECT.
	ForUpdate() string
	// SkipLocked is " FOR UPDATE SKIP LOCKED" or "".
	SkipLocked() string
	// Notify publishes payload on topic if and when the transaction commits.
	Notify(topic, payload string)
	// AfterCommit runs fn in this process once the transaction is durable.
	AfterCommit(fn func())
}

// effects are what a transaction does beyond its rows, once it has committed.
type effects struct {
	notices []notice
	after   []func()
}

func (e *effects) Notify(topic, payload string) {
	e.notices = append(e.notices, notice{topic, payload})
}

func (e *effects) AfterCommit(fn func()) { e.after = append(e.after, fn) }

// happen runs after the commit, in this process.
func (e *effects) happen(h *hub) {
	for _, n := range e.notices {
		h.deliver(n)
	}
	for _, fn := range e.after {
		fn()
	}
}
