package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// RemoveAll removes a file or directory with all that is below, like os.RemoveAll,
// from what a sandbox has written, while no sandbox writes to it any more: nested
// as deep as it may be it takes no more than a few descriptors and no long path,
// and it does not matter what directories allow.
func RemoveAll(path string) error {
	return removeAt(context.Background(), unix.AT_FDCWD, path)
}

// RemoveAt removes what is called name in a directory, like RemoveAll, but from where a
// sandbox may be writing: see Empty.
func RemoveAt(ctx context.Context, dir *os.File, name string) error {
	return removeAt(ctx, int(dir.Fd()), name)
}

func removeAt(ctx context.Context, at int, name string) error {
	err := remove(at, name, func(int, string) error {
		fd, err := openEmptying(at, name)
		if err != nil {
			return err
		}
		dir := os.NewFile(uintptr(fd), name)
		defer dir.Close()
		if err := Empty(ctx, dir); err != nil {
			return err
		}
		return unix.Unlinkat(at, name, unix.AT_REMOVEDIR)
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// Empty removes all that is in a directory, like RemoveAll, but from where a sandbox
// may be writing: it follows no link, and goes on until it finds nothing or ctx ends.
func Empty(ctx context.Context, dir *os.File) error {
	r := remover{dir: dir, prefix: ".removing-" + rand.Text() + "-"}
	return r.empty(ctx)
}

// remover empties one directory. What directories below it hold, it moves up into
// it, until none is nested in another.
type remover struct {
	dir    *os.File
	prefix string // of the names that what is moved gets
	moved  int
}

func (r *remover) empty(ctx context.Context) error {
	for {
		found, err := each(r.dir, func(name string) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return remove(int(r.dir.Fd()), name, r.flatten)
		})
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
func remove(dir int, name string, full func(dir int, name string) error) error {
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
// What a sandbox changes meanwhile, or was not read, is for another round.
func (r *remover) flatten(top int, name string) error {
	fd, err := openEmptying(top, name)
	if err != nil {
		return unlessChanged(err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	if _, err := each(dir, func(name string) error { return remove(fd, name, r.moveUp) }); err != nil {
		return unlessChanged(err)
	}
	return unlessChanged(unix.Unlinkat(top, name, unix.AT_REMOVEDIR))
}

// unlessChanged is an error, unless it is because what a name stands for is not any
// more what it was.
func unlessChanged(err error) error {
	for _, changed := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENOTEMPTY} {
		if errors.Is(err, changed) {
			return nil
		}
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
	// By a descriptor, for by the name a link could be followed.
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), 0o700); err != nil {
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
