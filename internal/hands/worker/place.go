package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"hearth/api"
	"hearth/internal/hands/sandbox"
)

// place is a session's directory on this host, kept from one activation to the
// next: its working directory, what is mounted for it, and marks of the calls
// begun in it.
type place struct {
	dir, work, mnt, begun string
	lock                  *os.File // held while the session is served
}

// open makes or finds a session's place, and waits until no other process is in
// it. The names of sessions and calls come from the server, and must not lead
// elsewhere.
func (w *Worker) open(ctx context.Context, sessionID string) (place, error) {
	if !api.IsName(sessionID) {
		return place{}, fmt.Errorf("session id %.100q cannot name a directory", sessionID)
	}
	dir := filepath.Join(w.StateDir, "sessions", sessionID)
	p := place{dir: dir, work: cmp.Or(w.Workdir, filepath.Join(dir, "work")), mnt: filepath.Join(dir, "mnt"), begun: filepath.Join(dir, "begun")}
	for p.lock == nil { // unless what was locked has just been tidied away
		if err := p.make(); err != nil {
			return p, err
		}
		if err := p.take(ctx); err != nil {
			return p, err
		}
	}
	return p, p.touch()
}

// make makes the directories that are missing.
func (p place) make() error {
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{{filepath.Dir(p.dir), 0o711}, {p.dir, 0o711}, {p.work, 0o755}, {p.mnt, 0o755}, {p.begun, 0o700}} {
		if err := os.Mkdir(d.path, d.mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the session's directory: %w", err)
		}
	}
	return nil
}

// lockRetry is how long to wait for another process between two looks.
const lockRetry = 100 * time.Millisecond

// take locks the place, if it is there. Another process that has it lost its lease,
// will notice at its next heartbeat, and unlocks by ending at the latest.
func (p *place) take(ctx context.Context) error {
	for {
		lock, err := lockPlace(p.dir)
		switch {
		case err == nil:
			p.lock = lock
			return nil
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case errors.Is(err, unix.EWOULDBLOCK):
			err = sleep(ctx, lockRetry)
		}
		if err != nil {
			return fmt.Errorf("lock the session's directory: %w", err)
		}
	}
}

// lockPlace locks a session's directory, or fails at once.
func lockPlace(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	var mine, there fs.FileInfo
	if err == nil {
		mine, err = f.Stat()
	}
	if err == nil {
		there, err = os.Stat(path)
	}
	if err == nil && !os.SameFile(mine, there) {
		err = fs.ErrNotExist // it was removed, and another made
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// touch notes when the place was last used.
func (p place) touch() error {
	now := time.Now()
	return os.Chtimes(p.dir, now, now)
}

func (p place) close() {
	_ = p.touch() // only tidying depends on it
	p.lock.Close()
}

// begin notes that a call is about to run. Again tells that it was begun before,
// by a worker that was killed before the result was accepted.
func (p place) begin(callID string) (again bool, err error) {
	if !api.IsName(callID) {
		return false, fmt.Errorf("call id %.100q cannot name a file", callID)
	}
	f, err := os.OpenFile(filepath.Join(p.begun, callID), os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("note that a call begins: %w", err)
	}
	return false, f.Close()
}

// finish forgets a call whose result needs no more care.
func (p place) finish(callID string) {
	if api.IsName(callID) {
		_ = os.Remove(filepath.Join(p.begun, callID)) // it may be gone
	}
}

// tidyEvery is how often directories of sessions long left are looked for.
const tidyEvery = time.Hour

// tidy removes the places of sessions not served for longer than KeepWorkdir,
// until ctx ends.
func (w *Worker) tidy(ctx context.Context) {
	for {
		w.tidyOnce()
		w.evict()
		w.sweepDepot(ctx)
		if sleep(ctx, tidyEvery) != nil {
			return
		}
	}
}

func (w *Worker) tidyOnce() {
	root := filepath.Join(w.StateDir, "sessions")
	entries, err := os.ReadDir(root)
	if err != nil {
		return // there are none yet
	}
	for _, entry := range entries {
		if err := w.tidyAway(filepath.Join(root, entry.Name())); err != nil {
			w.Log.Warn("could not remove the files of an old session", "session", entry.Name(), "error", err)
		}
	}
}

// tidyAway removes a session's place, if it has not been used for long and nobody
// has it: this worker or another on the same state directory.
func (w *Worker) tidyAway(dir string) error {
	if !w.long(dir) {
		return nil
	}
	lock, err := lockPlace(dir)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if !w.long(dir) {
		return nil // it has been used meanwhile
	}
	// Out of the way first: somebody may be about to make it anew.
	away := filepath.Join(filepath.Dir(dir), tidiedPrefix+newID())
	if err := os.Rename(dir, away); err != nil {
		return err
	}
	w.Log.Info("removing the files of a session that has not been served for long", "session", filepath.Base(dir), "longer_than", w.KeepWorkdir)
	return sandbox.RemoveAll(away)
}

// tidiedPrefix begins the name of a place that is being removed, which is no
// session's.
const tidiedPrefix = ".tidied-"

// long tells whether a place has not been used for longer than places are kept.
func (w *Worker) long(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && time.Since(info.ModTime()) >= w.KeepWorkdir
}
