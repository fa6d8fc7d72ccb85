package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox"
)

// carrier copies a tree to another file system, to where the sandbox may be writing.
type carrier struct {
	*Mounter
	ctx   context.Context
	from  string   // directory on this host, out of the sandbox's reach
	to    *os.Root // what is below is the sandbox's to change, if it has the worker's user
	moved *progress
}

// carry brings a tree into a directory on another file system, where it gets its
// name when it is whole. Until then it is called passing.
func (m *Mounter) carry(ctx context.Context, tree string, parent *os.File, passing, name string) (err error) {
	if err := sandbox.RemoveAt(ctx, parent, passing); err != nil { // of a worker that was killed
		return fmt.Errorf("remove what is left of an earlier copy: %w", err)
	}
	top, err := m.makeOwn(parent, passing)
	if err != nil {
		return err
	}
	defer top.Close()
	defer func() {
		if err != nil {
			m.discard(ctx, parent, passing)
		}
	}()
	// By the descriptor, for by now the name may stand for something else.
	root, err := os.OpenRoot("/proc/self/fd/" + strconv.Itoa(int(top.Fd())))
	if err != nil {
		return err
	}
	defer root.Close()
	c := carrier{m, ctx, tree, root, m.progress("copying a repository to the working directory", name, -1)}
	if err := filepath.WalkDir(tree, c.visit); err != nil {
		return fmt.Errorf("copy it to the working directory, which is on another file system than the worker's state directory: %w", err)
	}
	// Last, for then the sandbox can look into it.
	info, err := os.Lstat(tree)
	if err != nil {
		return err
	}
	if err := c.hand(top, info); err != nil {
		return err
	}
	return place(int(parent.Fd()), passing, parent, name)
}

// discardWithin bounds how long is tried to remove a copy that is not wanted, for a
// sandbox may be filling it.
const discardWithin = 30 * time.Second

// discard removes a copy, also when ctx has ended.
func (m *Mounter) discard(ctx context.Context, parent *os.File, passing string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardWithin)
	defer cancel()
	if err := sandbox.RemoveAt(ctx, parent, passing); err != nil {
		m.Log.Warn("could not remove what there is of a copy; it is removed before the next", "name", passing, "error", err)
	}
}

// makeOwn makes a directory that a sandbox of another user than the worker's cannot
// write to or look into, though it may move it.
func (m *Mounter) makeOwn(parent *os.File, name string) (*os.File, error) {
	if err := unix.Mkdirat(int(parent.Fd()), name, 0o700); err != nil {
		return nil, &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	dir, err := openAt(parent, name)
	if err != nil {
		return nil, err
	}
	if err := m.checkOwn(dir); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}

// checkOwn tells whether the sandbox has put another directory in the place of one
// that has just been made.
func (m *Mounter) checkOwn(dir *os.File) error {
	if uid, _, ok := m.user(); !ok || uid == os.Geteuid() {
		return nil // they are one user
	}
	var info unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &info); err != nil {
		return err
	}
	if int(info.Uid) != os.Geteuid() || info.Mode&0o077 != 0 {
		return fmt.Errorf("%s does not belong to the worker alone, who has just made it: the sandbox has replaced it, or the file system of the working directory keeps no owners and modes; use one that does", dir.Name())
	}
	return nil
}

// openAt opens a directory of another. A link is none.
func openAt(parent *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// visit copies one entry of the tree; what it is in, it was called with before.
func (c carrier) visit(file string, entry fs.DirEntry, err error) error {
	if err = errors.Join(err, c.ctx.Err()); err != nil {
		return err
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	name, err := filepath.Rel(c.from, file)
	if err != nil {
		return err
	}
	switch {
	case name == ".":
		return nil
	case info.IsDir():
		return c.dir(name, info)
	case info.Mode().IsRegular():
		return c.file(file, name, info)
	case info.Mode().Type() == fs.ModeSymlink:
		return c.link(file, name)
	}
	return fmt.Errorf("%s is no file, directory or link", name)
}

func (c carrier) dir(name string, info fs.FileInfo) error {
	if err := c.to.Mkdir(name, 0o700); err != nil {
		return err
	}
	dir, err := c.to.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(c.hand(dir, info), dir.Close())
}

func (c carrier) file(file, name string, info fs.FileInfo) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.to.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.MultiWriter(out, c.moved), untilDone{c.ctx, in})
	return errors.Join(err, c.hand(out, info), out.Close())
}

func (c carrier) link(file, name string) error {
	target, err := os.Readlink(file)
	if err != nil {
		return err
	}
	if err := c.to.Symlink(target, name); err != nil {
		return err
	}
	uid, gid, ok := c.user()
	if !ok {
		return nil
	}
	// By its name, which is safe: where the sandbox has another user than the worker,
	// it cannot reach it yet.
	return c.to.Lchown(name, uid, gid)
}

// hand makes a copy the sandbox's own, whatever the umask.
func (c carrier) hand(f *os.File, like fs.FileInfo) error {
	if uid, gid, ok := c.user(); ok {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	return f.Chmod(like.Mode().Perm())
}

// untilDone reads until a context ends.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (r untilDone) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}
