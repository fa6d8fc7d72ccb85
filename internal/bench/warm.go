package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hearth/internal/hands/sandbox"
)

// inSandbox measures what happens in a sandbox that is there.
func inSandbox(ctx context.Context, cfg Config) (Table, error) {
	table := Table{Title: "In a sandbox that is there", Header: []string{"sandbox", "call p50 ms", "call p99 ms", "unpack 5,000 files s", "grep them s", "idle MiB each"},
		Notes: "A call is `bash` with `:`, and for the others a command that starts `true` in a container which sleeps. The files are unpacked with tar and searched with grep -r in the working directory, beside the same on the host. Idle memory is what the machine has less of with 50 sandboxes more."}
	host, err := filesOnHost(ctx)
	if err != nil {
		return table, err
	}
	table.Rows = append(table.Rows, append([]string{"(the host)", "", ""}, append(host, "")...))
	for _, e := range engines(cfg) {
		row, err := warm(ctx, cfg, e.make)
		if err != nil {
			cfg.say("  without %s: %v", e.name, err)
			continue
		}
		table.Rows = append(table.Rows, append([]string{"hearth " + e.name}, row...))
	}
	containers, err := inContainers(ctx, cfg)
	table.Rows = append(table.Rows, containers...)
	return table, err
}

func warm(ctx context.Context, cfg Config, make func(string) sandbox.Engine) (row []string, err error) {
	dir, err := os.MkdirTemp("", "hearth-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	engine := make(dir)
	if err := engine.Check(ctx); err != nil {
		return nil, err
	}
	work := filepath.Join(dir, "work")
	s, err := engine.Create(ctx, sandbox.Spec{ID: newID(), Workdir: work})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Destroy(context.WithoutCancel(ctx))) }()
	var calls sample
	for range cfg.times(300) {
		if err := measure(&calls, func() error { return bash(ctx, s, ":") }); err != nil {
			return nil, err
		}
	}
	files, err := fileWork(func(script string) error { return bash(ctx, s, script) })
	if err != nil {
		return nil, err
	}
	idle, err := idleMemory(func() (func() error, error) {
		id := newID()
		s, err := engine.Create(ctx, sandbox.Spec{ID: id, Workdir: filepath.Join(dir, "idle", id)})
		if err != nil {
			return nil, err
		}
		return func() error { return s.Destroy(context.WithoutCancel(ctx)) }, nil
	})
	return append(append([]string{ms(calls.at(0.5)), ms(calls.at(0.99))}, files...), idle), err
}

// The steps of working with many files, in a directory of their own.
const (
	makeTree = "mkdir -p tree && cd tree && for d in $(seq 50); do mkdir $d; for f in $(seq 100); do echo \"file $f of $d\" >$d/$f; done; done && cd .. && tar cf tree.tar tree && rm -r tree"
	unpack   = "tar xf tree.tar"
	search   = "[ $(grep -r 'file 77 of' tree | wc -l) = 50 ]"
)

func fileWork(run func(script string) error) ([]string, error) {
	if err := run(makeTree); err != nil {
		return nil, err
	}
	var row []string
	for _, script := range []string{unpack, search} {
		began := time.Now()
		if err := run(script); err != nil {
			return nil, err
		}
		row = append(row, fmt.Sprintf("%.2f", time.Since(began).Seconds()))
	}
	return row, nil
}

func filesOnHost(ctx context.Context) ([]string, error) {
	dir, err := os.MkdirTemp("", "hearth-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	return fileWork(func(script string) error {
		cmd := exec.CommandContext(ctx, "/bin/bash", "-c", script)
		cmd.Dir = dir
		return cmd.Run()
	})
}

// idleMemory makes sandboxes, and removes them once what they take is known.
func idleMemory(create func() (remove func() error, err error)) (each string, err error) {
	const n = 50
	before, err := settledMemory()
	if err != nil {
		return "", err
	}
	for range n {
		remove, failed := create()
		if failed != nil {
			return "", failed
		}
		defer func() { err = errors.Join(err, remove()) }()
	}
	time.Sleep(2 * time.Second) // until what was needed to start has been given back
	after, err := settledMemory()
	return fmt.Sprintf("%.1f", (before-after)/1024/n), err
}

// settledMemory is availableMemory once it hardly changes any more, or after ten
// seconds: what ran before gives back late.
func settledMemory() (float64, error) {
	const hardly = 512
	was, err := availableMemory()
	for range 10 {
		time.Sleep(time.Second)
		is, failed := availableMemory()
		if err = errors.Join(err, failed); err != nil || math.Abs(is-was) < hardly {
			return is, err
		}
		was = is
	}
	return was, nil
}

// availableMemory is the kernel's own estimate, in KiB.
func availableMemory() (float64, error) {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}
