package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ociRuntime is a program that runs containers from the command line, as the
// standard of the Open Container Initiative has it.
type ociRuntime struct {
	program string
	flags   []string
}

func runc(context.Context) (ociRuntime, error) { return ociRuntime{program: "runc"}, nil }

// runsc is gVisor by itself, set as Hearth sets it. One that is built from the
// module, and not installed with its helpers, wants to be told to do without.
func runsc(ctx context.Context) (ociRuntime, error) {
	known, err := exec.CommandContext(ctx, "runsc", "flags").CombinedOutput()
	r := ociRuntime{"runsc", []string{"--platform=systrap", "--network=none", "--ignore-cgroups"}}
	if strings.Contains(string(known), "sidecar-usage-policy") {
		r.flags = append(r.flags, "--sidecar-usage-policy=LEGACY_DEPRECATED_SLOW_EMBEDDED_FALLBACK")
	}
	return r, err
}

// containers are those of one runtime, all alike, in a directory of their own.
type containers struct {
	ociRuntime
	dir string
}

// newContainers makes what containers of a command in a root need.
func (r ociRuntime) newContainers(ctx context.Context, root string, args ...string) (c containers, err error) {
	dir, err := os.MkdirTemp("", "hearth-bench-"+r.program+"-")
	if err != nil {
		return containers{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := command(ctx, nil, r.program, "spec", "--bundle", dir); err != nil {
		return containers{}, err
	}
	path := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return containers{}, err
	}
	var spec map[string]any
	if err := json.Unmarshal(raw, &spec); err != nil {
		return containers{}, err
	}
	spec["root"] = map[string]any{"path": root, "readonly": true}
	process, ok := spec["process"].(map[string]any)
	if !ok {
		return containers{}, fmt.Errorf("%s makes a description without a process", r.program)
	}
	process["args"], process["terminal"] = args, false
	delete(process, "rlimits") // to raise them takes a right that containers lack
	if raw, err = json.Marshal(spec); err != nil {
		return containers{}, err
	}
	return containers{r, dir}, os.WriteFile(path, raw, 0o644)
}

// do has the runtime do something.
func (c containers) do(ctx context.Context, what string, args ...string) error {
	return command(ctx, nil, c.program, c.args(what, args...)...)
}

func (c containers) args(what string, args ...string) []string {
	return slices.Concat([]string{"--root", filepath.Join(c.dir, "state")}, c.flags, []string{what}, args)
}

// start starts a container that goes on, and returns what ends it.
func (c containers) start(ctx context.Context) (id string, end func() error, err error) {
	id = "bench-" + newID()
	// Its output is nowhere, for the container would hold a pipe open.
	if err := exec.CommandContext(ctx, c.program, c.args("run", "--detach", "--bundle", c.dir, id)...).Run(); err != nil {
		return "", nil, fmt.Errorf("%s run --detach: %w", c.program, err)
	}
	return id, func() error { return c.do(context.WithoutCancel(ctx), "delete", "--force", id) }, nil
}

// remove removes what is left when no container is.
func (c containers) remove() error {
	// gVisor keeps a network namespace without a network for all its guests.
	err := unix.Unmount(filepath.Join(c.dir, "state", "null-netns"), unix.MNT_DETACH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

// once is a contestant that makes a container for a command and removes it.
func once(make func(context.Context) (ociRuntime, error)) func(context.Context, string) (contestant, error) {
	return func(ctx context.Context, root string) (contestant, error) {
		r, err := make(ctx)
		if err != nil {
			return contestant{}, err
		}
		c, err := r.newContainers(ctx, root, "/bin/true")
		if err != nil {
			return contestant{}, err
		}
		return contestant{name: r.program + " run", close: func() { _ = c.remove() }, run: func(ctx context.Context) (func() error, error) {
			return nothing, c.do(ctx, "run", "--bundle", c.dir, "bench-"+newID())
		}}, nil
	}
}

// inContainers measures what of inSandbox the runtimes here can be asked for: a
// command in a container that is there, and what one that idles takes.
func inContainers(ctx context.Context, cfg Config) (rows [][]string, err error) {
	root, err := smallRoot()
	if err != nil {
		cfg.say("  without containers: %v", err)
		return nil, nil
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	for _, make := range []func(context.Context) (ociRuntime, error){runc, runsc} {
		r, err := make(ctx)
		var row []string
		if err == nil {
			row, err = r.warm(ctx, cfg, root)
		}
		if err != nil {
			cfg.say("  without %s: %v", r.program, err)
			continue
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (r ociRuntime) warm(ctx context.Context, cfg Config, root string) (row []string, err error) {
	c, err := r.newContainers(ctx, root, "/bin/sleep", "1000000")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.remove()) }()
	id, end, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	var calls sample
	for range cfg.times(100) {
		if err := measure(&calls, func() error { return c.do(ctx, "exec", id, "/bin/true") }); err != nil {
			return nil, errors.Join(err, end())
		}
	}
	if err := end(); err != nil {
		return nil, err
	}
	idle, err := idleMemory(func() (func() error, error) {
		_, end, err := c.start(ctx)
		return end, err
	})
	return []string{r.program + " exec", ms(calls.at(0.5)), ms(calls.at(0.99)), "", "", idle}, err
}
