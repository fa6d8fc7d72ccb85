package sandboxtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
)

// patience is how long the suite waits for something that should happen at
// once, before it calls it a failure.
const patience = 20 * time.Second

// box is a sandbox under test, with the host's side of it.
type box struct {
	sandbox.Sandbox
	t      testing.TB
	engine sandbox.Engine
	spec   sandbox.Spec
	state  string // the engine's state directory, on the host
	host   string // the workdir, on the host
	calls  atomic.Int64
}

// input is a tool's input object.
type input map[string]any

// newBox makes a sandbox with a new engine, state directory and workdir.
func newBox(t testing.TB, newEngine Maker) *box {
	t.Helper()
	return newBoxOf(t, newEngine, sandbox.Spec{})
}

// newBoxOf fills in what spec leaves open. The sandbox goes with the test.
func newBoxOf(t testing.TB, newEngine Maker, spec sandbox.Spec) *box {
	t.Helper()
	state := t.TempDir()
	return createBox(t, newEngine(state), state, spec)
}

func createBox(t testing.TB, engine sandbox.Engine, state string, spec sandbox.Spec) *box {
	t.Helper()
	if spec.ID == "" {
		spec.ID = newID()
	}
	if spec.Workdir == "" {
		spec.Workdir = filepath.Join(t.TempDir(), "work")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := engine.Create(ctx, spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	b := &box{t: t, engine: engine, spec: spec, state: state, host: spec.Workdir}
	return b.with(s)
}

// with is the box with another sandbox in it, which goes with the test.
func (b *box) with(s sandbox.Sandbox) *box {
	b.t.Cleanup(func() {
		if err := s.Destroy(context.Background()); err != nil {
			b.t.Errorf("destroy: %v", err)
		}
	})
	return &box{Sandbox: s, t: b.t, engine: b.engine, spec: b.spec, state: b.state, host: b.host}
}

func newID() string { return strings.ToLower(rand.Text()) }

// newMarker is a name no other process carries.
func newMarker() string { return "marker" + newID() }

// do runs a call and fails the test if the sandbox, not the tool, failed.
func (b *box) do(call hand.Call) hand.Result {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := b.try(ctx, call)
	if err != nil {
		b.t.Fatalf("%s %s: %v", call.Tool, call.Input, err)
	}
	return r
}

// try runs a call under a name of its own and checks what every result owes.
func (b *box) try(ctx context.Context, call hand.Call) (hand.Result, error) {
	b.t.Helper()
	call.ID = "call-" + strconv.FormatInt(b.calls.Add(1), 10)
	r, err := b.Call(ctx, call)
	if err != nil {
		return r, err
	}
	if r.ID != call.ID {
		b.t.Errorf("%s: asked as %q, answered as %q", call.Tool, call.ID, r.ID)
	}
	if r.Text == "" || !utf8.ValidString(r.Text) {
		b.t.Errorf("%s: the text %.80q is empty or not UTF-8", call.Tool, r.Text)
	}
	return r, nil
}

func toolCall(tool string, in any) hand.Call {
	raw, err := json.Marshal(in)
	if err != nil {
		panic(err)
	}
	return hand.Call{Tool: tool, Input: raw}
}

// ok runs a call that must succeed and returns its text.
func (b *box) ok(tool string, in input) string {
	b.t.Helper()
	r := b.do(toolCall(tool, in))
	if r.IsError {
		b.t.Fatalf("%s %.200v: failed: %.2000s", tool, in, r.Text)
	}
	return r.Text
}

// bad runs a call that must fail as a tool and returns its text.
func (b *box) bad(tool string, in input) string {
	b.t.Helper()
	r := b.do(toolCall(tool, in))
	if !r.IsError {
		b.t.Fatalf("%s %.200v: succeeded: %.2000s", tool, in, r.Text)
	}
	return r.Text
}

// bash runs a command that must succeed and returns its output, trimmed.
func (b *box) bash(command string) string {
	b.t.Helper()
	return strings.TrimSpace(b.ok("bash", input{"command": command}))
}

// hostPath is where the workdir's file of that name is on the host.
func (b *box) hostPath(name string) string { return filepath.Join(b.host, name) }

// put writes a workdir file from the host, so that the tools do not vouch for
// themselves.
func (b *box) put(name string, content []byte) {
	b.t.Helper()
	path := b.hostPath(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o666); err != nil {
		b.t.Fatal(err)
	}
}

// get reads a workdir file from the host.
func (b *box) get(name string) string {
	b.t.Helper()
	content, err := os.ReadFile(b.hostPath(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(content)
}

// daemon starts a background job in the sandbox that carries the marker, and
// waits until it runs. Its output stays joined to the session's.
func (b *box) daemon(marker string) {
	b.t.Helper()
	b.bash("(exec -a " + marker + " sleep 100000) & true")
	eventually(b.t, "the background job runs", func() bool { return b.inside(marker) == 1 })
	if visible := len(running(marker)) == 1; visible == b.guest() {
		b.t.Errorf("the host sees the processes of the sandbox: %v", visible)
	}
}

// guest tells whether the engine's sandboxes have kernels of their own, so that
// the host does not see their processes.
func (b *box) guest() bool { return b.engine.Name() == "gvisor" }

// sharesUsers tells whether the engine's sandboxes have the host's users, as an
// ordinary one of which they run.
func (b *box) sharesUsers() bool { return b.engine.Name() == "docker" }

// onImage tells whether the sandbox's root is an image.
func (b *box) onImage() bool {
	switch b.engine.(type) {
	case onImage, parkerOnImage:
		return true
	}
	return false
}

// inside counts the sandbox's processes that carry the marker, as seen there.
func (b *box) inside(marker string) int {
	b.t.Helper()
	n, err := strconv.Atoi(b.bash("n=0; for f in /proc/[0-9]*/cmdline; do name=; read -r -d '' name <$f; [[ $name == " + marker + "* ]] && n=$((n+1)); done 2>/dev/null; echo $n"))
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// Processes lists the host's processes whose command line, its words separated by
// zeros, is one that is looked for.
func Processes(wanted func(line []byte) bool) (pids []int) {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline") // a constant pattern is well-formed
	for _, name := range names {
		line, err := os.ReadFile(name)
		if pid, err2 := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && err2 == nil && wanted(line) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// holding lists the host's processes that were started for the sandbox and say so.
func holding(id string) []int {
	pids := Processes(func(line []byte) bool { return bytes.Contains(line, []byte(id)) })
	return slices.DeleteFunc(pids, func(pid int) bool { return pid == os.Getpid() })
}

// onHost lists the host's processes that are the sandbox: those that carry the
// marker, or those that run the guest which has them.
func (b *box) onHost(marker string) []int {
	if b.guest() {
		return holding(b.ID())
	}
	return running(marker)
}

// running lists the host's processes whose command line begins with the marker: a
// shell that was told the marker in a script is not its bearer.
func running(marker string) []int {
	return Processes(func(line []byte) bool { return bytes.HasPrefix(line, []byte(marker)) })
}

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// closes waits for a channel to be closed.
func closes(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("never closed: %s", what)
	}
}

func contains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%.2000q does not hold %q", text, part)
		}
	}
}

func equal(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %.500q, want %.500q", what, got, want)
	}
}

func missing(t testing.TB, path string) {
	t.Helper()
	// Where this user may not look, it could have made nothing either.
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		t.Errorf("%s is there (%v)", path, err)
	}
}
