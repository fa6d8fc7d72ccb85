package security

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
)

// small are limits that are reached soon.
var small = sandbox.Limits{MemoryBytes: 320 << 20, CPUs: 1, Processes: 100, OpenFiles: 256, DiskBytes: 64 << 20}

// TestHoarding takes all there is of what ends with the process that took it, in
// one sandbox. Meanwhile its neighbour and the host must still get theirs.
func TestHoarding(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, engine string) {
		p := imprison(t, engine, small)
		neighbour := confine(t, p.engine, p.dir, "neighbour", small)
		for _, what := range []string{"files", "pipes", "sockets", "watchers", "watches", "timers", "polls", "ports", "terminals", "locks", "files in shared memory", "signals"} {
			t.Run(what, func(t *testing.T) {
				said := p.do(t, "rm -f said; ./attempt hoard '"+what+"' >said 2>&1 </dev/null & pid=$!; until grep -q holds said; do kill -0 $pid || break; sleep 0.02; done; cat said")
				if !strings.Contains(said, "holds") {
					t.Errorf("it was not made: %s", said)
				}
				t.Log(said)
				if got := neighbour.do(t, "./attempt take '"+what+"'"); got != "took it" {
					t.Errorf("its neighbour says %s", got)
				}
				take := exec.Command(os.Getenv(attemptName), "take", what)
				if got, err := take.CombinedOutput(); err != nil {
					t.Errorf("the host says %s, %v", got, err)
				}
				p.sh(t, "kill $pid; wait $pid; rm -f /dev/shm/hoard* /tmp/lock*")
				p.fine(t)
			})
		}
		t.Run("the processor", func(t *testing.T) {
			p.do(t, "for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; true")
			neighbour.fine(t)
			p.do(t, "kill $(jobs -p)")
		})
		for name, command := range map[string]string{"output": "timeout 2 yes", "errors": "timeout 2 yes >&2", "output that is no text": "timeout 2 cat /dev/urandom"} {
			t.Run(name, func(t *testing.T) {
				if said, _ := p.tool(t, "bash", map[string]any{"command": command}); len(said) > 1<<20 {
					t.Errorf("%d bytes reached the worker", len(said))
				}
				neighbour.fine(t)
				p.sh(t, "rm -rf .hearth")
			})
		}
		neighbour.fine(t)
	})
}

// TestHoardingTogether has several sandboxes take all they get of what the kernel
// counts by user, and one more must still get its own.
func TestHoardingTogether(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, engine string) {
		if os.Getuid() != 0 {
			t.Skip("all sandboxes of a worker that is not root are one user to the kernel")
		}
		first := imprison(t, engine, small)
		all := []*prisoner{first}
		for i := range 9 {
			all = append(all, confine(t, first.engine, first.dir, fmt.Sprintf("together %d", i), small))
		}
		for _, what := range []string{"watchers", "watches", "signals"} {
			for _, p := range all[1:] {
				said := p.do(t, "(./attempt hoard '"+what+"' >said 2>&1 </dev/null & echo $! >pid); until grep -q holds said; do kill -0 $(cat pid) || break; sleep 0.02; done; cat said")
				if !strings.Contains(said, "holds") {
					t.Errorf("%s: it was not made: %s", what, said)
				}
			}
			if got := first.do(t, "./attempt take '"+what+"'"); got != "took it" {
				t.Errorf("%s: when others have taken all they get, one says %s", what, got)
			}
			for _, p := range all[1:] {
				p.do(t, "kill $(cat pid); rm said")
			}
		}
	})
}

