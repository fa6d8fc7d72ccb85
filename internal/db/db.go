// Package db opens the database, SQLite or Postgres behind one interface, runs
// each package's migrations, and carries notifications between the processes
// that share it. It holds no business SQL and knows nobody above it.
package db

import (
	"context"
	"database/sql"
	"io/fs"
	"log/slog"
)

// Config says which database to open.
type Config struct {
	// URL is sqlite:///absolute/path.db, sqlite://relative/path.db or postgres://….
	URL string
	Log *slog.Logger
}

// DB is an open database. Its methods are safe for concurrent use.
type DB struct{}

// Open opens the database and checks that it answers.
func Open(ctx context.Context, cfg Config) (*DB, error) { panic("stub") }

// Close ends every transaction, subscription and connection.
func (d *DB) Close() error { panic("stub") }

// Migrate applies the migrations in fsys (goose SQL files at its root) that
// this database has not seen, under a version table of their own, so that each
// package owns its schema. Several processes may call it at once.
func (d *DB) Migrate(ctx context.Context, name string, fsys fs.FS) error { panic("stub") }

// Read runs fn in a read-only snapshot.
func (d *DB) Read(ctx context.Context, fn func(Tx) error) error { panic("stub") }

// Write runs fn in a transaction and returns once it is durable. On SQLite
// concurrent writes share one fsync (each fn in its own savepoint); on Postgres
// a serialization failure runs fn again, so fn must not touch anything but the
// transaction and variables it assigns anew each run.
func (d *DB) Write(ctx context.Context, fn func(Tx) error) error { panic("stub") }

// Publish sends a notification without a transaction.
func (d *DB) Publish(ctx context.Context, topic, payload string) error { panic("stub") }

// Subscribe delivers the payloads notified on topic by any process that shares
// this database, from the moment it returns until cancel is called. A slow
// reader loses none of the fact that something came: payloads are coalesced
// (deduplicated) rather than queued without bound.
func (d *DB) Subscribe(topic string) (payloads <-chan string, cancel func()) { panic("stub") }

// Tx is a transaction. Queries use ? placeholders on both databases.
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
