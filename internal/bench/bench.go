// Package bench measures Hearth from outside, side by side with the official Go
// worker on the same server in the same run, and prints what it finds as
// tables. It starts the program it is part of as server and workers, and speaks
// to them by the API only. It owns the figures of docs/benchmarks.md.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Config of a run.
type Config struct {
	// Binary is the program to start: hearth. Required.
	Binary string
	// Hand is the file of the small program that runs in sandboxes. Default: this
	// program's.
	Hand string
	// DatabaseURL of a Postgres to measure as well as SQLite, emptied of
	// nothing. Optional.
	DatabaseURL string
	// Engine of our worker. Default "namespace".
	Engine string
	// Scale multiplies how often each thing is measured. Default 1.
	Scale float64
	// Progress is where the run says what it is doing. Default nowhere.
	Progress io.Writer
}

func (c Config) times(n int) int { return max(2, int(float64(n)*c.Scale)) }

func (c Config) say(format string, args ...any) { fmt.Fprintf(c.Progress, format+"\n", args...) }

// parts are what can be measured, in the order of a whole run.
var parts = []struct {
	name    string
	measure func(context.Context, Config) (Table, error)
}{
	{"claim", claims},
	{"call", calls},
	{"sessions", sessionsPerSecond},
	{"events", eventsPerSecond},
	{"memory", memoryOfSessions},
	{"sandbox", sandboxes},
	{"warm", inSandbox},
	{"park", parking},
}

// Parts names what can be measured.
func Parts() []string {
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	return names
}

// Run measures the named parts (all of them when none is named) and writes a
// table for each. Its error joins those of the parts that failed.
func Run(ctx context.Context, cfg Config, names []string, out io.Writer) error {
	if cfg.Engine == "" {
		cfg.Engine = "namespace"
	}
	if cfg.Scale == 0 {
		cfg.Scale = 1
	}
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	chosen := map[string]bool{}
	for _, name := range names {
		chosen[name] = true
	}
	fmt.Fprintln(out, machine())
	var failed []error
	for _, p := range parts {
		if len(names) > 0 && !chosen[p.name] {
			continue
		}
		cfg.say("measuring: %s", p.name)
		began := time.Now()
		table, err := p.measure(ctx, cfg)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", p.name, err))
			continue
		}
		cfg.say("measured: %s, in %s", p.name, time.Since(began).Round(time.Second))
		fmt.Fprintf(out, "\n%s", table)
	}
	return errors.Join(failed...)
}

// machine says where the figures were taken.
func machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // it cannot fail
	release := strings.TrimRight(string(u.Release[:]), "\x00")
	model := "unknown processor"
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(raw)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("Taken %s: %d × %s, Linux %s, %s.", time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), model, release, runtime.Version())
}
