package cgroup_test

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
)

func tree(t *testing.T) *cgroup.Tree {
	t.Helper()
	groups, err := cgroup.Find()
	if lacks := groups.Lacks(); len(lacks) > 0 {
		t.Skipf("control groups do not let us limit %s here: %v", strings.Join(lacks, ", "), err)
	}
	return groups
}

// sleeper is a process in a group of its own.
func sleeper(t *testing.T, groups *cgroup.Tree) (id string, g *cgroup.Group) {
	t.Helper()
	id = strings.ToLower(rand.Text())
	g, err := groups.Make(id, sandbox.Limits{MemoryBytes: 100 << 20, CPUs: 0.5, Processes: 20})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	before := false
	if err := g.Door().Start(cmd, func() error { before = true; return nil }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cgroup.Thaw(groups.Dirs(id))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := cgroup.Remove(groups.Dirs(id)); err != nil {
			t.Error(err)
		}
		for _, dir := range groups.Dirs(id) {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s is left", dir)
			}
		}
	})
	for _, dir := range groups.Dirs(id) {
		want := strconv.Itoa(cmd.Process.Pid)
		// The thread that started it may take a moment to end.
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			members, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err == nil && strings.TrimSpace(string(members)) == want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s holds %q, want %s; %v", dir, members, want, err)
			}
		}
	}
	if !before {
		t.Error("what is to be done before was not")
	}
	return id, g
}

func TestSweepTakesWhatIsEmptyAndOld(t *testing.T) {
	groups := tree(t)
	busy, _ := sleeper(t, groups)
	young, old := strings.ToLower(rand.Text()), strings.ToLower(rand.Text())
	for _, id := range []string{young, old} {
		if _, err := groups.Make(id, sandbox.Limits{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := cgroup.Remove(groups.Dirs(id)); err != nil {
				t.Error(err)
			}
		})
	}
	long := time.Now().Add(-time.Hour)
	for _, id := range []string{busy, old} {
		for _, dir := range groups.Dirs(id) {
			if err := os.Chtimes(dir, long, long); err != nil {
				t.Skipf("the age of a group cannot be set on this kernel: %v", err)
			}
		}
	}
	groups.Sweep()
	for id, want := range map[string]bool{busy: true, young: true, old: false} {
		for _, dir := range groups.Dirs(id) {
			if _, err := os.Stat(dir); (err == nil) != want {
				t.Errorf("%s: there %v, want %v", dir, err == nil, want)
			}
		}
	}
}

func TestFreeze(t *testing.T) {
	groups := tree(t)
	_, g := sleeper(t, groups)
	for _, frozen := range []bool{true, true, false, false, true} {
		if err := g.Freeze(frozen); err != nil {
			t.Fatalf("freeze %v: %v", frozen, err)
		}
	}
}

// TestSockets leaves more in sockets than a group may have of memory there. What
// does not fit is dropped.
func TestSockets(t *testing.T) {
	groups := tree(t)
	if groups.Version() != 1 {
		t.Skip("what is in sockets is part of a group's memory")
	}
	id := strings.ToLower(rand.Text())
	g, err := groups.Make(id, sandbox.Limits{MemoryBytes: 100 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cgroup.Remove(groups.Dirs(id)); err != nil {
			t.Error(err)
		}
	})
	const each, size = 3, 60_000
	sent, kept := 0, 0
	cmd := exec.Command("true")
	err = g.Door().Start(cmd, func() error { // whoever makes a socket is whose it is
		for range 200 {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
				return err
			}
			self, err := unix.Getsockname(fd)
			if err != nil {
				return err
			}
			for range each {
				if err := unix.Sendto(fd, make([]byte, size), 0, self); err != nil {
					return err
				}
				sent += size
			}
			defer func() {
				for n := 0; n >= 0; {
					if n, _, _ = unix.Recvfrom(fd, make([]byte, size), unix.MSG_DONTWAIT); n > 0 {
						kept += n
					}
				}
			}()
		}
		return nil
	})
	if err != nil || cmd.Wait() != nil {
		t.Fatal(err)
	}
	if kept == 0 || kept > 100<<20/8 {
		t.Errorf("of %d bytes in sockets, %d were kept", sent, kept)
	}
}

func TestRemoveKeepsToItself(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not-ours")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := cgroup.Remove([]string{dir}); err == nil {
		t.Error("removed a directory that is no group of ours")
	}
}

func TestNoGroups(t *testing.T) {
	var none *cgroup.Tree
	if got := none.Lacks(); len(got) != 3 {
		t.Errorf("nothing lacks %v", got)
	}
	g, err := none.Make(strings.ToLower(rand.Text()), sandbox.Limits{MemoryBytes: 1})
	if err != nil || g.Door().Start(exec.Command("true"), nil) != nil || g.Hits() != (sandbox.Hits{}) || g.Freeze(true) == nil {
		t.Errorf("a group of nothing: %+v, %v", g, err)
	}
}
