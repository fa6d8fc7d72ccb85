package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// scratch is a directory to try things in. It is on the file system that a
// worker's state would be on, for much depends on that; and beside that state,
// for it must not disturb a worker that lives.
type scratch struct {
	dir  string   // empty when there is none
	lock *os.File // held as long as the directory is used
}

const scratchPattern = ".hearth-doctor-"

// newScratch makes a scratch directory, and clears away those of doctors that
// were killed.
func newScratch(stateDir string) (scratch, error) {
	parent, err := existing(stateDir)
	if err != nil {
		return scratch{}, err
	}
	sweep(parent)
	dir, err := os.MkdirTemp(parent, scratchPattern)
	if err != nil {
		return scratch{}, err
	}
	s := scratch{dir: dir}
	if s.lock, err = lock(dir); err == nil {
		err = os.Chmod(dir, 0o711) // as a worker's state
	}
	if err != nil {
		s.remove()
		return scratch{}, err
	}
	return s, nil
}

// existing is the directory itself, or the nearest above it that is there.
func existing(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && !info.IsDir():
			return "", &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
		case err == nil:
			return dir, nil
		case !errors.Is(err, fs.ErrNotExist) || dir == "/":
			return "", err
		}
		dir = filepath.Dir(dir)
	}
}

func lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// young is the age below which a directory may not have been locked yet.
const young = time.Minute

// sweep removes the scratch directories nobody holds. What cannot be removed is
// left; it is somebody else's.
func sweep(parent string) {
	left, _ := fs.Glob(os.DirFS(parent), scratchPattern+"*") // at worst none is found
	for _, name := range left {
		dir := filepath.Join(parent, name)
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < young {
			continue
		}
		if held, err := lock(dir); err == nil {
			_ = os.RemoveAll(dir)
			held.Close()
		}
	}
}

// remove removes the directory. What tried something in it has cleaned up.
func (s scratch) remove() {
	if s.dir != "" {
		_ = os.RemoveAll(s.dir) // what is left is swept next time
	}
	if s.lock != nil {
		s.lock.Close()
	}
}
