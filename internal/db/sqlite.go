package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// sqlite has one writer, whose goroutine commits what is waiting in one
// transaction, and a pool of readers.
type sqlite struct {
	hub      *hub
	writer   *sql.DB // one connection, held by the writer's goroutine
	migrator *sql.DB // opens a connection only while migrating
	readers  *sql.DB
	reading  *statements // prepared on readers
	// reads are waiting for a reader's goroutine. There is one less of them than
	// the readers' connections: a transaction prepares new statements on the
	// pool, and must find a connection there while all others hold theirs.
	reads chan func()

	queue   chan *job
	closing chan struct{} // closed by close
	done    chan struct{} // closed when the writer's goroutine has ended
	once    sync.Once
}

// job is one write waiting for the writer. The writer's goroutine owns it until
// done is closed.
type job struct {
	ctx  context.Context
	fn   func(Tx) error
	err  error
	tx   *sqliteTx
	done chan struct{}
}

// batchLimit bounds how many writes share a commit, so that the first of them
// does not wait for ever.
const batchLimit = 256

func openSQLite(ctx context.Context, path string, h *hub) (*sqlite, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// Created here, for the driver would make it readable to others.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	writer, err := sql.Open("sqlite", sqliteDSN(path, "synchronous(FULL)"))
	if err != nil {
		return nil, err
	}
	writer.SetMaxOpenConns(1)
	migrator, err := sql.Open("sqlite", sqliteDSN(path, "synchronous(FULL)")+"&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	migrator.SetMaxIdleConns(0)
	if err := writer.PingContext(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	readers, err := sql.Open("sqlite", sqliteDSN(path, "query_only(1)"))
	if err != nil {
		return nil, err
	}
	atOnce := max(4, 2*runtime.NumCPU())
	readers.SetMaxOpenConns(atOnce + 1)
	readers.SetMaxIdleConns(atOnce + 1)
	s := &sqlite{
		hub: h, writer: writer, migrator: migrator, readers: readers, reading: newStatements(),
		reads: make(chan func()),
		queue: make(chan *job, batchLimit), closing: make(chan struct{}), done: make(chan struct{}),
	}
	go s.writeLoop()
	for range atOnce {
		go s.readLoop()
	}
	return s, nil
}

func sqliteDSN(path, pragma string) string {
	query := url.Values{"_pragma": {"journal_mode(WAL)", "busy_timeout(10000)", "foreign_keys(1)", "cache_size(-16000)", pragma}}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + query.Encode()
}

func (s *sqlite) migrations() (*sql.DB, goose.Dialect) { return s.migrator, goose.DialectSQLite3 }

func (s *sqlite) publish(_ context.Context, topic, payload string) error {
	s.hub.deliver(notice{topic, payload})
	return nil
}

func (s *sqlite) close() error {
	s.once.Do(func() { close(s.closing) })
	<-s.done
	return errors.Join(s.readers.Close(), s.migrator.Close(), s.writer.Close())
}

// read runs fn on a reader's goroutine. SQLite needs deep stacks; so the callers
// do not get them, of whom there may be ten thousand that wait for events.
func (s *sqlite) read(ctx context.Context, fn func(Tx) error) (err error) {
	done := make(chan struct{})
	job := func() {
		defer close(done)
		err = s.readNow(ctx, fn)
	}
	select {
	case s.reads <- job:
		<-done
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return errClosed
	}
}

func (s *sqlite) readLoop() {
	for {
		select {
		case job := <-s.reads:
			job()
		case <-s.closing:
			return
		}
	}
}

func (s *sqlite) readNow(ctx context.Context, fn func(Tx) error) error {
	tx, err := s.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	return protect(fn, &sqliteTx{prepare: func(ctx context.Context, query string) (*sql.Stmt, error) {
		stmt, err := s.reading.get(query, func() (*sql.Stmt, error) { return s.readers.PrepareContext(context.WithoutCancel(ctx), query) })
		if err != nil {
			return nil, err
		}
		return tx.StmtContext(ctx, stmt), nil
	}, row: tx.QueryRowContext})
}

var errClosed = errors.New("the database is closed")

func (s *sqlite) write(ctx context.Context, fn func(Tx) error) error {
	j := &job{ctx: ctx, fn: fn, done: make(chan struct{})}
	select {
	case s.queue <- j:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return errClosed
	}
	select {
	case <-j.done:
		return j.err
	case <-s.done:
		// The writer may have finished this very job before it ended.
		select {
		case <-j.done:
			return j.err
		default:
			return errClosed
		}
	}
}

func (s *sqlite) writeLoop() {
	defer close(s.done)
	w := writeConn{pool: s.writer}
	defer w.close()
	for {
		select {
		case j := <-s.queue:
			s.commit(&w, s.gather(j))
		case <-s.closing:
			return
		}
	}
}

// gather takes what else is waiting.
func (s *sqlite) gather(first *job) []*job {
	batch := []*job{first}
	for len(batch) < batchLimit {
		select {
		case j := <-s.queue:
			batch = append(batch, j)
		default:
			return batch
		}
	}
	return batch
}

// commit runs a batch in one transaction and answers each of its jobs.
func (s *sqlite) commit(w *writeConn, batch []*job) {
	err := w.run(batch)
	for _, j := range batch {
		if j.err == nil {
			j.err = err
		}
		close(j.done)
		if j.err == nil {
			j.tx.happen(s.hub)
		}
	}
}

// writeConn is the writer's connection with its prepared statements. Only the
// writer's goroutine uses it.
type writeConn struct {
	pool *sql.DB
	conn *sql.Conn
	stmt *statements
}

func (w *writeConn) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// run executes the jobs in one transaction, each in a savepoint so that it can
// fail alone. The error returned is that of the transaction as a whole.
func (w *writeConn) run(batch []*job) (err error) {
	ctx := context.Background()
	if w.conn == nil {
		if w.conn, err = w.pool.Conn(ctx); err != nil {
			return err
		}
		w.stmt = newStatements()
	}
	defer func() {
		if err != nil {
			_ = w.exec(ctx, "ROLLBACK")
			w.close()
		}
	}()
	if err := w.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for _, j := range batch {
		if err := w.runOne(ctx, j); err != nil {
			return err
		}
	}
	return w.exec(ctx, "COMMIT")
}

func (w *writeConn) runOne(ctx context.Context, j *job) error {
	if j.err = j.ctx.Err(); j.err != nil {
		return nil
	}
	if err := w.exec(ctx, "SAVEPOINT job"); err != nil {
		return err
	}
	j.tx = &sqliteTx{prepare: w.prepare, row: w.conn.QueryRowContext, detach: true}
	if j.err = protect(j.fn, j.tx); j.err != nil {
		if err := w.exec(ctx, "ROLLBACK TO job"); err != nil {
			return err
		}
	}
	return w.exec(ctx, "RELEASE job")
}

// protect turns a panic into an error: it must not take the other jobs of the
// batch, or the writer, with it.
func protect(fn func(Tx) error, tx Tx) (err error) {
	defer func() {
		if r := recover(); r != nil {
			stack := make([]byte, 4096)
			err = fmt.Errorf("panic in a transaction: %v\n%s", r, stack[:runtime.Stack(stack, false)])
		}
	}()
	return fn(tx)
}

func (w *writeConn) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	return w.stmt.get(query, func() (*sql.Stmt, error) { return w.conn.PrepareContext(ctx, query) })
}

func (w *writeConn) exec(ctx context.Context, query string) error {
	stmt, err := w.prepare(ctx, query)
	if err != nil {
		return err
	}
	_, err = stmt.ExecContext(ctx)
	return err
}

// sqliteTx is a transaction over prepared statements.
type sqliteTx struct {
	effects
	prepare func(ctx context.Context, query string) (*sql.Stmt, error)
	row     func(ctx context.Context, query string, args ...any) *sql.Row
	// detach ignores the caller's cancellation: SQLite answers an interrupt in
	// the middle of a write by rolling back the whole transaction, and with it
	// the other jobs of the batch.
	detach bool
}

func (t *sqliteTx) context(ctx context.Context) context.Context {
	if t.detach {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func (t *sqliteTx) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	ctx = t.context(ctx)
	stmt, err := t.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(ctx, args...)
}

func (t *sqliteTx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	ctx = t.context(ctx)
	stmt, err := t.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args...)
}

func (t *sqliteTx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	ctx = t.context(ctx)
	stmt, err := t.prepare(ctx, query)
	if err != nil {
		return t.row(ctx, query, args...) // fails in the same way, as a row
	}
	return stmt.QueryRowContext(ctx, args...)
}

func (t *sqliteTx) ForUpdate() string  { return "" }
func (t *sqliteTx) SkipLocked() string { return "" }

// statements caches prepared statements by their text. The texts are constants
// of the program, so it stays small.
type statements struct {
	mu    sync.Mutex
	known map[string]*sql.Stmt // guarded by mu
}

func newStatements() *statements { return &statements{known: map[string]*sql.Stmt{}} }

func (s *statements) get(query string, prepare func() (*sql.Stmt, error)) (*sql.Stmt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stmt, ok := s.known[query]; ok {
		return stmt, nil
	}
	stmt, err := prepare()
	if err != nil {
		return nil, err
	}
	s.known[query] = stmt
	return stmt, nil
}
