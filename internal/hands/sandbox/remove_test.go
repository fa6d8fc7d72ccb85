package sandbox

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

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

// TestEmpty empties a directory while somebody goes on making directories and turning
// them into links to one outside.
func TestEmpty(t *testing.T) {
	outside := t.TempDir()
	kept := filepath.Join(outside, "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	top := nest(t, 500)
	script := `while :; do
		mkdir -p x/y/z && touch x/y/z/f && mv x/y w && ln -s "$1" x/y && chmod 0 w && mv w x/w && rm x/y && ln -s "$1" w && mv w x/w/z
	done`
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script, "sh", outside)
	cmd.Dir = top
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(top)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	busy, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for busy.Err() == nil {
		if err := Empty(busy, dir); err != nil && busy.Err() == nil {
			t.Fatal(err)
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := Empty(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(top); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if info, err := os.Stat(kept); err != nil || info.Mode() != 0o600 {
		t.Errorf("what links led to: %v, %v", info, err)
	}
}

// TestDeepUsage: what is nested too deep to be counted is known not to be.
func TestDeepUsage(t *testing.T) {
	for levels, want := range map[int]bool{maxDepth: true, 5000: false} {
		dirs, err := openDirs(nest(t, levels))
		if err != nil {
			t.Fatal(err)
		}
		defer closeDirs(dirs)
		if _, whole := usage(dirs, 0); whole != want {
			t.Errorf("%d levels: counted as a whole is %t", levels, whole)
		}
	}
}
