package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// nest makes a directory with so many below it, each in the one before.
func nest(t *testing.T, levels int) (top string) {
	t.Helper()
	top = filepath.Join(t.TempDir(), "top")
	if err := os.Mkdir(top, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(top, openDir, 0)
	for range levels {
		var next int
		err = errors.Join(err, unix.Mkdirat(fd, "a", 0o755))
		if err == nil {
			next, err = unix.Openat(fd, "a", openDir, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	return top
}

// TestRemoveAll: with few descriptors to be had, as for a worker with many sessions.
func TestRemoveAll(t *testing.T) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	top := nest(t, 5000)
	script := `mkdir -p x/y/z closed/in && touch f x/f x/y/z/f closed/in/f && ln -s / x/away && ln f x/again && mkfifo x/y/pipe && chmod 0 closed/in closed`
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir = top
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 100, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	err := RemoveAll(top)
	if restored := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); restored != nil {
		t.Fatal(restored)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(top); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Errorf("what a link led to: %v", err)
	}
	if err := RemoveAll(top); err != nil {
		t.Errorf("what is not there: %v", err)
	}
}

// TestDeepUsage: what is nested too deep to be counted is known not to be.
func TestDeepUsage(t *testing.T) {
	for levels, want := range map[int]bool{maxDepth: true, 5000: false} {
		if _, whole := usage([]string{nest(t, levels)}, 0); whole != want {
			t.Errorf("%d levels: counted as a whole is %t", levels, whole)
		}
	}
}
