package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hearth/internal/hands/depot"
	"hearth/internal/hands/mount"
	"hearth/internal/hands/sandbox"
)

// Below a session's directory: which states of the depot it comes from, and one
// that is arriving from there.
// changedFile is there while the session's files are, or may be, other than those
// in the depot.
const (
	generationFile = "generation"
	arrivingDir    = "arriving"
	changedFile    = "changed"
)

// travels are the parts of a session's directory that go with it to another
// worker.
func (a *activation) travels() []string {
	return append([]string{parkedDir, filepath.Base(a.place.work), filepath.Base(a.place.mnt), filepath.Base(a.place.begun)}, mount.Lists...)
}

// portable tells whether sessions may go on with another worker.
func (a *activation) portable() bool { return a.Depot != nil && a.parker != nil && a.Workdir == "" }

// handOn puts a session that is being left where other workers can get it, unless
// one may have it already: with its sandbox if that could be parked, else its files
// and the marks of its calls.
func (a *activation) handOn(ctx context.Context) {
	changed := filepath.Join(a.place.dir, changedFile)
	if _, err := os.Stat(changed); err != nil || !a.portable() || errors.Is(context.Cause(ctx), errLost) || a.lease.lapsed() {
		return
	}
	err := a.deposit(context.WithoutCancel(ctx))
	if err == nil {
		err = os.Remove(changed)
	}
	if err != nil {
		// It may have got there all the same; then that is where it goes on.
		a.log.Warn("could not store a session for other workers", "error", err)
	}
}

// noteChanges notes, for whoever leaves the session next, that its files are about
// to change.
func (a *activation) noteChanges() {
	if !a.portable() {
		return
	}
	if err := os.WriteFile(filepath.Join(a.place.dir, changedFile), nil, 0o600); err != nil {
		a.log.Warn("could not note that a session's files change; other workers may miss it", "error", err)
	}
}

func (a *activation) deposit(ctx context.Context) error {
	program, err := buildID()
	if err != nil {
		return err
	}
	base, err := a.parker.Owner(a.place.work, a.place.mnt)
	if err != nil {
		return err
	}
	began := time.Now()
	p := depot.Parked{Generation: newID(), Engine: a.parker.Name(), Program: program, Worker: a.WorkerID, At: began.UTC()}
	// Noted first: what the depot may have given to another must never be gone on
	// from here.
	from, err := a.generations()
	if err == nil {
		err = a.descend(append(from, p.Generation)...)
	}
	if err != nil {
		return err
	}
	size, err := a.Depot.Put(ctx, a.item.SessionID, p, a.place.dir, base, a.travels())
	if err != nil {
		return err
	}
	a.log.Info("stored a session for other workers", "size", size, "took", time.Since(began).Round(time.Millisecond))
	return a.descend(p.Generation)
}

// generations are the states of the depot that the session's files here come from,
// the latest last. More than one means that it is not known which of the later
// ones got there.
func (a *activation) generations() ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(a.place.dir, generationFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return strings.Fields(string(raw)), err
}

// descend notes what the session's files here come from. It happens at once or not
// at all.
func (a *activation) descend(generations ...string) error {
	path := filepath.Join(a.place.dir, generationFile)
	if err := os.WriteFile(path+".new", []byte(strings.Join(generations, "\n")), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// arrive makes the session's directory that of its latest state: the one here, or
// one that another worker has stored. Nobody else goes on from it afterwards.
// Killed anywhere on the way, it finds that state the next time.
func (a *activation) arrive(ctx context.Context) error {
	if !a.portable() {
		return nil
	}
	here, err := a.generations()
	if err != nil {
		return err
	}
	p, live, err := a.Depot.Look(ctx, a.item.SessionID)
	switch {
	case err != nil:
		if len(here) > 0 {
			err = errors.Join(err, a.forgetParked())
		}
		return err
	case !live:
		return a.recover(ctx, here)
	case slices.Contains(here, p.Generation):
		if err := a.Depot.Take(ctx, a.item.SessionID); err != nil {
			return errors.Join(err, a.forgetParked())
		}
		return nil
	}
	began := time.Now()
	arriving, err := a.fetch(ctx, p.Generation)
	if errors.Is(err, depot.ErrGone) {
		a.log.Warn("what was stored of this session is not there any longer", "worker", p.Worker, "error", err)
		if err := a.Depot.Take(ctx, a.item.SessionID); err != nil {
			return err
		}
		return a.recover(ctx, here)
	}
	if err != nil {
		return err
	}
	defer sandbox.RemoveAll(arriving)
	if err := a.Depot.Take(ctx, a.item.SessionID); err != nil {
		return err
	}
	if err := a.moveIn(arriving, p.Generation); err != nil {
		return err
	}
	a.log.Info("fetched a session that another worker had parked", "worker", p.Worker, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// recover has a session of which no state may be gone on from: its sandbox is lost,
// if it was ever in the depot. The files it had when it was last stored are fetched
// if those here are older, or there are none: the worker that went on from there is
// gone.
func (a *activation) recover(ctx context.Context, here []string) error {
	if len(here) > 0 {
		if err := a.forgetParked(); err != nil {
			return err
		}
	} else if any, err := a.hasFiles(); any || err != nil {
		return err
	}
	generation, err := a.Depot.Latest(ctx, a.item.SessionID)
	if err != nil || generation == "" || slices.Contains(here, generation) {
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
	if err := a.moveIn(arriving, generation); err != nil {
		return err
	}
	a.log.Warn("the worker that had this session has not left it in order; its files are as they were when they were last stored")
	return nil
}

// hasFiles tells whether the session has any files here.
func (a *activation) hasFiles() (bool, error) {
	for _, dir := range []string{a.place.work, a.place.mnt} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			return true, err
		}
	}
	return false, nil
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

// moveIn puts what has arrived, a state of the depot, in the place of what is here.
func (a *activation) moveIn(arriving, generation string) error {
	for _, name := range a.travels() {
		old := filepath.Join(a.place.dir, name)
		if err := sandbox.RemoveAll(old); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(arriving, name), old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := a.place.make(); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(a.place.dir, changedFile)) // what had changed has been left behind
	return a.descend(generation)
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
