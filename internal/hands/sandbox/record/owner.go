package record

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Owner is the worker that made a sandbox. Whether it lives is for Dir.Alive to
// tell: in another process namespace its id means another process.
type Owner struct {
	Process
	// Lock is the name of the file that it holds locked for as long as it lives; ""
	// where files cannot be locked, and for workers of earlier versions.
	Lock string `json:"lock,omitempty"`
}

// ownersDir holds the locks of owners. Its name is no id.
const ownersDir = "owners"

func (d Dir) lock(name string) string {
	return filepath.Join(string(d), ownersDir, filepath.Base(name))
}

// self is this process as an owner.
func (d Dir) self() (Owner, error) {
	p, err := Find(os.Getpid())
	if err != nil {
		return Owner{}, err
	}
	lock, err := d.hold()
	if err != nil {
		return Owner{}, fmt.Errorf("lock a file that tells others that this worker lives: %w", err)
	}
	return Owner{p, lock}, nil
}

// locks are those this process holds, one for each directory. They are never
// closed, and no child inherits them, so they are let go of when it ends.
var locks = struct {
	sync.Mutex
	held map[Dir]*os.File // guarded by Mutex
}{held: map[Dir]*os.File{}}

// hold names the lock of this process, which it takes where it has none yet; ""
// where the file system has no locks.
func (d Dir) hold() (name string, err error) {
	locks.Lock()
	defer locks.Unlock()
	if f := locks.held[d]; f != nil {
		return filepath.Base(f.Name()), nil
	}
	if err := os.MkdirAll(filepath.Join(string(d), ownersDir), 0o700); err != nil {
		return "", err
	}
	for {
		f, err := d.tryLock()
		if errors.Is(err, errSwept) {
			continue
		}
		if f == nil {
			return "", err
		}
		locks.held[d] = f
		return filepath.Base(f.Name()), nil
	}
}

// errSwept says that somebody took a lock, not held yet, for that of a dead owner.
var errSwept = errors.New("the lock was removed before it was held")

// tryLock makes a file and locks it; nil where the file system has no locks.
func (d Dir) tryLock() (*os.File, error) {
	path := d.lock(rand.Text() + ".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		// Once it is held nobody removes it: it is there for good, or gone already.
		_, err = os.Stat(path)
		if err == nil {
			return f, nil
		}
	}
	f.Close()
	_ = os.Remove(path) // who is about to does it, else
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
		return nil, errSwept
	}
	return nil, nil
}

// Alive tells whether an owner of a sandbox in this directory lives.
func (d Dir) Alive(o Owner) bool {
	if o.Lock == "" {
		return o.Process.Alive()
	}
	return d.isHeld(o.Lock)
}

// isHeld tells whether somebody holds a lock. One that nobody holds is removed: it is
// locked by its maker, or never.
func (d Dir) isHeld(lock string) bool {
	f, err := os.Open(d.lock(lock))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		return true // no sandbox is destroyed because this process may open no more files
	}
	defer f.Close()
	// Shared, so that two who ask at once do not take each other for the owner.
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
		return true
	}
	_ = os.Remove(f.Name()) // another may have been faster
	return false
}

// sweep removes the locks of dead owners, those too whose sandboxes are all gone.
func (d Dir) sweep() {
	entries, _ := os.ReadDir(filepath.Join(string(d), ownersDir)) // none before there is a sandbox
	for _, entry := range entries {
		d.isHeld(entry.Name())
	}
}
