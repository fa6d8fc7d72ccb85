package sandboxtest

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"hearth/internal/hands/sandbox"
)

func testEnvironment(t *testing.T, newEngine Maker) {
	secret := newMarker()
	for _, name := range []string{"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "HEARTH_ENVIRONMENT_KEY", "SOME_OTHER_SECRET"} {
		t.Setenv(name, secret)
	}
	b := newBoxOf(t, newEngine, sandbox.Spec{Env: map[string]string{"GIVEN": "a 'value'\nof two lines", "LANG": "C.UTF-8"}})
	env := b.bash("env; cat /proc/self/environ /proc/$$/environ | tr '\\0' '\\n'; set")
	if strings.Contains(env, secret) {
		t.Error("the worker's environment shows in the sandbox")
	}
	equal(t, "given", b.bash(`echo "$GIVEN"`), "a 'value'\nof two lines")
	b.ok("bash", input{"restart": true})
	equal(t, "given, after a restart", b.bash(`echo "$GIVEN"`), "a 'value'\nof two lines")
	for _, name := range []string{"PATH", "HOME"} {
		b.bash(`[ -n "$` + name + `" ]`)
	}
	b.bash(`[ -d "$HOME" ] && touch "$HOME/.probe" && rm "$HOME/.probe"`)
	b.bash("for tool in ls cat sed awk grep find tar env; do command -v $tool >/dev/null || exit 1; done")
}

