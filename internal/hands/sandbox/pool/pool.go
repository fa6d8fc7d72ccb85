// Package pool keeps a few sandboxes of an engine started before anybody asks,
// so that a session gets one at once. A Pool is an engine itself, in the place
// of the one it draws from. It owns the blank sandboxes and their working
// directories, and may call sandbox and hand.
package pool

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
)

// Config of a Pool.
type Config struct {
	// Engine makes the sandboxes. Required.
	Engine sandbox.Engine
	// Size is how many blank sandboxes to keep. Required.
	Size int
	// Dir holds the blank sandboxes' working directories. It must be on the file
	// system of the sessions' own. Required.
	Dir string
	// Limits, Root and Env are those of the sandboxes; one that is to have others
	// is made when it is asked for.
	Limits sandbox.Limits
	Root   string
	Env    map[string]string
	// Log. Default slog.Default().
	Log *slog.Logger
}

// Pool implements sandbox.Engine.
type Pool struct {
	sandbox.Engine
	cfg    Config
	blanks chan blank
	taken  chan struct{} // told when a blank is gone
}

// blank is a sandbox that nobody has used.
type blank struct {
	sandbox.Sandbox
	home, workdir, mnt string // the first holds the others
}

// New makes a pool, which is empty until Run.
func New(cfg Config) *Pool {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Pool{Engine: cfg.Engine, cfg: cfg, blanks: make(chan blank, cfg.Size), taken: make(chan struct{}, 1)}
}

const (
	// calm is how long nobody must have taken a sandbox before another is made:
	// whoever asked needs the processors more.
	calm = 100 * time.Millisecond
	// retry is the pause after a sandbox could not be made.
	retry = 10 * time.Second
)

// Run keeps the pool filled until ctx ends, and then destroys what is in it. A
// pool that cannot be filled is an empty one.
func (p *Pool) Run(ctx context.Context) {
	home, err := p.settleIn()
	if err != nil {
		p.cfg.Log.Warn("no sandboxes are started ahead of their sessions", "error", err)
		return
	}
	defer home.Close()
	defer os.Remove(home.Name())
	defer p.drain()
	for ctx.Err() == nil {
		if len(p.blanks) == cap(p.blanks) {
			select {
			case <-ctx.Done():
				return
			case <-p.taken: // perhaps one that has been replaced already
			}
			p.settle(ctx)
			continue
		}
		b, err := p.make(ctx, home.Name())
		if err != nil {
			if ctx.Err() == nil {
				p.cfg.Log.Warn("could not start a sandbox ahead of its session", "error", err, "next_try_in", retry)
			}
			wait(ctx, retry)
			continue
		}
		if b.Workdir() != sandbox.GuestWorkdir {
			p.cfg.Log.Debug("sandboxes that have no file system of their own are not started ahead: they could not be moved")
			p.discard(b)
			return
		}
		p.cfg.Log.Debug("started a sandbox ahead of its session", "sandbox", b.ID())
		p.blanks <- b // there is room: only Run adds
	}
}

// Ready is how many sandboxes are there to be taken.
func (p *Pool) Ready() int { return len(p.blanks) }

