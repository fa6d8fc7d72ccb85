package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
	"hearth/internal/hands/sandbox/gvisor"
	"hearth/internal/hands/sandbox/namespace"
	"hearth/internal/hands/sandbox/pool"
)

// contestant makes sandboxes of one kind.
type contestant struct {
	name string
	// run makes one, runs a first command in it, and returns what removes it.
	run func(context.Context) (remove func() error, err error)
	// rest, if set, is called between runs until the contestant is as it was.
	rest func(context.Context) error
	// burst says that it is made for runs all at once, and for nothing else.
	burst bool
	// close ends the contestant.
	close func()
}

// engine makes one of ours.
type engine struct {
	name string
	make func(stateDir string) sandbox.Engine
}

// engines are ours.
func engines(cfg Config) []engine {
	log := slog.New(slog.DiscardHandler)
	return []engine{
		{"namespace", func(dir string) sandbox.Engine {
			return namespace.New(namespace.Config{StateDir: dir, Groups: groups(), Hand: cfg.Hand, Log: log})
		}},
		{"gvisor", func(dir string) sandbox.Engine {
			return gvisor.New(gvisor.Config{StateDir: dir, Groups: groups(), Hand: cfg.Hand, Log: log})
		}},
	}
}

// groups is where control groups are made, as for a worker.
var groups = sync.OnceValue(func() *cgroup.Tree {
	groups, _ := cgroup.Find() // limits are not what is measured
	return groups
})

// poolSize is how many sandboxes the pools under measurement keep, and burst how
// many are asked for at once.
const (
	poolSize = 4
	burst    = 100
)

// sandboxes measures how long it takes from asking for a sandbox to the end of
// the first command in it, in the three ways of the public comparisons.
func sandboxes(ctx context.Context, cfg Config) (Table, error) {
	table := Table{Title: "Create → first command done (`true`)", Header: []string{"sandbox", "how", "n", "succeeded", "p50 ms", "p95 ms", "p99 ms"},
		Notes: fmt.Sprintf("One after the other; one each 200 ms; all at once. Ours run the command in a persistent bash through the hand, the others are commands that make, run and (but for docker) remove. A pool keeps %d, and is full again before each of the first, and when the others begin; one keeps as many as there will be at once.", poolSize)}
	contestants, err := enter(ctx, cfg)
	for _, c := range contestants {
		if err == nil {
			err = compete(ctx, cfg, c, &table)
		}
		c.close()
	}
	return table, err
}

// compete has a contestant run in each of the ways.
func compete(ctx context.Context, cfg Config, c contestant, table *Table) error {
	for _, way := range []struct {
		name  string
		n     int
		drive func(context.Context, contestant, int) (sample, error)
	}{{"in turn", cfg.times(100), inTurn}, {"every 200 ms", cfg.times(100), staggered}, {"at once", cfg.times(burst), atOnce}} {
		if c.burst && way.name != "at once" {
			continue
		}
		cfg.say("  %s, %s", c.name, way.name)
		took, err := way.drive(ctx, c, way.n)
		if len(took) == 0 {
			return fmt.Errorf("%s, %s: none succeeded: %w", c.name, way.name, err)
		}
		if way.name == "in turn" {
			table.Bars = append(table.Bars, bar{c.name, took.at(0.5)})
		}
		table.Rows = append(table.Rows, []string{c.name, way.name, fmt.Sprint(way.n), fmt.Sprint(len(took)), ms(took.at(0.5)), ms(took.at(0.95)), ms(took.at(0.99))})
	}
	return nil
}

// enter brings the contestants that can run here.
func enter(ctx context.Context, cfg Config) ([]contestant, error) {
	var all []contestant
	for _, e := range engines(cfg) {
		if err := e.make("").Check(ctx); err != nil {
			cfg.say("  without %s: %v", e.name, err)
			continue
		}
		ahead := func(size int) func(string, sandbox.Engine, string) contestant {
			return func(name string, engine sandbox.Engine, dir string) contestant {
				return pooled(name, engine, dir, size)
			}
		}
		for _, enlist := range []func(string, sandbox.Engine, string) contestant{cold, ahead(poolSize), ahead(cfg.times(burst))} {
			dir, err := os.MkdirTemp("", "hearth-bench-")
			if err != nil {
				return all, err
			}
			if err := os.Chmod(dir, 0o711); err != nil {
				return all, err
			}
			all = append(all, enlist(e.name, e.make(dir), dir))
		}
	}
	return append(all, peers(ctx, cfg)...), nil
}