// TestExhaustion takes what may cost the sandbox its life, in a new one each time.
// Its neighbour must not notice, and the limit must hold.
func TestExhaustion(t *testing.T) {
	t.Parallel()
	const slowly = "for i in $(seq 60); do head -c 8M /dev/zero >&3 || exit 1; sleep 0.05; done"
	attempts := []struct {
		name, needs, command string
		beyond               string // what it says when it was not held to the limit
	}{
		{"processes", "processes", "f() { f | f & }; f; sleep 0.2", ""},
		{"processes that do nothing", "", "for i in $(seq 150); do sleep 100 & done 2>/dev/null; ls -d /proc/[0-9]* | wc -l", "\n150"},
		{"the dead", "", "(for i in $(seq 150); do (exit) & done 2>/dev/null; exec sleep 1) & wait; echo", ""},
		{"threads", "", "./attempt hoard threads & sleep 0.5; kill $!", "holds 500"},
		{"memory", "memory", "./attempt hoard memory & sleep 1; kill $!; wait", "holds 100"},
		{"memory without a name", "memory", "./attempt hoard memfd & sleep 1; kill $!; wait", "holds 100"},
		{"shared memory", "memory", "./attempt hoard 'shared memory' & sleep 1; kill $!; wait", "holds 100"},
		{"memory of many", "memory", "for i in $(seq 10); do ./attempt hoard 'some memory' & done; sleep 1; kill $(jobs -p); wait", ""},
		{"memory of sockets", "", "exec ./attempt hoard 'answers of the kernel'", "holds 240"},
		{"disk", "", "exec 3>big; " + slowly + "; echo all of it", "all of it"},
		{"disk by many files", "", "for i in $(seq 60); do head -c 8M /dev/zero >big$i || exit 1; sleep 0.05; done; echo all of it", "all of it"},
		{"disk by scratch", "", "exec 3>/var/big; (" + slowly + ") && echo all of it", "all of it"},
		{"disk by the temporary directory", "", "exec 3>/tmp/big; (" + slowly + ") && echo all of it", "all of it"},
		{"disk by a file without a name", "", "exec 3>big; rm big; " + slowly + "; echo all of it", "all of it"},
		{"disk by files in memory", "root", "exec ./attempt hoard 'mapped files'", "holds 60"},
		{"disk by files of threads", "", "exec ./attempt hoard 'files of threads'", "holds 60"},
		{"disk below names too long", "", "d=$(printf 'n%.0s' {1..250}); for i in $(seq 20); do mkdir $d && cd $d || exit 1; done; exec 3>big; " + slowly + "; echo all of it", "all of it"},
		{"disk by directories", "", "for i in $(seq 3000); do mkdir d && cd d || break; done 2>/dev/null; echo", ""},
		{"files", "", "mkdir many; cd many; for i in $(seq 5000); do : >$i; done", ""},
	}
	everyDay := []string{"processes", "memory", "disk", "disk by scratch"}
	lacks := groups().Lacks()
	each(t, func(t *testing.T, engine string) {
		home := imprison(t, engine, small)
		for _, a := range attempts {
			t.Run(a.name, func(t *testing.T) {
				if a.needs != "" && slices.Contains(lacks, a.needs) {
					t.Skipf("this host's control groups do not let us limit %s", a.needs)
				}
				if a.needs == "root" && os.Getuid() != 0 {
					t.Skip("only root is told of it")
				}
				if os.Getenv("HEARTH_TEST_ALL") == "" && !slices.Contains(everyDay, a.name) {
					t.Skip("not tried every day: set HEARTH_TEST_ALL=1")
				}
				if reason := harmless[engine][a.name]; reason != "" {
					t.Skip(reason)
				}
				if reason := unstopped[engine][a.name]; reason != "" {
					t.Skip(reason)
				}
				p := confine(t, home.engine, home.dir, "work-"+newID(), small)
				said := exhaust(t, p, a.command)
				if a.beyond != "" && strings.Contains("\n"+said, a.beyond) {
					t.Errorf("the limit did not hold: %.500s", said)
				}
				t.Logf("%.200s", said)
				home.fine(t)
				if err := p.Destroy(t.Context()); err != nil {
					t.Error(err)
				}
				if err := os.RemoveAll(p.work); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// unstopped are the attempts that an engine cannot stop, and why. They are in
// docs/sandboxes.md too.
var unstopped = map[string]map[string]string{}

// exhaust runs a command that may cost the sandbox its life, and returns what
// came of it.
func exhaust(t *testing.T, p *prisoner, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := call("bash", map[string]any{"command": command})
	c.Timeout = 8 * time.Second
	r, err := p.Call(ctx, c)
	if ctx.Err() != nil {
		t.Fatal("the worker waits without end")
	}
	if err != nil && !strings.Contains(err.Error(), hand.ErrGone.Error()) && !strings.Contains(err.Error(), "limit") {
		t.Errorf("the sandbox ended with %v", err)
	}
	if len(r.Text) > 1<<20 {
		t.Errorf("%d bytes of output reached the worker", len(r.Text))
	}
	if err != nil {
		return err.Error()
	}
	return r.Text
}
