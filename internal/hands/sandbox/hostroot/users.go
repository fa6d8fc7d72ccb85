package hostroot

import (
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Users are the host users and groups behind those of a sandbox, which count
// from 0 there.
type Users struct {
	First int // on the host
	Count int // 1 when the worker is an ordinary user, who has but himself
}

// When the worker is root, each sandbox has 65,536 host users of its own.
const (
	firstUser   = 1 << 30
	usersEach   = 1 << 16
	userRanges  = 10_000
	counterFile = "users"

	// LastUser is the last of those there are for sandboxes.
	LastUser = firstUser + userRanges*usersEach - 1
)

// UsersOf chooses the users of a sandbox with that working directory, which it
// makes where it is missing, and mnt too, unless it is "". A working directory
// keeps those it was first used with, whose files are in it. Dir holds the
// counter of ranges.
func UsersOf(dir, workdir, mnt string) (Users, error) {
	if err := os.MkdirAll(workdir, 0o755); err != nil {
		return Users{}, fmt.Errorf("make the working directory: %w", err)
	}
	users, err := chooseUsers(dir, workdir)
	if err != nil || mnt == "" {
		return users, err
	}
	// What is in it is given to the sandbox, or not, by whoever puts it there.
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		return users, fmt.Errorf("make the directory for mounts: %w", err)
	}
	return users, users.Chown(mnt)
}

func chooseUsers(dir, workdir string) (Users, error) {
	if os.Getuid() != 0 {
		return Users{os.Getuid(), 1}, nil
	}
	var info unix.Stat_t
	if err := unix.Stat(workdir, &info); err != nil {
		return Users{}, err
	}
	if n := (int(info.Uid) - firstUser) / usersEach; int(info.Uid) >= firstUser && n < userRanges {
		return Users{firstUser + n*usersEach, usersEach}, nil
	}
	n, err := nextRange(dir)
	if err != nil {
		return Users{}, fmt.Errorf("choose the users of a sandbox: %w", err)
	}
	u := Users{firstUser + n*usersEach, usersEach}
	// Nothing runs in it yet, so nothing can be swapped for a link meanwhile.
	return u, filepath.WalkDir(workdir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return u.Chown(path)
	})
}

// nextRange counts through the ranges, over all workers that share the state. It
// begins anywhere, for other states on this host have counters of their own, which
// know nothing of this one. With userRanges in all, two that have used n and m
// sandboxes' worth still share some by a chance of about (n+m) in userRanges; a
// counter that has come round meets its own again.
func nextRange(dir string) (int, error) {
	f, err := os.OpenFile(filepath.Join(dir, counterFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return 0, err
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return 0, err
	}
	n := 0
	if _, err := fmt.Sscan(string(raw), &n); err != nil { // empty at first
		if n, err = anyRange(); err != nil {
			return 0, err
		}
	}
	n = (n + 1) % userRanges
	if _, err := f.WriteAt(fmt.Appendf(nil, "%-10d\n", n), 0); err != nil {
		return 0, err
	}
	return n, nil
}

func anyRange() (int, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(userRanges))
	if err != nil {
		return 0, err
	}
	return int(n.Int64()), nil
}

// Map is the mapping as the kernel wants it.
func (u Users) Map() []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: u.First, Size: u.Count}}
}

// Many tells whether there are users beside the first.
func (u Users) Many() bool { return u.Count > 1 }

// Chown gives a file to the sandbox's root.
func (u Users) Chown(path string) error {
	if !u.Many() {
		return nil
	}
	return os.Lchown(path, u.First, u.First)
}
