package sandboxtest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/pool"
)

// ExerciseAhead runs what an engine owes a session whose sandbox was started before
// anybody knew whose it would be: all that it owes any other.
func ExerciseAhead(t *testing.T, newEngine Maker) {
	run(t, newEngine, []scenario{{"started ahead", testAhead}})
}

func testAhead(t *testing.T, newEngine Maker) {
	state := t.TempDir()
	engine := newEngine(state)
	limits := sandbox.Limits{DiskBytes: 20 << 20}
	p := pool.New(pool.Config{Engine: engine, Size: 1, Dir: filepath.Join(state, "pool"), Limits: limits})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { p.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	for deadline := time.Now().Add(patience); p.Ready() == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("none is started ahead")
		}
	}

	spec := sandbox.Spec{ID: newID(), Workdir: filepath.Join(state, "work"), Mnt: filepath.Join(state, "mnt"), Limits: limits}
	for _, dir := range []string{spec.Workdir, spec.Mnt} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b := createBox(t, p, state, spec)
	if b.ID() == spec.ID {
		t.Fatal("it was not started ahead")
	}
	for dir, inside := range map[string]string{spec.Workdir: sandbox.GuestWorkdir, spec.Mnt: sandbox.GuestMnt} {
		b.bash("echo made >" + inside + "/made")
		if raw, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(raw) != "made\n" {
			t.Errorf("what it wrote to %s is %q outside, %v", inside, raw, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "given"), []byte("given"), 0o644); err != nil {
			t.Fatal(err)
		}
		equal(t, "what was put in "+inside, b.bash("cat "+inside+"/given"), "given")
	}
	if !b.reached("20 MiB of files", "head -c 60M /dev/zero >big; sleep 30") {
		t.Fatal("the sandbox was ended for a call that could be stopped")
	}
	b.bash("rm big; it=kept")
	if _, ok := b.Sandbox.(sandbox.Checkpointer); !ok {
		return
	}
	b.engine, b.spec.ID = engine, b.ID()
	b = b.park()
	equal(t, "once parked", b.bash("echo $it; cat made given /mnt/made"), "kept\nmade\ngivenmade")
}
