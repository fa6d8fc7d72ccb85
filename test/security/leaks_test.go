package security

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/internal/hands/sandbox"
)

// cycles is how many sandboxes of the namespace engine are made and destroyed.
// Of gVisor it is a fifth as many; and for every ten of them a worker is killed.
var cycles = flag.Int("cycles", 20, "how many sandboxes to make and destroy in the test for leaks")

func cyclesOf(engine string) int {
	if engine == "gvisor" {
		return max(1, *cycles/5)
	}
	return *cycles
}

// TestLeaks makes and destroys sandboxes, and kills workers that do, and wants
// the host to be as before. Nothing else runs meanwhile: it looks at this process
// too.
func TestLeaks(t *testing.T) {
	for engine, make := range engines {
		t.Run(engine, func(t *testing.T) {
			if err := make(t.TempDir()).Check(t.Context()); err != nil {
				t.Skip(err)
			}
			dir := openDir(t)
			t.Setenv("TMPDIR", filepath.Join(dir, "tmp")) // whatever is put there is ours
			if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o777); err != nil {
				t.Fatal(err)
			}
			e := make(filepath.Join(dir, "state"))
			t.Run("create and destroy", func(t *testing.T) { testRounds(t, e, dir) })
			t.Run("workers killed", func(t *testing.T) { testKilled(t, e, dir) })
		})
	}
}

func testRounds(t *testing.T, e sandbox.Engine, dir string) {
	n := cyclesOf(e.Name())
	series := newID()[:20]
	round := func(i int) {
		s, err := begin(t.Context(), e, dir, fmt.Sprintf("%s%06d", series, i))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, s.ID())); err != nil {
			t.Fatal(err)
		}
	}
	round(0) // what is made once, and kept
	before := holdings(t, dir, series)
	for i := range n {
		round(i + 1)
	}
	asBefore(t, before, dir, series)
	t.Logf("%d sandboxes left nothing", n)
}

// begin makes a sandbox and has it do a little. Its id names its working
// directory.
func begin(ctx context.Context, e sandbox.Engine, dir, id string) (sandbox.Sandbox, error) {
	s, err := e.Create(ctx, sandbox.Spec{ID: id, Workdir: filepath.Join(dir, id), Limits: small})
	if err != nil {
		return nil, err
	}
	r, err := s.Call(ctx, call("bash", map[string]any{"command": "(sleep 600 &) ; mkfifo f; mkdir shut; chmod 0 shut; exec 9>/dev/shm/x; echo x >/tmp/x; echo x >/usr/x"}))
	if err != nil {
		return s, err
	}
	if r.Text == "" {
		return s, fmt.Errorf("%s said nothing", id)
	}
	return s, nil
}

// roleOwner makes this program one that makes and destroys sandboxes until it
// is killed.
const roleOwner = "security-owner"

// beOwner leaves some of its sandboxes alive. Their ids begin with the last name
// of the directory.
func beOwner(engine, dir string) error {
	e := engines[engine](filepath.Join(dir, "state"))
	series := os.Getenv(seriesName)
	fmt.Println("begins")
	for i := 0; ; i++ {
		s, err := begin(context.Background(), e, dir, fmt.Sprintf("%s%06d", series, i))
		if err != nil {
			return err
		}
		if i%2 == 0 {
			continue
		}
		if err := s.Destroy(context.Background()); err != nil {
			return err
		}
	}
}

// seriesName is the variable in which an owner is told how ids begin.
const seriesName = "SECURITY_TEST_SERIES"

func testKilled(t *testing.T, e sandbox.Engine, dir string) {
	n := max(1, cyclesOf(e.Name())/10)
	window := map[string]time.Duration{"namespace": 400 * time.Millisecond, "gvisor": 2 * time.Second, "docker": 2 * time.Second}[e.Name()]
	left := 0
	for range n {
		series := newID()[:20]
		before := holdings(t, dir, series)
		kill(t, e.Name(), dir, series, rand.N(window))
		infos, err := e.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		left += len(infos)
		for _, info := range infos {
			if info.OwnerAlive {
				t.Errorf("%s is owned by %d, which was killed", info.ID, info.Owner)
			}
			if err := e.Destroy(t.Context(), info.ID); err != nil {
				t.Error(err)
			}
		}
		works, err := filepath.Glob(filepath.Join(dir, series+"*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, work := range works {
			if err := os.RemoveAll(work); err != nil {
				t.Error(err)
			}
		}
		asBefore(t, before, dir, series)
	}
	t.Logf("%d workers killed; what became of their %d sandboxes left nothing", n, left)
}

// kill starts an owner and kills it after a while.
func kill(t *testing.T, engine, dir, series string, after time.Duration) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	owner := exec.Command(self, roleOwner, engine, dir)
	owner.Env = append(os.Environ(), seriesName+"="+series)
	owner.Stderr = os.Stderr
	out, err := owner.StdoutPipe()
	if err == nil {
		err = owner.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(after) // the point is that it may be any
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // it was killed
}

// asBefore wants the host to come to hold what it held before. What the kernel
// does after the fact may take it a moment.
func asBefore(t *testing.T, before map[string][]string, dir, series string) {
	t.Helper()
	var left map[string][]string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if left = more(before, holdings(t, dir, series)); len(left) == 0 {
			return
		}
	}
	for kind, things := range left {
		t.Errorf("%s are left: %.1000q", kind, things)
	}
}

// more is what there is after and was not there before, as often.
func more(before, after map[string][]string) map[string][]string {
	left := map[string][]string{}
	for kind, things := range after {
		was := slices.Clone(before[kind])
		for _, thing := range things {
			if i := slices.Index(was, thing); i >= 0 {
				was = slices.Delete(was, i, i+1)
			} else {
				left[kind] = append(left[kind], thing)
			}
		}
	}
	return left
}

// holdings are what the host holds for sandboxes that are kept in a directory, or whose
// ids begin so.
func holdings(t *testing.T, dir, series string) map[string][]string {
	t.Helper()
	held := map[string][]string{}
	add := func(kind, thing string) { held[kind] = append(held[kind], thing) }
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("/proc/%d", os.Getpid())
	for _, process := range processes {
		mounts, _ := os.ReadFile(process + "/mountinfo") // it may have just ended
		line, _ := os.ReadFile(process + "/cmdline")
		if process != own && strings.Contains(string(mounts)+string(line), dir) || strings.Contains(string(line), series) {
			add("processes", filepath.Base(process)+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	// The threads of this process: the namespaces they are in, and their mounts.
	threads, err := filepath.Glob("/proc/self/task/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"mnt", "net", "pid", "ipc", "uts", "user", "cgroup"} {
		seen := map[string]bool{}
		for _, thread := range threads {
			if in, err := os.Readlink(thread + "/ns/" + kind); err == nil && !seen[in] {
				seen[in] = true
				add("namespaces", in)
			}
		}
	}
	for _, thread := range threads {
		mounts, _ := os.ReadFile(thread + "/mountinfo") // it may have just ended
		for range strings.Count(string(mounts), dir) {
			add("mounts", "one of this process's")
		}
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range open { // which numbers they have does not matter
		target, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		kind, _, _ := strings.Cut(target, ":")
		add("descriptors", kind)
	}
	for range runtime.NumGoroutine() {
		add("goroutines", "one")
	}
	_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			add("files", path)
		}
		return nil
	})
	for _, group := range groups().Dirs(series) {
		found, err := filepath.Glob(group + "*")
		if err != nil {
			t.Fatal(err)
		}
		for _, group := range found {
			add("control groups", group)
		}
	}
	return held
}
