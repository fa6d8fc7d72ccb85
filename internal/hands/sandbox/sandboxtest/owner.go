package sandboxtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"hearth/internal/hands/sandbox"
)

// pausing has the owner pause its sandbox.
const pausing = "paused"

// runOwner is the second process: it makes a sandbox with a background job in
// it, says "ready", and waits to be killed.
func runOwner(newEngine Maker, args []string) error {
	if len(args) < 4 {
		return errors.New("owner: want a state directory, a workdir, an id and a marker")
	}
	state, workdir, id, marker := args[0], args[1], args[2], args[3]
	ctx := context.Background()
	s, err := newEngine(state).Create(ctx, sandbox.Spec{ID: id, Workdir: workdir, Labels: map[string]string{"who": "owner"}})
	if err != nil {
		return fmt.Errorf("owner: create: %w", err)
	}
	call := toolCall("bash", input{"command": "echo kept >kept; (exec -a " + marker + " sleep 100000) & true"})
	if r, err := s.Call(ctx, call); err != nil || r.IsError {
		return fmt.Errorf("owner: call: %s: %w", r.Text, err)
	}
	if slices.Contains(args[4:], pausing) {
		if err := s.Pause(ctx); err != nil {
			return fmt.Errorf("owner: pause: %w", err)
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin) // ends with the suite, if nothing else does
	return err
}

// orphan is a sandbox whose owner was killed before it could clean up.
type orphan struct {
	id, marker, workdir, state string
	engine                     sandbox.Engine
}

// newOrphan starts an owner, looks at its sandbox while it lives, and kills it.
func newOrphan(t *testing.T, newEngine Maker, more ...string) *orphan {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	o := &orphan{id: newID(), marker: newMarker(), workdir: filepath.Join(t.TempDir(), "work"), state: state, engine: newEngine(state)}
	owner := exec.Command(self, append([]string{roleOwner, state, o.workdir, o.id, o.marker}, more...)...)
	owner.Stderr = os.Stderr
	stdin, err := owner.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = owner.Process.Kill()
		_ = owner.Wait()
	}()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the owner said %q: %v", line, err)
	}
	if info := find(t, o.engine, o.id); info == nil || info.Owner != owner.Process.Pid || !info.OwnerAlive {
		t.Errorf("while its owner lives it is listed as %+v", info)
	}
	return o
}

// What a killed worker leaves is listed, and can be destroyed by the next.
func testOwnerKilled(t *testing.T, newEngine Maker) {
	o := newOrphan(t, newEngine)
	info := find(t, o.engine, o.id)
	if info == nil || info.OwnerAlive || info.Labels["who"] != "owner" {
		t.Fatalf("listed as %+v", info)
	}
	if err := o.engine.Destroy(t.Context(), o.id); err != nil {
		t.Fatalf("destroy: %v", err)
	}
	eventually(t, "its processes are gone", func() bool { return len(running(o.marker))+len(holding(o.id)) == 0 })
	b := &box{t: t, host: o.workdir}
	leftNothing(t, o.engine, o.state, o.id, o.marker)
	equal(t, "the workdir", b.get("kept"), "kept\n")
}

// In an engine that isolates, the processes do not wait for the next worker.
func testIsolatedOwnerKilled(t *testing.T, newEngine Maker) {
	testOrphanDies(t, newEngine)
}

func testOrphanDies(t *testing.T, newEngine Maker, more ...string) {
	o := newOrphan(t, newEngine, more...)
	eventually(t, "its processes die with their owner", func() bool { return len(running(o.marker))+len(holding(o.id)) == 0 })
	if err := o.engine.Destroy(t.Context(), o.id); err != nil {
		t.Fatalf("destroy: %v", err)
	}
}