func cold(name string, engine sandbox.Engine, dir string) contestant {
	return contestant{name: "hearth " + name, close: func() { os.RemoveAll(dir) }, run: func(ctx context.Context) (func() error, error) {
		return first(ctx, engine, dir)
	}}
}

func pooled(name string, engine sandbox.Engine, dir string, size int) contestant {
	p := pool.New(pool.Config{Engine: engine, Size: size, Dir: filepath.Join(dir, "pool"), Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	fill := sync.OnceFunc(func() { running.Go(func() { p.Run(ctx) }) }) // not while others are measured
	return contestant{
		name: fmt.Sprintf("hearth %s, pool of %d", name, size), burst: size > poolSize,
		run: func(ctx context.Context) (func() error, error) { return first(ctx, p, dir) },
		rest: func(ctx context.Context) error {
			fill()
			return eventually(ctx, "the pool is full", func() (bool, error) { return p.Ready() == size, nil })
		},
		close: func() { stop(); running.Wait(); os.RemoveAll(dir) },
	}
}

// first makes a sandbox and runs a first command in it.
func first(ctx context.Context, engine sandbox.Engine, dir string) (remove func() error, err error) {
	id := newID()
	place := filepath.Join(dir, "sessions", id)
	spec := sandbox.Spec{ID: id, Workdir: filepath.Join(place, "work"), Mnt: filepath.Join(place, "mnt")}
	// The directories are there, as a worker's are.
	if err := errors.Join(os.MkdirAll(place, 0o711), os.Mkdir(spec.Workdir, 0o755), os.Mkdir(spec.Mnt, 0o755)); err != nil {
		return nil, err
	}
	s, err := engine.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	remove = func() error { return errors.Join(s.Destroy(context.WithoutCancel(ctx)), os.RemoveAll(place)) }
	if err := bash(ctx, s, "true"); err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

func newID() string { return strings.ToLower(rand.Text()) }

func bash(ctx context.Context, s sandbox.Sandbox, command string) error {
	input, err := json.Marshal(map[string]any{"command": command, "timeout_ms": patience.Milliseconds()})
	if err != nil {
		return err
	}
	r, err := s.Call(ctx, hand.Call{ID: rand.Text(), Tool: "bash", Input: input})
	if err == nil && r.IsError {
		err = fmt.Errorf("%s: %s", command, r.Text)
	}
	return err
}

// timed runs a contestant once.
func timed(ctx context.Context, c contestant) (took time.Duration, remove func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	remove, err = c.run(ctx)
	return time.Since(began), remove, err
}

func inTurn(ctx context.Context, c contestant, n int) (sample, error) {
	var all sample
	var failed error
	for range n {
		if c.rest != nil {
			if err := c.rest(ctx); err != nil {
				return all, err
			}
		}
		took, remove, err := timed(ctx, c)
		if err != nil {
			failed = err
			continue
		}
		all = append(all, took)
		if err := remove(); err != nil {
			return all, err
		}
	}
	return all, failed
}

func staggered(ctx context.Context, c contestant, n int) (sample, error) {
	if c.rest != nil {
		if err := c.rest(ctx); err != nil {
			return nil, err
		}
	}
	return together(ctx, c, n, 200*time.Millisecond)
}

func atOnce(ctx context.Context, c contestant, n int) (sample, error) {
	if c.rest != nil {
		if err := c.rest(ctx); err != nil {
			return nil, err
		}
	}
	return together(ctx, c, n, 0)
}

// together starts n runs, each so long after the one before, and removes what
// they made when the last has ended.
func together(ctx context.Context, c contestant, n int, after time.Duration) (sample, error) {
	var (
		runs    sync.WaitGroup
		mu      sync.Mutex
		all     sample         // guarded by mu
		removes []func() error // guarded by mu
		failed  error          // guarded by mu
	)
	for range n {
		runs.Go(func() {
			took, remove, err := timed(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				return
			}
			all, removes = append(all, took), append(removes, remove)
		})
		time.Sleep(after)
	}
	runs.Wait()
	for _, remove := range removes {
		failed = errors.Join(failed, remove())
	}
	return all, failed
}
