package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// usage is what the files below dirs take on disk, with those that have no name
// any more and are held open by a process or one of its descendants. What cannot
// be read, or goes while it is counted, counts as nothing.
func usage(dirs []string, pid int) int64 {
	t := tally{seen: map[inode]bool{}, devices: map[uint64]bool{}}
	for _, dir := range dirs {
		root, err := os.OpenRoot(dir)
		if err != nil {
			continue
		}
		t.directory(root, ".")
		root.Close()
	}
	t.nameless(pid)
	return t.bytes
}

type inode struct{ device, number uint64 }

// tally counts files.
type tally struct {
	bytes   int64
	seen    map[inode]bool  // files with several names, or none
	devices map[uint64]bool // where the directories are
}

func (t *tally) add(dev, ino, links uint64, blocks int64, isDir bool) {
	if links != 1 && !isDir {
		if t.seen[inode{dev, ino}] {
			return
		}
		t.seen[inode{dev, ino}] = true
	}
	t.bytes += blocks * 512
}

// maxRelative is how long a path may grow before its directory is opened and
// paths begin anew: the kernel takes none beyond 4096 bytes, and a sandbox can
// nest directories deeper than that.
const maxRelative = 2048

// directory counts what is below a directory, by its path from base.
func (t *tally) directory(base *os.Root, rel string) {
	dir, err := base.OpenFile(rel, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	below := t.entries(dir)
	dir.Close()
	for _, name := range below {
		next := rel + "/" + name
		if len(next) < maxRelative {
			t.directory(base, next)
			continue
		}
		if deeper, err := base.OpenRoot(next); err == nil {
			t.directory(deeper, ".")
			deeper.Close()
		}
	}
}

// entries counts a directory and what is in it, and returns the directories.
func (t *tally) entries(dir *os.File) (below []string) {
	var stat unix.Stat_t
	if unix.Fstat(int(dir.Fd()), &stat) == nil {
		t.devices[stat.Dev] = true
		t.bytes += stat.Blocks * 512
	}
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if unix.Fstatat(int(dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue
			}
			if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
				below = append(below, name)
				continue
			}
			t.add(stat.Dev, stat.Ino, uint64(stat.Nlink), stat.Blocks, false)
		}
		if err != nil {
			return below
		}
	}
}

// nameless counts files without a name that a process or one of its descendants
// has open.
func (t *tally) nameless(pid int) {
	proc := fmt.Sprintf("/proc/%d", pid)
	open, _ := os.ReadDir(proc + "/fd")
	for _, fd := range open {
		info, err := os.Stat(proc + "/fd/" + fd.Name())
		if err != nil {
			continue
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if ok && stat.Nlink == 0 && info.Mode()&fs.ModeType == 0 && t.devices[uint64(stat.Dev)] {
			t.add(uint64(stat.Dev), stat.Ino, 0, stat.Blocks, false)
		}
	}
	tasks, _ := os.ReadDir(proc + "/task")
	for _, task := range tasks {
		children, _ := os.ReadFile(proc + "/task/" + task.Name() + "/children")
		for _, child := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(child); err == nil {
				t.nameless(child)
			}
		}
	}
}
