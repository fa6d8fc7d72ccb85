package pool_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/namespace"
	"hearth/internal/hands/sandbox/pool"
	"hearth/internal/hands/sandbox/process"
)

// engine is the one under the pool.
func engine(t *testing.T, state string) sandbox.Engine {
	e := namespace.New(namespace.Config{StateDir: state, Log: slog.New(slog.DiscardHandler)})
	if err := e.Check(t.Context()); err != nil {
		t.Skipf("no engine here whose sandboxes can be moved: %v", err)
	}
	return e
}

// filled is a running pool that has reached its size.
func filled(t *testing.T, size int) (p *pool.Pool, state string, stop func()) {
	t.Helper()
	state = t.TempDir()
	p = pool.New(pool.Config{Engine: engine(t, state), Size: size, Dir: filepath.Join(state, "pool"), Limits: limits})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { p.Run(ctx); close(ended) }()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	awaitBlanks(t, p, size)
	return p, state, stop
}

func blanks(t *testing.T, p *pool.Pool) (ids []string) {
	t.Helper()
	all, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Labels["blank"] != "" {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

func awaitBlanks(t *testing.T, p *pool.Pool, n int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); p.Ready() != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("there never were %d blank sandboxes", n)
		}
	}
}

var limits = sandbox.Limits{DiskBytes: 16 << 20}

func spec(t *testing.T) sandbox.Spec {
	return sandbox.Spec{ID: strings.ToLower(rand.Text()), Workdir: filepath.Join(t.TempDir(), "work"), Limits: limits, Labels: map[string]string{"session": "one"}}
}

func bash(t *testing.T, s sandbox.Sandbox, command string) string {
	t.Helper()
	input, err := json.Marshal(map[string]string{"command": command})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Call(t.Context(), hand.Call{ID: "call", Tool: "bash", Input: input})
	if err != nil || r.IsError {
		t.Fatalf("%s: %s, %v", command, r.Text, err)
	}
	return strings.TrimSpace(r.Text)
}

// among tells whether a sandbox is one of those started ahead.
func among(ids []string, s sandbox.Sandbox) bool {
	for _, id := range ids {
		if id == s.ID() {
			return true
		}
	}
	return false
}

func TestBlankBecomesTheSessions(t *testing.T) {
	p, state, _ := filled(t, 2)
	ahead := blanks(t, p)
	want := spec(t)
	want.Workdir, want.Mnt = filepath.Join(state, "work"), filepath.Join(state, "mnt")
	for _, dir := range []string{want.Workdir, want.Mnt} { // as a worker does
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s, err := p.Create(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if !among(ahead, s) {
		t.Error("it was not started ahead")
	}
	bash(t, s, "echo inside >made")
	if raw, err := os.ReadFile(filepath.Join(want.Workdir, "made")); err != nil || string(raw) != "inside\n" {
		t.Errorf("what it wrote to its working directory: %q, %v", raw, err)
	}
	if err := os.WriteFile(filepath.Join(want.Workdir, "given"), []byte("outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	if text := bash(t, s, "cat given"); text != "outside" {
		t.Errorf("what was written to it from outside: %q", text)
	}
	// What it writes counts where it is now.
	filling := hand.Call{ID: "fill", Tool: "bash", Input: json.RawMessage(`{"command":"head -c 64M /dev/zero >big && sleep 60; ls"}`)}
	if r, err := s.Call(t.Context(), filling); err != nil || !strings.Contains(r.Text, "its limit of") {
		t.Errorf("what writes more than is allowed is told %q, %v", r.Text, err)
	}
	awaitBlanks(t, p, 2) // another has taken its place
	all, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	labelled := false
	for _, info := range all {
		labelled = labelled || info.ID == s.ID() && info.Labels["session"] == "one" && info.Labels["blank"] == ""
	}
	if !labelled {
		t.Errorf("it is listed as a blank one still: %+v", all)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(want.Workdir, "made")); err != nil {
		t.Errorf("the working directory goes with the sandbox: %v", err)
	}
}

// What a blank sandbox cannot become is made as if there was no pool.
func TestMadeWhenNoneFits(t *testing.T) {
	p, _, _ := filled(t, 1)
	ahead := blanks(t, p)
	for name, change := range map[string]func(*sandbox.Spec){
		"files": func(s *sandbox.Spec) {
			if err := os.MkdirAll(s.Workdir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(s.Workdir, "kept"), []byte("from before"), 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"held":        func(s *sandbox.Spec) { s.Held = true },
		"environment": func(s *sandbox.Spec) { s.Env = map[string]string{"ITS": "own"} },
		"limits":      func(s *sandbox.Spec) { s.Limits.Processes = 100 },
	} {
		t.Run(name, func(t *testing.T) {
			want := spec(t)
			change(&want)
			s, err := p.Create(t.Context(), want)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Destroy(context.Background())
			if among(ahead, s) {
				t.Error("a blank one was given")
			}
			switch name {
			case "files":
				if text := bash(t, s, "cat kept"); text != "from before" {
					t.Errorf("its files: %q", text)
				}
			case "environment":
				if text := bash(t, s, "echo $ITS"); text != "own" {
					t.Errorf("its environment: %q", text)
				}
			}
		})
	}
}

func TestDeadBlankIsNotGiven(t *testing.T) {
	p, state, _ := filled(t, 1)
	dead := blanks(t, p)[0]
	if err := p.Destroy(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	want := spec(t)
	want.Workdir = filepath.Join(state, "work")
	s, err := p.Create(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	if s.ID() == dead {
		t.Fatal("a dead sandbox was given")
	}
	if text := bash(t, s, "echo alive"); text != "alive" {
		t.Errorf("it says %q", text)
	}
}

// TestUnmovable: tools of the process engine know their directory by its name, so it
// cannot be given to a session.
func TestUnmovable(t *testing.T) {
	state := t.TempDir()
	p := pool.New(pool.Config{Engine: process.New(state, nil, slog.New(slog.DiscardHandler)), Size: 1, Dir: filepath.Join(state, "pool")})
	p.Run(t.Context()) // it gives up
	if left, err := p.List(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	want := spec(t)
	s, err := p.Create(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	if text := bash(t, s, "cd && pwd"); text != want.Workdir {
		t.Errorf("it is in %q, want %q", text, want.Workdir)
	}
}

func TestNothingStays(t *testing.T) {
	p, state, stop := filled(t, 2)
	stop()
	if left := blanks(t, p); len(left) > 0 {
		t.Errorf("blank sandboxes left: %v", left)
	}
	if entries, err := os.ReadDir(filepath.Join(state, "pool")); err != nil || len(entries) > 0 {
		t.Errorf("working directories left: %v, %v", entries, err)
	}
}

// A pool that is drawn from faster than it fills ends up full all the same, and
// can be stopped then.
func TestDrawnFromAtOnce(t *testing.T) {
	p, state, stop := filled(t, 2)
	for range 3 {
		var made []sandbox.Sandbox
		for range 4 {
			want := spec(t)
			want.Workdir = filepath.Join(state, want.ID)
			s, err := p.Create(t.Context(), want)
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, s)
		}
		for _, s := range made {
			if err := s.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
		}
		awaitBlanks(t, p, 2)
	}
	stop()
	if n := p.Ready(); n != 0 {
		t.Errorf("%d sandboxes are left in a pool that was stopped", n)
	}
}
