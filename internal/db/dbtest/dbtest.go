// Package dbtest gives tests real databases: SQLite in a temporary directory,
// and Postgres in a private cluster that lives as long as the test binary.
package dbtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"hearth/internal/db"
)

// Each runs the test once on each database.
func Each(t *testing.T, test func(t *testing.T, d *db.DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, OpenSQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, OpenPostgres(t)) })
}

// Template is a database that was prepared once, and that tests get copies of:
// to make all tables anew for each of them takes longer than many a test.
type Template struct {
	prepare  func(tb testing.TB, d *db.DB)
	sqlite   once[[]byte] // the file
	postgres once[string] // the database's name in the cluster
}

// NewTemplate makes a template of what prepare does to an empty database. What it
// needs besides must not outlast the test it is called for.
func NewTemplate(prepare func(tb testing.TB, d *db.DB)) *Template { return &Template{prepare: prepare} }

// Each runs the test once on a copy of each database.
func (m *Template) Each(t *testing.T, test func(t *testing.T, d *db.DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, m.openSQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, Open(t, m.PostgresURL(t))) })
}

func (m *Template) openSQLite(tb testing.TB) *db.DB {
	tb.Helper()
	file := m.sqlite.get(tb, func() []byte {
		path := filepath.Join(tb.TempDir(), "template.db")
		m.fill(tb, "sqlite://"+path)
		file, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		return file
	})
	path := filepath.Join(tb.TempDir(), "hearth.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		tb.Fatal(err)
	}
	return Open(tb, "sqlite://"+path)
}

// PostgresURL is that of a copy, as the function of that name.
func (m *Template) PostgresURL(tb testing.TB) string {
	tb.Helper()
	running(tb)
	name := m.postgres.get(tb, func() string {
		name := newDatabase(tb, "template0")
		m.fill(tb, cluster().url(name))
		return name
	})
	return cluster().url(newDatabase(tb, name))
}

// fill prepares the database at url and closes it.
func (m *Template) fill(tb testing.TB, url string) {
	tb.Helper()
	d, err := db.Open(tb.Context(), db.Config{URL: url})
	if err != nil {
		tb.Fatal(err)
	}
	m.prepare(tb, d)
	if err := d.Close(); err != nil {
		tb.Fatal(err)
	}
}

// once makes a value once. Should that fail, it has failed for all who ask.
type once[T any] struct {
	sync.Once
	made  bool
	value T
}

func (o *once[T]) get(tb testing.TB, make func() T) T {
	tb.Helper()
	o.Do(func() { o.value, o.made = make(), true })
	if !o.made {
		tb.Fatal("the template could not be made; another test says why")
	}
	return o.value
}

// SQLiteURL names a new SQLite database.
func SQLiteURL(tb testing.TB) string {
	return "sqlite://" + filepath.Join(tb.TempDir(), "hearth.db")
}

// OpenSQLite opens a new SQLite database, closed with the test.
func OpenSQLite(tb testing.TB) *db.DB { return Open(tb, SQLiteURL(tb)) }

// OpenPostgres opens a new database in the cluster, closed with the test.
func OpenPostgres(tb testing.TB) *db.DB { return Open(tb, PostgresURL(tb)) }

// Open opens the database at url, closed with the test.
func Open(tb testing.TB, url string) *db.DB {
	tb.Helper()
	d, err := db.Open(tb.Context(), db.Config{URL: url})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Errorf("close the database: %v", err)
		}
	})
	return d
}

// PostgresURL makes a new database in the cluster and returns its URL; it
// skips the test, saying why, where there is no Postgres.
func PostgresURL(tb testing.TB) string {
	tb.Helper()
	running(tb)
	return cluster().url(newDatabase(tb, "template0"))
}

// running skips the test where there is no Postgres.
func running(tb testing.TB) {
	tb.Helper()
	switch c := cluster(); {
	case c.missing != "":
		tb.Skip(c.missing)
	case c.err != nil:
		tb.Fatalf("start Postgres: %v", c.err)
	}
}

// newDatabase makes a copy of a database that nobody is connected to.
func newDatabase(tb testing.TB, of string) (name string) {
	tb.Helper()
	name = fmt.Sprintf("test_%d_%d", os.Getpid(), databases.Add(1))
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, cluster().url("postgres"))
	if err != nil {
		tb.Fatalf("connect to Postgres: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+of); err != nil {
		tb.Fatalf("create a database: %v", err)
	}
	return name
}

var databases atomic.Int64

// postgres is a running cluster, or why there is none.
type postgres struct {
	dir, port string
	alive     io.Closer // its end ends the cluster; held so that it is not collected
	missing   string
	err       error
}

// cluster starts the cluster when it is first needed. It dies with this process.
var cluster = sync.OnceValue(func() *postgres {
	bin := findServer()
	if bin == "" {
		return &postgres{missing: "no Postgres server here (apt-get install postgresql): not tested on Postgres"}
	}
	c := &postgres{port: "5432"}
	c.err = c.start(bin)
	return c
})

func findServer() string {
	if path, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			if _, err := os.Stat(filepath.Join(filepath.Dir(real), "postgres")); err == nil {
				return filepath.Dir(real)
			}
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // a constant pattern is well-formed
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[len(found)-1])
}

func (c *postgres) url(database string) string {
	return "postgres://postgres@/" + database + "?host=" + c.dir + "&port=" + c.port + "&sslmode=disable"
}

func (c *postgres) start(bin string) error {
	dir, err := os.MkdirTemp("", "hearth-pg-")
	if err != nil {
		return err
	}
	c.dir = dir
	as, err := unprivileged(dir)
	if err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.SysProcAttr = as
	initdb.Dir = dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	// The shell outlives this process just long enough to clear up: it waits
	// for the end of its standard input, which even kill -9 brings.
	script := `"$0"/postgres -D "$1"/data -k "$1" -p "$2" -c listen_addresses= -c fsync=off -c full_page_writes=off -c max_connections=200 -c shared_buffers=64MB >"$1"/log 2>&1 &
pid=$!; read -r _; kill -QUIT $pid; wait $pid; rm -rf "$1"`
	server := exec.Command("/bin/sh", "-c", script, bin, dir, c.port)
	server.SysProcAttr = as
	server.Dir = dir
	if c.alive, err = server.StdinPipe(); err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	return c.await()
}

// await waits until the cluster takes connections.
func (c *postgres) await() error {
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var conn *pgx.Conn
		if conn, err = pgx.Connect(context.Background(), c.url("postgres")); err == nil {
			return conn.Close(context.Background())
		}
	}
	log, _ := os.ReadFile(filepath.Join(c.dir, "log"))
	return fmt.Errorf("%w\n%s", err, log)
}

// unprivileged lets Postgres, which refuses to run as root, run as somebody
// else who owns dir.
func unprivileged(dir string) (*syscall.SysProcAttr, error) {
	if os.Getuid() != 0 {
		return &syscall.SysProcAttr{Setsid: true}, nil
	}
	owner, err := user.Lookup("postgres")
	if err != nil {
		if owner, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.Atoi(owner.Gid)
	if err != nil {
		return nil, err
	}
	credential := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return &syscall.SysProcAttr{Setsid: true, Credential: credential}, os.Chown(dir, uid, gid)
}
