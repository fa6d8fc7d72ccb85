package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/gvisor/keeper"
	"hearth/internal/hands/sandbox/hostroot"
)

// guestSandbox is a running guest.
type guestSandbox struct {
	*sandbox.Child
	control *control
	image   string // the directory its checkpoint is written to
}

// Pause implements sandbox.Sandbox. The guest's own kernel stops: to freeze it
// from outside would surprise it in the middle of what it does for its processes.
func (s *guestSandbox) Pause(ctx context.Context) error { return s.control.ask(ctx, keeper.Pause) }

// Resume implements sandbox.Sandbox.
func (s *guestSandbox) Resume(ctx context.Context) error { return s.control.ask(ctx, keeper.Resume) }

// Destroy implements sandbox.Sandbox.
func (s *guestSandbox) Destroy(ctx context.Context) error {
	s.control.conn.Close()
	return s.Child.Destroy(ctx)
}

// Checkpoint implements sandbox.Checkpointer.
func (s *guestSandbox) Checkpoint(ctx context.Context, dir string) error {
	err := s.Pause(ctx)
	if err == nil {
		err = s.control.ask(ctx, keeper.Checkpoint)
	}
	if err == nil {
		err = os.Rename(s.image, dir)
	}
	destroyed := s.Destroy(context.WithoutCancel(ctx))
	if err != nil {
		return fmt.Errorf("checkpoint sandbox %s: %w", s.ID(), errors.Join(err, destroyed))
	}
	return destroyed
}

// Owner implements sandbox.Parker.
func (e *Engine) Owner(workdir, mnt string) (uid int, err error) {
	if err := os.MkdirAll(string(e.dir), 0o711); err != nil {
		return 0, err
	}
	users, err := hostroot.UsersOf(string(e.dir), workdir, mnt)
	return users.First, err
}

// Restore implements sandbox.Parker.
func (e *Engine) Restore(ctx context.Context, spec sandbox.Spec, dir string) (sandbox.Sandbox, error) {
	image, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(image, "checkpoint.img")); err != nil {
		return nil, fmt.Errorf("restore sandbox %s: %w", spec.ID, err)
	}
	return e.create(ctx, spec, image)
}
