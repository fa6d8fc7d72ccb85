package db

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/pressly/goose/v3"
)

// postgres is a pool of connections, and one more that listens.
type postgres struct {
	hub       *hub
	pool      *sql.DB
	announcer *announcer
	stop      context.CancelFunc
	running   sync.WaitGroup // the listener and the announcer
}

const (
	maxConnections = 24
	// writeAttempts bounds how often a write that lost a race is run.
	writeAttempts = 10
)

func openPostgres(ctx context.Context, url string, h *hub, log *slog.Logger) (*postgres, error) {
	pool, err := sql.Open("pgx", url)
	if err != nil {
		return nil, withoutURL(err)
	}
	pool.SetMaxOpenConns(maxConnections)
	pool.SetMaxIdleConns(maxConnections)
	if err := pool.PingContext(ctx); err != nil {
		return nil, errors.Join(withoutURL(err), pool.Close())
	}
	listening, stop := context.WithCancel(context.Background())
	p := &postgres{hub: h, pool: pool, announcer: newAnnouncer(h, pool, log), stop: stop}
	conn, err := p.listen(ctx, url)
	if err != nil {
		stop()
		return nil, errors.Join(withoutURL(err), pool.Close())
	}
	p.running.Go(func() { p.listenLoop(listening, url, conn, log) })
	p.running.Go(func() { p.announcer.run(listening) })
	return p, nil
}

// withoutURL keeps a password in the URL out of what is logged.
func withoutURL(err error) error {
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		return errors.New("the URL cannot be parsed; want postgres://user:password@host:port/database")
	}
	return err
}

func (p *postgres) migrations() (*sql.DB, goose.Dialect) { return p.pool, goose.DialectPostgres }

func (p *postgres) close() error {
	p.stop()
	p.running.Wait()
	return p.pool.Close()
}

func (p *postgres) read(ctx context.Context, fn func(Tx) error) error {
	tx, err := p.pool.BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	return fn(&postgresTx{tx: tx})
}

func (p *postgres) write(ctx context.Context, fn func(Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	for attempt := 1; ; attempt++ {
		err := p.writeOnce(ctx, fn)
		if err == nil || attempt == writeAttempts || !lostRace(err) {
			return err
		}
		time.Sleep(time.Duration(attempt) * time.Millisecond)
	}
}

func (p *postgres) writeOnce(ctx context.Context, fn func(Tx) error) error {
	sqlTx, err := p.pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer sqlTx.Rollback()
	tx := &postgresTx{tx: sqlTx}
	if err := protect(fn, tx); err != nil {
		return err
	}
	if err := sqlTx.Commit(); err != nil {
		return err
	}
	p.announcer.announce(tx.notices...)
	tx.happen(p.hub)
	return nil
}

// lostRace tells whether the transaction may succeed when it is run again.
func lostRace(err error) bool {
	var pg *pgconn.PgError
	// 40001 serialisation failure, 40P01 deadlock.
	return errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01")
}

func (p *postgres) publish(_ context.Context, topic, payload string) error {
	n := notice{topic, payload}
	p.hub.deliver(n)
	p.announcer.announce(n)
	return nil
}

func (p *postgres) listen(ctx context.Context, url string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

// listenLoop delivers what other processes notify, and reconnects for ever.
func (p *postgres) listenLoop(ctx context.Context, url string, conn *pgx.Conn, log *slog.Logger) {
	for {
		err := p.deliverFrom(ctx, conn)
		conn.Close(context.Background())
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
			if ctx.Err() != nil {
				return
			}
			log.Warn("lost the connection that listens to Postgres; reconnecting", "error", withoutURL(err), "next_try_in", wait)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			if conn, err = p.listen(ctx, url); err == nil {
				break
			}
		}
		p.hub.wakeAll()
	}
}

func (p *postgres) deliverFrom(ctx context.Context, conn *pgx.Conn) error {
	for {
		waiting, cancel := context.WithTimeout(ctx, deadAfter/2)
		got, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err == nil:
			p.announcer.hear(got.Payload)
		case ctx.Err() != nil || !pgconn.Timeout(err):
			return err
		}
		p.announcer.missDead()
	}
}

type postgresTx struct {
	effects
	tx *sql.Tx
}

func (t *postgresTx) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return t.tx.ExecContext(ctx, numbered(query), args...)
}

func (t *postgresTx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return t.tx.QueryContext(ctx, numbered(query), args...)
}

func (t *postgresTx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return t.tx.QueryRowContext(ctx, numbered(query), args...)
}

func (t *postgresTx) ForUpdate() string  { return " FOR UPDATE" }
func (t *postgresTx) SkipLocked() string { return " FOR UPDATE SKIP LOCKED" }

// rewritten caches numbered, for the texts are constants of the program.
var rewritten sync.Map

// numbered turns ? placeholders into $1, $2, …, but not inside '…'.
func numbered(query string) string {
	if known, ok := rewritten.Load(query); ok {
		return known.(string)
	}
	var out strings.Builder
	quoted, n := false, 0
	for _, r := range query {
		switch {
		case r == '\'':
			quoted = !quoted
			out.WriteRune(r)
		case r == '?' && !quoted:
			n++
			out.WriteString("$" + strconv.Itoa(n))
		default:
			out.WriteRune(r)
		}
	}
	rewritten.Store(query, out.String())
	return out.String()
}
