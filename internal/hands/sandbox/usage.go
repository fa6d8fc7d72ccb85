package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// openDirs opens directories whose files are to be counted, wherever they are moved
// to meanwhile. What an engine does without is not there.
func openDirs(names ...string) (dirs []*os.File, err error) {
	for _, name := range names {
		dir, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			closeDirs(dirs)
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

func closeDirs(dirs []*os.File) {
	for _, dir := range dirs {
		dir.Close()
	}
}

// usage is what the files below dirs take on disk, with those that have no name
// any more and are held open by a process, unless pid is 0, or one of its descendants.
// What cannot be read, or goes while it is counted, counts as nothing. Directories nested
// deeper than any program would are not looked into; whole is false then.
func usage(dirs []*os.File, pid int) (bytes int64, whole bool) {
	t := tally{seen: map[inode]bool{}, devices: map[uint64]bool{}}
	for _, dir := range dirs {
		t.directory(int(dir.Fd()), ".", 0)
	}
	t.nameless(pid)
	return t.bytes, !t.cut
}

// Usage is what the files below a directory take on disk, in bytes, as a session's are
// counted: more than any limit for directories nested deeper than any program would.
func Usage(dir string) int64 {
	dirs, err := openDirs(dir)
	if err != nil {
		return 0
	}
	defer closeDirs(dirs)
	bytes, whole := usage(dirs, 0)
	if !whole {
		return math.MaxInt64
	}
	return bytes
}

type inode struct{ device, number uint64 }

// tally counts files.
type tally struct {
	bytes   int64
	cut     bool            // not all was counted
	seen    map[inode]bool  // files with several names, or none
	devices map[uint64]bool // where the directories are
}

// minBytes is what a file counts for at least: its inode takes place too.
const minBytes = 512

func (t *tally) add(dev, ino, links uint64, blocks int64, isDir bool) {
	if links != 1 && !isDir {
		if t.seen[inode{dev, ino}] {
			return
		}
		t.seen[inode{dev, ino}] = true
	}
	t.bytes += max(minBytes, blocks*512)
}

// maxRelative is how long a path may grow before its directory is opened and
// paths begin anew: the kernel takes none beyond 4096 bytes, and a sandbox can
// nest directories deeper than that. Deeper than maxDepth makes counting them take
// longer than writing to them.
const (
	maxRelative = 2048
	maxDepth    = 1000
	openDir     = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
)

// openBelow opens a directory by its path from base. It follows no link on the way,
// but where the kernel cannot be asked for that: what is then counted may be
// elsewhere, which harms nobody but who made the link.
func openBelow(base int, rel string, how int) (int, error) {
	fd, err := unix.Openat2(base, rel, &unix.OpenHow{Flags: uint64(how), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return unix.Openat(base, rel, how, 0)
	}
	return fd, err
}

// openShut opens a directory whose mode keeps the worker out, and leaves it open to its
// owner. Root in the sandbox of an ordinary user's worker writes there whatever the
// mode; outside, that user has to follow it.
func openShut(base int, rel string) (int, error) {
	at, err := openBelow(base, rel, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	var stat unix.Stat_t
	if err := unix.Fstat(at, &stat); err != nil {
		return -1, err
	}
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", at), stat.Mode&0o7777|0o500); err != nil {
		return -1, err
	}
	return unix.Openat(at, ".", openDir, 0)
}

// directory counts what is below a directory, by its path from base.
func (t *tally) directory(base int, rel string, depth int) {
	if depth > maxDepth {
		t.cut = true
		return
	}
	fd, err := openBelow(base, rel, openDir)
	if errors.Is(err, unix.EACCES) {
		if fd, err = openShut(base, rel); err != nil && !errors.Is(err, unix.ENOENT) {
			t.cut = true
		}
	}
	if err != nil {
		return
	}
	dir := os.NewFile(uintptr(fd), rel)
	below := t.entries(dir)
	dir.Close()
	for _, name := range below {
		next := rel + "/" + name
		if len(next) < maxRelative {
			t.directory(base, next, depth+1)
			continue
		}
		if deeper, err := openBelow(base, next, openDir); err == nil {
			t.directory(deeper, ".", depth+1)
			unix.Close(deeper)
		}
	}
}

// entries counts a directory and what is in it, and returns the directories.
func (t *tally) entries(dir *os.File) (below []string) {
	var stat unix.Stat_t
	if unix.Fstat(int(dir.Fd()), &stat) == nil {
		t.devices[stat.Dev] = true
		t.add(stat.Dev, stat.Ino, uint64(stat.Nlink), stat.Blocks, true)
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
// has open, runs, or has in its memory.
func (t *tally) nameless(pid int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	mapped := false
	for _, task := range tasks {
		// By the thread: each may have files open that the others have not, and where
		// the first one has ended the process shows none.
		proc := "/proc/" + task.Name()
		if task == tasks[0] || !sameFiles(tasks[0].Name(), task.Name()) {
			t.open(proc)
		}
		if !mapped {
			mapped = t.mapped(proc)
		}
		children, _ := os.ReadFile(proc + "/task/" + task.Name() + "/children")
		for _, child := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(child); err == nil {
				t.nameless(child)
			}
		}
	}
}

// sameFiles tells whether two threads have the same files open, where the kernel can
// be asked for that.
func sameFiles(thread, other string) bool {
	const files = 2              // KCMP_FILES
	a, _ := strconv.Atoi(thread) // both are names in /proc
	b, _ := strconv.Atoi(other)
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), files, 0, 0, 0)
	return errno == 0 && order == 0
}

// open counts what a thread has open.
func (t *tally) open(proc string) {
	open, _ := os.ReadDir(proc + "/fd")
	for _, fd := range open {
		t.link(proc + "/fd/" + fd.Name())
	}
}

// deleted ends the line of a mapping of a file without a name.
const deleted = " (deleted)\n"

// mapped counts what a process runs and has in its memory, if it still has one. The
// kernel shows it to root only.
func (t *tally) mapped(proc string) bool {
	maps, _ := os.ReadFile(proc + "/maps")
	if !bytes.Contains(maps, []byte(deleted)) {
		return len(maps) > 0
	}
	t.link(proc + "/exe")
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(line, deleted) {
			continue
		}
		var from, to uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err == nil {
			t.link(fmt.Sprintf("%s/map_files/%x-%x", proc, from, to))
		}
	}
	return true
}

// link counts the file that a link of the kernel leads to, if it has no name.
func (t *tally) link(path string) {
	var stat unix.Stat_t
	if unix.Stat(path, &stat) == nil && stat.Nlink == 0 && stat.Mode&unix.S_IFMT == unix.S_IFREG && t.devices[stat.Dev] {
		t.add(stat.Dev, stat.Ino, 0, stat.Blocks, false)
	}
}
