package worker

import (
	"cmp"
	"context"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"hearth/internal/hands/sandbox"
)

// parked describes a sandbox that is on disk.
type parked struct {
	// Spec is what it was made from; its working directory is the session's.
	Spec sandbox.Spec `json:"spec"`
	// Engine and Program are what wrote it, and all that can read it.
	Engine  string `json:"engine"`
	Program string `json:"program"`
}

// Below a session's directory: the sandbox on disk, and one that is being
// written or read, which is of no use to anybody else.
const (
	parkedDir  = "parked"
	passingDir = "parking"
	imageDir   = "image"
	parkedFile = "parked.json"
)

// buildID tells one build of this program from another.
var buildID = sync.OnceValues(func() (string, error) {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer f.Close()
	note := f.Section(".note.go.buildid")
	if note == nil {
		return "", errors.New("this program has no build id")
	}
	raw, err := note.Data()
	return hex.EncodeToString(raw), err
})

// parkTimeout bounds the writing of a sandbox, which the worker has a place for
// only so long: what runs in it may have been made to keep it from coming to rest.
const parkTimeout = 5 * time.Minute

// park writes a session's sandbox to disk and destroys it. What goes wrong costs
// the session its shell and background jobs, not its files.
func (a *activation) park(ctx context.Context, s sandbox.Checkpointer, spec sandbox.Spec) error {
	began := time.Now()
	program, err := buildID()
	if err != nil {
		return errors.Join(err, s.Destroy(ctx))
	}
	passing, final := filepath.Join(a.place.dir, passingDir), filepath.Join(a.place.dir, parkedDir)
	if err := errors.Join(sandbox.RemoveAll(passing), sandbox.RemoveAll(final), os.Mkdir(passing, 0o700)); err != nil {
		return errors.Join(err, s.Destroy(ctx))
	}
	spec.ID = s.ID()
	raw, err := json.Marshal(parked{spec, a.parker.Name(), program})
	if err == nil {
		err = os.WriteFile(filepath.Join(passing, parkedFile), raw, 0o600)
	}
	if err != nil {
		return errors.Join(err, s.Destroy(ctx))
	}
	writing, cancel := context.WithTimeout(ctx, parkTimeout)
	defer cancel()
	err = s.Checkpoint(writing, filepath.Join(passing, imageDir))
	if err == nil {
		err = os.Rename(passing, final)
	}
	if err != nil {
		return errors.Join(err, sandbox.RemoveAll(passing))
	}
	a.log.Info("parked a session's sandbox", "size", bytesBelow(final), "took", time.Since(began).Round(time.Millisecond))
	a.evict()
	return nil
}

// unpark restores a session's sandbox, if one is on disk that can be read. It is
// gone from there in any case: what has gone on from it must not begin again.
func (a *activation) unpark(ctx context.Context) (sandbox.Sandbox, sandbox.Spec, error) {
	passing, final := filepath.Join(a.place.dir, passingDir), filepath.Join(a.place.dir, parkedDir)
	if err := sandbox.RemoveAll(passing); err != nil {
		return nil, sandbox.Spec{}, err
	}
	if err := os.Rename(final, passing); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, sandbox.Spec{}, err
	}
	defer sandbox.RemoveAll(passing)
	raw, err := os.ReadFile(filepath.Join(passing, parkedFile))
	if err != nil {
		return nil, sandbox.Spec{}, err
	}
	var p parked
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, sandbox.Spec{}, err
	}
	program, err := buildID()
	if err != nil {
		return nil, p.Spec, err
	}
	if a.parker == nil || p.Engine != a.parker.Name() || p.Program != program {
		return nil, p.Spec, fmt.Errorf("it was parked by another build of this program, or the %s engine", p.Engine)
	}
	p.Spec.Workdir, p.Spec.Mnt, p.Spec.Labels = a.place.work, a.place.mnt, a.labels()
	began := time.Now()
	s, err := a.parker.Restore(ctx, p.Spec, filepath.Join(passing, imageDir))
	if err == nil {
		a.log.Info("restored a session's sandbox", "took", time.Since(began).Round(time.Millisecond))
	}
	return s, p.Spec, err
}

// evict removes the sandboxes parked first until all take no more than the quota.
func (w *Worker) evict() {
	type image struct {
		dir  string
		at   time.Time
		size int64
	}
	var images []image
	var total int64
	found, _ := fs.Glob(os.DirFS(w.StateDir), "sessions/*/"+parkedDir) // a constant pattern is well-formed
	for _, name := range found {
		dir := filepath.Join(w.StateDir, name)
		info, err := os.Stat(dir)
		if err != nil {
			continue // it has just been restored
		}
		i := image{dir, info.ModTime(), bytesBelow(dir)}
		images, total = append(images, i), total+i.size
	}
	slices.SortFunc(images, func(a, b image) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	for _, i := range images {
		if total <= w.ParkQuota && time.Since(i.at) < w.ParkTTL {
			continue
		}
		if err := sandbox.RemoveAll(i.dir); err != nil {
			w.Log.Warn("could not remove a parked sandbox", "dir", i.dir, "error", err)
			continue
		}
		total -= i.size
		w.Log.Info("removed a parked sandbox, for its age or to make room", "session", filepath.Base(filepath.Dir(i.dir)), "size", i.size, "parked", time.Since(i.at).Round(time.Second))
	}
}

// bytesBelow is what the files below a directory hold.
func bytesBelow(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil
	})
	return total
}
