package record

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hearth/internal/hands/sandbox"
	"hearth/test/run"
)

// roleOwner makes this program one that owns a sandbox until it is killed.
const roleOwner = "record-owner"

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == roleOwner {
		if _, err := Dir(os.Args[2]).Create(sandbox.Spec{ID: os.Args[3]}, nil); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test
		return
	}
	os.Exit(m.Run())
}

func newID() string { return strings.ToLower(rand.Text()) }

// own starts an owner of a sandbox, by way of another program if one is given, and
// returns what kills it.
func own(t *testing.T, dir Dir, id string, by ...string) (kill func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := append(by, self, roleOwner, string(dir), id)
	owner := exec.Command(command[0], command[1:]...)
	owner.Stderr = os.Stderr
	if _, err := owner.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := owner.StdoutPipe()
	if err == nil {
		err = owner.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(stdout)
	kill = func() {
		_ = owner.Process.Kill()
		_, _ = io.Copy(io.Discard, out) // until those it started are gone too
		_ = owner.Wait()
	}
	t.Cleanup(kill)
	if line, err := out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the owner said %q: %v", line, err)
	}
	return kill
}

// alive tells what is listed of the only sandbox there is.
func alive(t *testing.T, dir Dir, id string) bool {
	t.Helper()
	infos, err := dir.Infos()
	if err != nil || len(infos) != 1 || infos[0].ID != id {
		t.Fatalf("listed: %+v, %v", infos, err)
	}
	return infos[0].OwnerAlive
}

// change gives the record of a sandbox another owner.
func change(t *testing.T, dir Dir, id string, owner func(*Owner)) {
	t.Helper()
	r, err := dir.Load(id)
	if err != nil {
		t.Fatal(err)
	}
	owner(&r.Owner)
	if err := dir.Save(r); err != nil {
		t.Fatal(err)
	}
}

// noOwners fails where a lock is left.
func noOwners(t *testing.T, dir Dir) {
	t.Helper()
	if left, err := os.ReadDir(filepath.Join(string(dir), ownersDir)); err != nil || len(left) > 0 {
		t.Errorf("locks left: %v, %v", left, err)
	}
}

// An owner lives while it holds its lock, whatever its id means here.
func TestOwnerOfAnotherNamespace(t *testing.T) {
	dir, id := Dir(t.TempDir()), newID()
	kill := own(t, dir, id)
	for _, p := range []Process{{PID: 1 << 30, Start: 1}, {PID: os.Getpid(), Start: 1}} {
		change(t, dir, id, func(o *Owner) { o.Process = p })
		if !alive(t, dir, id) {
			t.Errorf("the owner is taken for dead as %+v", p)
		}
	}
	// Alive is what has its id, but it is not.
	here, err := Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	change(t, dir, id, func(o *Owner) { o.Process = here })
	kill()
	if alive(t, dir, id) {
		t.Error("the owner that was killed is taken for alive")
	}
	noOwners(t, dir)
	if alive(t, dir, id) {
		t.Error("the owner that was killed is taken for alive once its lock is gone")
	}
}

func TestOwnerInAContainer(t *testing.T) {
	unshare := []string{"unshare", "--pid", "--fork", "--kill-child", "--mount-proc"}
	if os.Getuid() != 0 {
		unshare = append(unshare, "--map-root-user")
	}
	if out, err := exec.Command(unshare[0], append(unshare[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("no process namespaces can be had here: %v: %s", err, out)
	}
	dir, id := Dir(t.TempDir()), newID()
	kill := own(t, dir, id, unshare...)
	if !alive(t, dir, id) {
		t.Error("the owner is taken for dead")
	}
	kill()
	run.Eventually(t, "the owner is known to be dead", func() bool { return !alive(t, dir, id) })
	noOwners(t, dir)
}

// Records of earlier versions, and of hosts without locks, name a process only.
func TestOwnerWithoutLock(t *testing.T) {
	dir, id := Dir(t.TempDir()), newID()
	kill := own(t, dir, id)
	change(t, dir, id, func(o *Owner) { o.Lock = "" })
	if !alive(t, dir, id) {
		t.Error("the owner is taken for dead")
	}
	kill()
	if alive(t, dir, id) {
		t.Error("the owner that was killed is taken for alive")
	}
}

// A process has one lock for all its sandboxes, which goes once it is dead, though
// they were gone before it.
func TestOneLock(t *testing.T) {
	dir, first, second := Dir(t.TempDir()), newID(), newID()
	kill := own(t, dir, first)
	if err := dir.Destroy(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	kill()
	a, err := dir.Create(sandbox.Spec{ID: first}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := dir.Create(sandbox.Spec{ID: second}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.Owner.Lock == "" || a.Owner != b.Owner {
		t.Errorf("the owners are %+v and %+v", a.Owner, b.Owner)
	}
	infos, err := dir.Infos()
	if err != nil || len(infos) != 2 || !infos[0].OwnerAlive || !infos[1].OwnerAlive {
		t.Errorf("listed: %+v, %v", infos, err)
	}
	left, err := os.ReadDir(filepath.Join(string(dir), ownersDir))
	if err != nil || len(left) != 1 || left[0].Name() != a.Owner.Lock {
		t.Errorf("locks left: %v, %v; want %s", left, err, a.Owner.Lock)
	}
}

// Somebody who looks for the locks of dead owners does not spoil those being made.
func TestLocksWhileSwept(t *testing.T) {
	dir := Dir(t.TempDir())
	if err := os.Mkdir(filepath.Join(string(dir), ownersDir), 0o700); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2000 {
			dir.sweep()
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		f, err := dir.tryLock()
		if err == errSwept {
			continue
		}
		if err != nil || f == nil {
			t.Fatal(f, err)
		}
		if !dir.isHeld(filepath.Base(f.Name())) {
			t.Fatal("a lock just taken is not held")
		}
		f.Close()
	}
}
