package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"hearth/internal/hands/depot"
	"hearth/internal/hands/mount"
	"hearth/internal/hands/sandbox"
)

// Below a session's directory: which state of the depot it is the same as, and
// one that is arriving from there.
const (
	generationFile = "generation"
	arrivingDir    = "arriving"
)

// travels are the parts of a session's directory that go with it to another
// worker.
func (a *activation) travels() []string {
	return append([]string{parkedDir, filepath.Base(a.place.work), filepath.Base(a.place.mnt), filepath.Base(a.place.begun)}, mount.Lists...)
}

// portable tells whether sessions may go on with another worker.
func (a *activation) portable() bool { return a.Depot != nil && a.parker != nil && a.Workdir == "" }

// deposit puts a session that has just been parked where other workers can get
// it.
func (a *activation) deposit(ctx context.Context, program string) error {
	base, err := a.parker.Owner(a.place.work, a.place.mnt)
	if err != nil {
		return err
	}
	began := time.Now()
	p := depot.Parked{Generation: newID(), Engine: a.parker.Name(), Program: program, Worker: a.WorkerID, At: began.UTC()}
	// Noted first: what the depot may have given to another must never be gone on
	// from here.
	if err := os.WriteFile(a.generation(), []byte(p.Generation), 0o600); err != nil {
		return err
	}
	size, err := a.Depot.Put(ctx, a.item.SessionID, p, a.place.dir, base, a.travels())
	if err != nil {
		return err
	}
	a.log.Info("stored a parked session for other workers", "size", size, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

func (a *activation) generation() string { return filepath.Join(a.place.dir, generationFile) }

// arrive makes the session's directory that of its latest state: the one here, or
// one that another worker has stored. Nobody else goes on from it afterwards.
func (a *activation) arrive(ctx context.Context) error {
	if !a.portable() {
		return nil
	}
	raw, err := os.ReadFile(a.generation())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	here := string(raw)
	p, live, err := a.Depot.Look(ctx, a.item.SessionID)
	switch {
	case err != nil:
		if here != "" {
			err = errors.Join(err, a.forgetParked())
		}
		return err
	case !live && here != "":
		// Another worker has gone on from it, or it was too old.
		if err := a.forgetParked(); err != nil {
			return err
		}
		return os.Remove(a.generation())
	case !live:
		return a.recover(ctx)
	case p.Generation == here:
		if err := a.Depot.Take(ctx, a.item.SessionID); err != nil {
			return errors.Join(err, a.forgetParked())
		}
		return os.Remove(a.generation())
	}
	began := time.Now()
	arriving, err := a.fetch(ctx, p.Generation)
	if err != nil {
		return err
	}
	defer sandbox.RemoveAll(arriving)
	if err := a.Depot.Take(ctx, a.item.SessionID); err != nil {
		return err
	}
	if err := a.moveIn(arriving); err != nil {
		return err
	}
	a.log.Info("fetched a session that another worker had parked", "worker", p.Worker, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// recover fetches the files that a session had when it was last stored, if the
// worker that went on from there is gone and none are here.
func (a *activation) recover(ctx context.Context) error {
	for _, dir := range []string{a.place.work, a.place.mnt} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			return err
		}
	}
	generation, err := a.Depot.Latest(ctx, a.item.SessionID)
	if err != nil || generation == "" {
		return err
	}
	arriving, err := a.fetch(ctx, generation)
	if err != nil {
		return err
	}
	defer sandbox.RemoveAll(arriving)
	if err := sandbox.RemoveAll(filepath.Join(arriving, parkedDir)); err != nil {
		return err // it has been gone on from once
	}
	if err := a.moveIn(arriving); err != nil {
		return err
	}
	a.log.Warn("the worker that had this session is gone; its files are as they were when it was last parked")
	return nil
}

// fetch brings a state of the depot to this host, beside the session's files.
func (a *activation) fetch(ctx context.Context, generation string) (dir string, err error) {
	base, err := a.parker.Owner(a.place.work, a.place.mnt)
	if err != nil {
		return "", err
	}
	dir = filepath.Join(a.place.dir, arrivingDir)
	if err := errors.Join(sandbox.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return "", err
	}
	if err := a.Depot.Fetch(ctx, a.item.SessionID, generation, dir, base); err != nil {
		return "", errors.Join(err, sandbox.RemoveAll(dir))
	}
	return dir, nil
}

// moveIn puts what has arrived in the place of what is here.
func (a *activation) moveIn(arriving string) error {
	for _, name := range a.travels() {
		old := filepath.Join(a.place.dir, name)
		if err := sandbox.RemoveAll(old); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(arriving, name), old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return a.place.make()
}

// forgetParked removes the sandbox that is parked here.
func (a *activation) forgetParked() error {
	if err := sandbox.RemoveAll(filepath.Join(a.place.dir, parkedDir)); err != nil {
		return fmt.Errorf("remove a parked sandbox: %w", err)
	}
	return nil
}

// sweepDepot removes what is too old or too much.
func (w *Worker) sweepDepot(ctx context.Context) {
	if w.Depot == nil {
		return
	}
	if err := w.Depot.Sweep(ctx, w.ParkTTL, w.ParkQuota); err != nil && ctx.Err() == nil {
		w.Log.Warn("could not tidy the store of parked sessions", "error", err)
	}
}
