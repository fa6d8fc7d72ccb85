package sandbox

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// RemoveAll removes a file or directory with all that is below, like os.RemoveAll,
// from what a sandbox has written, while no sandbox writes to it any more: nested
// as deep as it may be it takes no more than a few descriptors and no long path,
// and it does not matter what directories allow.
func RemoveAll(path string) error {
	err := os.Remove(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	fd, err := openEmptying(unix.AT_FDCWD, path)
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	top := remover{dir: os.NewFile(uintptr(fd), path), prefix: ".removing-" + rand.Text() + "-"}
	defer top.dir.Close()
	if err := top.empty(); err != nil {
		return fmt.Errorf("remove what is below %s: %w", path, err)
	}
	return os.Remove(path)
}

// remover empties one directory. What directories below it hold, it moves up into
// it, until none is nested in another.
type remover struct {
	dir    *os.File
	prefix string // of the names that what is moved gets
	moved  int
}

func (r *remover) empty() error {
	for {
		found, err := each(r.dir, func(name string) error { return r.remove(int(r.dir.Fd()), name, r.flatten) })
		if err != nil || !found {
			return err
		}
		// Some have come meanwhile, and which of them were read is up to the file system.
		if _, err := r.dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// each calls fn with every name in a directory until that fails.
func each(dir *os.File, fn func(name string) error) (found bool, err error) {
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			found = true
			if err := fn(name); err != nil {
				return found, err
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return found, err
		}
	}
}

// remove removes an entry of a directory; one that is a directory itself and not
// empty by full.
func (r *remover) remove(dir int, name string, full func(dir int, name string) error) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	switch failed := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); {
	case failed == nil, errors.Is(failed, unix.ENOENT):
		return nil
	case errors.Is(failed, unix.ENOTEMPTY), errors.Is(failed, unix.EEXIST):
		return full(dir, name)
	case errors.Is(failed, unix.ENOTDIR):
		return err
	default:
		return failed
	}
}

// flatten removes a directory of the top one, and moves up the directories in it.
func (r *remover) flatten(top int, name string) error {
	fd, err := openEmptying(top, name)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	_, err = each(dir, func(name string) error { return r.remove(fd, name, r.moveUp) })
	if err != nil {
		return err
	}
	err = unix.Unlinkat(top, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOTEMPTY) {
		return nil // not all was read; there is another round
	}
	return err
}

func (r *remover) moveUp(dir int, name string) error {
	r.moved++
	to := r.prefix + strconv.Itoa(r.moved)
	// Who is not root may not move one that it may not write to.
	return permitted(dir, name, func() error { return unix.Renameat(dir, name, int(r.dir.Fd()), to) })
}

// permitted does something with a directory, and once more if that first has to
// allow its owner to.
func permitted(at int, name string, do func() error) error {
	err := do()
	if !errors.Is(err, unix.EACCES) {
		return err
	}
	if err := unix.Fchmodat(at, name, 0o700, 0); err != nil {
		return err
	}
	return do()
}

// openEmptying opens a directory, and sees to it that its owner may empty it.
func openEmptying(at int, name string) (fd int, err error) {
	err = permitted(at, name, func() (err error) {
		fd, err = unix.Openat(at, name, openDir, 0)
		return err
	})
	if err != nil {
		return -1, err
	}
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err == nil && info.Mode&0o300 != 0o300 {
		_ = unix.Fchmod(fd, 0o700) // if that is needed and not allowed, what follows fails
	}
	return fd, nil
}
