package sandboxtest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"hearth/internal/hands/sandbox"
)

// ExerciseParking runs what an engine must do that can put sandboxes on disk.
func ExerciseParking(t *testing.T, newEngine Maker) {
	run(t, newEngine, []scenario{
		{"everything goes on where it was", testParked},
		{"parked again and again", testParkedOften},
		{"an image that is no use", testSpoiltImage},
		{"owner killed while it is paused", func(t *testing.T, newEngine Maker) { testOrphanDies(t, newEngine, pausing) }},
	})
}

// park checkpoints a sandbox and restores it from the image.
func (b *box) park() *box {
	b.t.Helper()
	image := b.checkpoint()
	return b.restore(image)
}

func (b *box) checkpoint() (image string) {
	b.t.Helper()
	image = filepath.Join(b.state, "image-"+newID())
	if err := b.Sandbox.(sandbox.Checkpointer).Checkpoint(b.t.Context(), image); err != nil {
		b.t.Fatal(err)
	}
	select {
	case <-b.Done():
	case <-time.After(patience):
		b.t.Error("a parked sandbox runs on")
	}
	if find(b.t, b.engine, b.ID()) != nil {
		b.t.Error("a parked sandbox is still listed")
	}
	return image
}

func (b *box) restore(image string) *box {
	b.t.Helper()
	s, err := b.engine.(sandbox.Parker).Restore(b.t.Context(), b.spec, image)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.with(s)
}

func testParked(t *testing.T, newEngine Maker) {
	b := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{MemoryBytes: 512 << 20}})
	b.bash("mkdir sub && cd sub && who=me && export it=that && f() { echo called $1; }")
	b.bash("echo scratch >/tmp/scratch; echo host >/etc/changed; echo work >work")
	b.bash("(n=0; while :; do n=$((n+1)); echo $n >/tmp/next; mv /tmp/next /tmp/count; sleep 0.05; done) & echo $! >/tmp/pid; until [ -e /tmp/count ]; do sleep 0.05; done")
	b.bash("(sleep 300; echo never) & sleeper=$!")
	before := b.bash("cat /tmp/count")
	b = b.park()
	equal(t, "variables, functions and the directory", b.bash("echo $who $it $(f x) ${PWD##*/}"), "me that called x sub")
	equal(t, "files", b.bash("cat /tmp/scratch /etc/changed work | xargs"), "scratch host work")
	equal(t, "background jobs", b.bash("kill -0 $sleeper && kill -0 $(cat /tmp/pid) && echo alive"), "alive")
	equal(t, "they go on", b.bash("a=$(cat /tmp/count); sleep 0.5; b=$(cat /tmp/count); [ $a -ge "+before+" ] && [ $b -gt $a ] && echo yes"), "yes")
	b.ok("write", input{"file_path": "sub/new", "content": "x"})
	equal(t, "tools", b.bash("ls | xargs"), "new work")
}

func testParkedOften(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.bash("n=0")
	for range 3 {
		b.bash("n=$((n+1))")
		b = b.park()
	}
	equal(t, "after three times", b.bash("echo $n"), "3")
}

func testSpoiltImage(t *testing.T, newEngine Maker) {
	b := newBox(t, newEngine)
	b.bash("echo kept >kept")
	image := b.checkpoint()
	if err := os.Truncate(filepath.Join(image, "checkpoint.img"), 100); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{image, filepath.Join(b.state, "nowhere")} {
		if s, err := b.engine.(sandbox.Parker).Restore(t.Context(), b.spec, dir); err == nil {
			t.Errorf("%s was restored", filepath.Base(dir))
			_ = s.Destroy(t.Context())
		}
	}
	if find(t, b.engine, b.ID()) != nil {
		t.Error("a restore that failed left a sandbox behind")
	}
	equal(t, "the files", string(b.get("kept")), "kept\n")
	fresh := createBox(t, b.engine, b.state, sandbox.Spec{Workdir: b.host})
	equal(t, "a sandbox in its place", fresh.bash("cat kept"), "kept")
}