// The workdir is the host's directory: it is there before, during and after.
func testWorkdir(t *testing.T, newEngine Maker) {
	host := filepath.Join(t.TempDir(), "with space", "žluť")
	if err := os.MkdirAll(filepath.Join(host, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"before", "sub/before"} {
		if err := os.WriteFile(filepath.Join(host, name), []byte("from the host\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := newBoxOf(t, newEngine, sandbox.Spec{Workdir: host})
	equal(t, "before", first.bash("cat before sub/before"), "from the host\nfrom the host")
	first.bash("echo changed >before; echo x >sub/before; mkdir made; echo kept >made/kept; chmod 600 made/kept; chmod 700 made")
	first.ok("edit", input{"file_path": "before", "old_string": "changed", "new_string": "edited"})
	equal(t, "host sees", first.get("before"), "edited\n")
	// What the host adds while the sandbox runs can be used there too.
	first.put("later", []byte("added"))
	equal(t, "later", first.bash("cat later"), "added")
	if err := first.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "after", first.get("made/kept"), "kept\n")

	second := newBoxOf(t, newEngine, sandbox.Spec{Workdir: host})
	equal(t, "in the next sandbox", second.bash("cat made/kept; echo more >>made/kept; cat before"), "kept\nedited")
	equal(t, "nothing strange", second.bash("ls"), "before\nlater\nmade\nsub")
}

func testIdentity(t *testing.T, newEngine Maker) {
	state := t.TempDir()
	engine := newEngine(state)
	id := newID()
	labels := map[string]string{"session": "sesn_1", "odd": "a=b,c \"d\" ž"}
	b := createBox(t, engine, state, sandbox.Spec{ID: id, Labels: labels})
	equal(t, "id", b.ID(), id)
	if engine.Name() == "" || b.Workdir() == "" {
		t.Errorf("engine name %q, workdir %q", engine.Name(), b.Workdir())
	}
	info := find(t, engine, id)
	if info == nil || !maps.Equal(info.Labels, labels) || info.Owner != os.Getpid() || !info.OwnerAlive || info.Created.IsZero() {
		t.Fatalf("listed as %+v", info)
	}
	// Another engine under the same directory sees it, one under another not.
	if find(t, newEngine(state), id) == nil {
		t.Error("a second engine does not see the sandbox")
	}
	if find(t, newEngine(t.TempDir()), id) != nil {
		t.Error("an engine elsewhere sees the sandbox")
	}
	if _, err := engine.Create(t.Context(), sandbox.Spec{ID: id, Workdir: filepath.Join(t.TempDir(), "w")}); err == nil {
		t.Error("two sandboxes of one id")
	}
	equal(t, "the first is unharmed", b.bash("echo fine"), "fine")
	for _, id := range []string{"", "short", "../../../../../../../../x", strings.Repeat("A", 26), strings.Repeat("a", 27), id[:25] + "/"} {
		if _, err := engine.Create(t.Context(), sandbox.Spec{ID: id, Workdir: filepath.Join(t.TempDir(), "w")}); err == nil {
			t.Errorf("a sandbox of id %q", id)
		}
		// Destroying what cannot exist harms nothing.
		_ = engine.Destroy(t.Context(), id)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late := newID()
	if s, err := engine.Create(cancelled, sandbox.Spec{ID: late, Workdir: filepath.Join(t.TempDir(), "w")}); err == nil {
		_ = s.Destroy(context.Background())
	} else if find(t, engine, late) != nil {
		t.Error("a create that failed left a sandbox behind")
	}
	equal(t, "still", b.bash("echo fine"), "fine")
}

func find(t testing.TB, engine sandbox.Engine, id string) *sandbox.Info {
	t.Helper()
	infos, err := engine.List(t.Context())
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	for _, info := range infos {
		if info.ID == id {
			return &info
		}
	}
	return nil
}

// Limits may be more than an engine can enforce, never more than it can bear.
func testLimits(t *testing.T, newEngine Maker) {
	b := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{
		OpenFiles: 100, Processes: 200, MemoryBytes: 1 << 30, CPUs: 0.5, DiskBytes: 1 << 30,
	}})
	equal(t, "works under limits", b.bash("seq 1 3 | sort -r | head -1"), "3")
	b.ok("grep", input{"pattern": "x"})
	result := b.do(toolCall("bash", input{"command": "ulimit -n; for i in {1..100}; do exec {fd}</dev/null; done"}))
	if !strings.Contains(result.Text, "limit of 100 open files") {
		t.Errorf("what opens too many files is told %q", result.Text)
	}
}

func testManySandboxes(t *testing.T, newEngine Maker) {
	state := t.TempDir()
	engine := newEngine(state)
	const n = 8
	boxes := make([]*box, n)
	var wg sync.WaitGroup
	for i := range boxes {
		work := filepath.Join(t.TempDir(), "work")
		wg.Go(func() { boxes[i] = createBox(t, engine, state, sandbox.Spec{Workdir: work}) })
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i, b := range boxes {
		wg.Go(func() {
			b.do(toolCall("bash", input{"command": fmt.Sprintf("mine=%d; echo %d >mine", i, i)}))
			if r := b.do(toolCall("bash", input{"command": "echo $mine $(cat mine)"})); strings.TrimSpace(r.Text) != fmt.Sprintf("%d %d", i, i) {
				t.Errorf("sandbox %d says %q", i, r.Text)
			}
		})
	}
	wg.Wait()
	infos, err := engine.List(t.Context())
	if err != nil || len(infos) != n {
		t.Errorf("listed %d of %d: %v", len(infos), n, err)
	}
	for _, b := range boxes {
		wg.Go(func() {
			if err := b.Destroy(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if infos, err := engine.List(t.Context()); err != nil || len(infos) != 0 {
		t.Errorf("listed after the end: %v, %v", infos, err)
	}
}

// A parent-death signal is sent when the creating thread ends, not the
// process. A sandbox must not die with a thread.
func testCreatingThreadEnds(t *testing.T, newEngine Maker) {
	state, work := t.TempDir(), filepath.Join(t.TempDir(), "work")
	type made struct {
		sandbox.Sandbox
		err error
		tid int
	}
	created := make(chan made, 1)
	var create func()
	create = func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with us
		if syscall.Gettid() == os.Getpid() {
			// All but the first thread, that is; leave it once another has begun.
			begun := make(chan struct{})
			go func() { runtime.LockOSThread(); close(begun); runtime.UnlockOSThread(); create() }()
			<-begun
			runtime.UnlockOSThread()
			return
		}
		s, err := newEngine(state).Create(t.Context(), sandbox.Spec{ID: newID(), Workdir: work})
		created <- made{s, err, syscall.Gettid()}
	}
	go create()
	m := <-created
	if m.err != nil {
		t.Fatal(m.err)
	}
	b := &box{Sandbox: m, t: t, state: state, host: work}
	t.Cleanup(func() {
		if err := m.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	task := fmt.Sprintf("/proc/self/task/%d", m.tid)
	eventually(t, "the creating thread ends", func() bool { _, err := os.Stat(task); return err != nil })
	equal(t, "alive", b.bash("echo alive"), "alive")
}

func testDestroy(t *testing.T, newEngine Maker) {
	for _, by := range []string{"itself", "id"} {
		t.Run("by "+by, func(t *testing.T) {
			b := newBox(t, newEngine)
			marker := newMarker()
			b.daemon(marker)
			b.bash("echo kept >kept")
			// What is being started just then must not get away.
			b.bash("(while sleep 0.001; do (exec -a " + marker + " sleep 100000) & done) & true")
			pending := make(chan struct{})
			go func() {
				defer close(pending)
				_, _ = b.try(context.Background(), toolCall("bash", input{"command": "touch started; (exec -a " + marker + " sleep 100000)"}))
			}()
			eventually(t, "a call is under way", func() bool { _, err := os.Stat(b.hostPath("started")); return err == nil })

			destroy := b.Destroy
			if by == "id" {
				destroy = func(ctx context.Context) error { return b.engine.Destroy(ctx, b.ID()) }
			}
			if err := destroy(t.Context()); err != nil {
				t.Fatalf("destroy: %v", err)
			}
			closes(t, "Done", b.Done())
			closes(t, "the call under way", pending)
			leftNothing(t, b.engine, b.state, b.ID(), marker)
			equal(t, "the workdir", b.get("kept"), "kept\n")
			if _, err := b.Call(t.Context(), toolCall("bash", input{"command": "true"})); err == nil {
				t.Error("a destroyed sandbox answers")
			}
			for range 2 {
				if err := b.Destroy(t.Context()); err != nil {
					t.Errorf("destroy again: %v", err)
				}
				if err := b.engine.Destroy(t.Context(), b.ID()); err != nil {
					t.Errorf("destroy again by id: %v", err)
				}
			}
			if err := b.engine.Destroy(t.Context(), newID()); err != nil {
				t.Errorf("destroy of one that never was: %v", err)
			}
		})
	}
}

// leftNothing checks the host for the traces of a destroyed sandbox.
func leftNothing(t *testing.T, engine sandbox.Engine, state, id, marker string) {
	t.Helper()
	if pids := append(running(marker), holding(id)...); len(pids) > 0 {
		t.Errorf("processes left: %v", pids)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // or they outlive the test
		}
	}
	if find(t, engine, id) != nil {
		t.Error("still listed")
	}
	for _, root := range []string{state, "/sys/fs/cgroup"} {
		_ = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.Contains(filepath.Base(path), id) {
				t.Errorf("left: %s", path)
			}
			return nil
		})
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), id) {
		t.Errorf("a mount is left in the worker's namespace (or cannot be seen: %v)", err)
	}
}

func testHandDies(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	marker := newMarker()
	b.daemon(marker)
	pending := make(chan struct{})
	go func() {
		defer close(pending)
		_, _ = b.try(context.Background(), toolCall("bash", input{"command": "touch started; (exec -a " + marker + " sleep 100000)"}))
	}()
	eventually(t, "a call is under way", func() bool { _, err := os.Stat(b.hostPath("started")); return err == nil })
	if err := syscall.Kill(b.firstAbove(b.onHost(marker)[0]), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	closes(t, "Done", b.Done())
	closes(t, "the call under way", pending)
	if _, err := b.Call(t.Context(), toolCall("bash", input{"command": "true"})); err == nil {
		t.Error("a dead sandbox answers")
	}
	if err := b.Destroy(t.Context()); err != nil {
		t.Fatalf("destroy: %v", err)
	}
	leftNothing(t, b.engine, b.state, b.ID(), marker)
}

// Outlives checks that a sandbox goes on after kill, which is to end a process that
// only helps the engine, and that others can be made then.
func Outlives(t *testing.T, newEngine Maker, kill func()) {
	b := newBox(t, newEngine)
	b.bash("x=1; sleep 1000 & cd /")
	kill()
	other := newBox(t, newEngine)
	equal(t, "one made after it", other.bash("echo fine"), "fine")
	equal(t, "one made before it", b.bash("pwd; echo $x; kill $! && echo killed"), "/\n1\nkilled")
}

// firstAbove walks up from a process of a sandbox to its first one: the one that
// this process started, or where another one starts them, the first of its process
// namespace.
func (b *box) firstAbove(pid int) int {
	b.t.Helper()
	another := b.engine.Name() == "docker" || b.engine.Name() == "namespace"
	for range 20 {
		parent := statusOf(b.t, pid, "PPid")
		if ids := strings.Fields(statusOf(b.t, pid, "NSpid")); another && len(ids) > 1 && ids[len(ids)-1] == "1" || parent == strconv.Itoa(os.Getpid()) {
			return pid
		}
		pid, _ = strconv.Atoi(parent) // the kernel writes numbers
	}
	b.t.Fatal("the sandbox is no descendant of its worker")
	return 0
}

// statusOf reads a field of what the kernel says of a process.
func statusOf(t testing.TB, pid int, field string) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if name, value, _ := strings.Cut(line, ":"); name == field {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("process %d has no %s", pid, field)
	return ""
}