// settle waits until nobody has taken a sandbox for a while.
func (p *Pool) settle(ctx context.Context) {
	for {
		select {
		case <-p.taken:
		case <-time.After(calm):
			return
		case <-ctx.Done():
			return
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// settleIn makes a directory for this life of the pool, and removes those that
// earlier lives have left; their sandboxes are for the worker to reap, as any
// others. A directory is in use while it is locked.
func (p *Pool) settleIn() (home *os.File, err error) {
	if err := os.MkdirAll(p.cfg.Dir, 0o711); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(p.cfg.Dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		old, err := lock(filepath.Join(p.cfg.Dir, entry.Name()))
		if err != nil {
			continue // another worker's
		}
		// Nothing of worth is in it, and what cannot be removed is tried again.
		_ = os.RemoveAll(old.Name())
		old.Close()
	}
	for {
		dir := filepath.Join(p.cfg.Dir, strings.ToLower(rand.Text()))
		if err := os.Mkdir(dir, 0o711); err != nil {
			return nil, err
		}
		home, err := lock(dir)
		if err == nil {
			return home, nil
		}
		// Another worker that settles in took it for an old one.
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
	}
}

// lock locks a directory that still is where it was once it is locked.
func lock(path string) (*os.File, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

func (p *Pool) make(ctx context.Context, home string) (blank, error) {
	id := strings.ToLower(rand.Text())
	b := blank{home: filepath.Join(home, id), workdir: filepath.Join(home, id, "work"), mnt: filepath.Join(home, id, "mnt")}
	for _, dir := range []string{b.home, b.workdir, b.mnt} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return blank{}, err
		}
	}
	var err error
	b.Sandbox, err = p.Engine.Create(ctx, sandbox.Spec{ID: id, Workdir: b.workdir, Mnt: b.mnt, Root: p.cfg.Root, Limits: p.cfg.Limits, Env: p.cfg.Env, Labels: map[string]string{"blank": "true"}})
	if err != nil {
		return blank{}, errors.Join(err, os.RemoveAll(b.home))
	}
	// Everything takes longest the first time, and nobody waits for it here.
	if _, err := b.Call(ctx, hand.Call{ID: "first", Tool: "bash", Input: json.RawMessage(`{"command":":"}`), Timeout: primeTimeout}); err != nil {
		return blank{}, errors.Join(err, b.Destroy(context.WithoutCancel(ctx)), os.RemoveAll(b.home))
	}
	return b, nil
}

// primeTimeout bounds the first call of a sandbox.
const primeTimeout = 10 * time.Second

// Create implements sandbox.Engine: it hands out a blank sandbox, under its own
// id, if there is one that fits; else it has one made.
func (p *Pool) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	for p.fits(spec) {
		var b blank
		select {
		case b = <-p.blanks:
		default:
			return p.Engine.Create(ctx, spec)
		}
		select {
		case p.taken <- struct{}{}:
		default: // it has been told already
		}
		err := p.give(ctx, b, spec)
		if err == nil {
			p.cfg.Log.Debug("gave a sandbox that was started ahead", "sandbox", b.ID(), "labels", spec.Labels)
			return b.Sandbox, nil
		}
		p.cfg.Log.Debug("a sandbox started ahead was of no use", "sandbox", b.ID(), "error", err)
		p.discard(b)
	}
	return p.Engine.Create(ctx, spec)
}

// fits tells whether a blank sandbox could become the one asked for: it has no
// files yet and nothing of its own.
func (p *Pool) fits(spec sandbox.Spec) bool {
	if spec.Held || spec.Limits != p.cfg.Limits || spec.Root != p.cfg.Root || !maps.Equal(spec.Env, p.cfg.Env) {
		return false
	}
	return empty(spec.Workdir) && (spec.Mnt == "" || empty(spec.Mnt))
}

func empty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return len(entries) == 0 && (err == nil || errors.Is(err, fs.ErrNotExist))
}

// give makes a blank sandbox the one asked for. Its directories take their
// places by being renamed, which those who have them open do not notice; ones that
// are there are replaced, if they are empty, which os.Rename refuses.
func (p *Pool) give(ctx context.Context, b blank, spec sandbox.Spec) error {
	select {
	case <-b.Done():
		return errors.New("it has died")
	default:
	}
	err := unix.Rename(b.workdir, spec.Workdir)
	if err == nil && spec.Mnt != "" {
		err = unix.Rename(b.mnt, spec.Mnt)
	}
	if err != nil {
		return fmt.Errorf("give it the session's directories: %w", err)
	}
	_ = os.Remove(b.home) // what is left of it goes with the pool
	return p.Engine.Label(ctx, b.ID(), spec.Labels)
}

func (p *Pool) discard(b blank) {
	if err := errors.Join(b.Destroy(context.Background()), os.RemoveAll(b.home)); err != nil {
		p.cfg.Log.Warn("could not remove a sandbox that nobody used", "sandbox", b.ID(), "error", err)
	}
}

func (p *Pool) drain() {
	for {
		select {
		case b := <-p.blanks:
			p.discard(b)
		default:
			return
		}
	}
}
