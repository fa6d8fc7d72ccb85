package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
)

// parking measures stopping a sandbox where it is and having it go on.
func parking(ctx context.Context, cfg Config) (Table, error) {
	table := Table{Title: "Stopping a sandbox and going on", Header: []string{"engine", "holding", "pause ms", "resume ms", "checkpoint ms", "restore → first command ms", "image MiB"},
		Notes: "Medians. A checkpoint ends the sandbox and leaves its image on disk; restoring starts another from there. The namespace engine cannot."}
	for _, e := range engines(cfg) {
		for _, load := range []struct{ name, script string }{
			{"a shell", ":"},
			{"50 MiB in a variable and 50 MiB of scratch files", "held=$(head -c 50M /dev/zero | tr '\\0' x); head -c 50M /dev/urandom >/tmp/held"},
		} {
			cfg.say("  %s, holding %s", e.name, load.name)
			row, err := park(ctx, cfg, e.make, load.script)
			if err != nil {
				return table, fmt.Errorf("%s: %w", e.name, err)
			}
			table.Rows = append(table.Rows, append([]string{e.name, load.name}, row...))
		}
	}
	return table, nil
}

// park measures with one sandbox after the other, each with what script makes.
func park(ctx context.Context, cfg Config, make func(string) sandbox.Engine, script string) ([]string, error) {
	dir, err := os.MkdirTemp("", "hearth-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	engine := make(dir)
	var pause, resume, checkpoint, restore sample
	var image int64
	for n := range cfg.times(10) {
		spec := sandbox.Spec{ID: newID(), Workdir: filepath.Join(dir, fmt.Sprint("work", n))}
		s, err := engine.Create(ctx, spec)
		if err == nil {
			err = bash(ctx, s, script)
		}
		for _, step := range []struct {
			do   func(context.Context) error
			into *sample
		}{{s.Pause, &pause}, {s.Resume, &resume}} {
			if err == nil {
				err = measure(step.into, func() error { return step.do(ctx) })
			}
		}
		parker, ok := engine.(sandbox.Parker)
		if ok && err == nil {
			s, image, err = roundTrip(ctx, parker, s, spec, filepath.Join(dir, fmt.Sprint("image", n)), &checkpoint, &restore)
		}
		if s != nil {
			err = errors.Join(err, s.Destroy(context.WithoutCancel(ctx)))
		}
		if errors.Is(err, cgroup.ErrCannotFreeze) {
			return []string{"", "", "", "", ""}, nil
		}
		if err != nil {
			return nil, err
		}
	}
	row := []string{ms(pause.at(0.5)), ms(resume.at(0.5)), "", "", ""}
	if len(restore) > 0 {
		row = append(row[:2], ms(checkpoint.at(0.5)), ms(restore.at(0.5)), fmt.Sprintf("%.1f", float64(image)/(1<<20)))
	}
	return row, nil
}

// roundTrip puts a sandbox on disk and brings it back.
func roundTrip(ctx context.Context, engine sandbox.Parker, s sandbox.Sandbox, spec sandbox.Spec, image string, checkpoint, restore *sample) (sandbox.Sandbox, int64, error) {
	if err := measure(checkpoint, func() error { return s.(sandbox.Checkpointer).Checkpoint(ctx, image) }); err != nil {
		return s, 0, err
	}
	var size int64
	err := filepath.WalkDir(image, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	var restored sandbox.Sandbox
	err = measure(restore, func() (err error) {
		if restored, err = engine.Restore(ctx, spec, image); err != nil {
			return err
		}
		return bash(ctx, restored, "true")
	})
	return restored, size, errors.Join(err, os.RemoveAll(image))
}

func measure(into *sample, do func() error) error {
	began := time.Now()
	err := do()
	*into = append(*into, time.Since(began))
	return err
}
