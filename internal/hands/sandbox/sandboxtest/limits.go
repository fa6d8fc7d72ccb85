package sandboxtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
)

// Groups is where the engines under test make their control groups.
func Groups() *cgroup.Tree {
	groups, _ := cgroup.Find() // tests of what it lacks are skipped
	return groups
}

// ExerciseLimits runs what an engine must do about limits that the host lets it
// enforce: say in words that one was reached, and harm nobody else.
func ExerciseLimits(t *testing.T, newEngine Maker, groups *cgroup.Tree) {
	scenarios := []scenario{{"disk", testDiskLimit}, {"disk in the background", testDiskLimitInBackground}, {"disk in the depth", testDiskLimitInDepth}, {"disk behind a mode", testDiskLimitBehindAMode}, {"scratch", testScratchLimit}}
	lacks := groups.Lacks()
	for limit, s := range map[string]scenario{
		"memory": {"memory", testMemoryLimit}, "CPU": {"CPU", testCPULimit}, "processes": {"processes", testProcessesLimit},
	} {
		if slices.Contains(lacks, limit) {
			s.test = func(t *testing.T, _ Maker) { t.Skip("this host's control groups do not let us limit " + limit) }
		}
		scenarios = append(scenarios, s)
	}
	run(t, newEngine, append(scenarios, scenario{"pause", testPause}))
}

// reached makes a call that must run into a limit, and wants it to say so,
// whether the sandbox survives it or not.
func (b *box) reached(limit, command string) (alive bool) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 3*patience)
	defer cancel()
	result, err := b.try(ctx, toolCall("bash", input{"command": command}))
	var full *sandbox.LimitError
	switch {
	case errors.As(err, &full):
		if full.Limit != limit {
			b.t.Errorf("it ended for its limit of %s, want %s", full.Limit, limit)
		}
		return false
	case err != nil:
		b.t.Fatalf("the sandbox ended and says: %v", err)
	case !result.IsError || !strings.Contains(result.Text, "its limit of "+limit):
		b.t.Errorf("the call says %.300q, want a word of the limit of %s", result.Text, limit)
	}
	return true
}

func testMemoryLimit(t *testing.T, newEngine Maker) {
	state := t.TempDir()
	engine := newEngine(state)
	b := createBox(t, engine, state, sandbox.Spec{Limits: sandbox.Limits{MemoryBytes: 192 << 20}})
	neighbour := createBox(t, engine, state, sandbox.Spec{Limits: sandbox.Limits{MemoryBytes: 192 << 20}})
	equal(t, "within the limit", b.bash("head -c 20M /dev/zero | tail | wc -c"), "20971520")
	if b.guest() {
		equal(t, "the memory there is", b.bash("head -n 1 /proc/meminfo | tr -s ' '"), "MemTotal: 196608 kB")
	}
	// tail keeps all of what is one line.
	if b.reached("192 MiB of memory", "head -c 1G /dev/zero | tail | wc -c") {
		equal(t, "afterwards", b.bash("echo fine"), "fine")
	}
	equal(t, "the neighbour", neighbour.bash("echo fine"), "fine")
}

func testCPULimit(t *testing.T, newEngine Maker) {
	b := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{CPUs: 0.2}})
	// What is measured is the time the processor gave, not how long that took.
	spent := b.bash("timeout 2 bash -c 'while :; do :; done'; times | tail -1 | cut -d' ' -f1")
	minutes, seconds, ok := strings.Cut(strings.TrimSuffix(strings.TrimSpace(spent), "s"), "m")
	used, err := strconv.ParseFloat(seconds, 64)
	if !ok || err != nil {
		t.Fatalf("times says %q", spent)
	}
	if used > 1 || minutes != "0" {
		t.Errorf("a fifth of a processor gave %s s in 2 s", seconds)
	}
}

func testProcessesLimit(t *testing.T, newEngine Maker) {
	b := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{Processes: 40}})
	// xargs, unlike bash, does not try again and again.
	result := b.do(toolCall("bash", input{"command": "seq 80 | timeout 10 xargs -P 80 -n 1 sh -c 'sleep 1.5' sh; echo ended with $?"}))
	if !strings.Contains(result.Text, "limit of 40 processes") {
		t.Errorf("80 processes were started under a limit of 40, or nobody says so: %.300q", result.Text)
	}
	b.do(toolCall("bash", input{"restart": true}))
	// With no process left to start, the tools that need none still work, several
	// at a time.
	b.do(toolCall("bash", input{"command": "seq 80 | xargs -P 80 -n 1 sh -c 'sleep 60' sh >/dev/null 2>&1 & sleep 1"}))
	var calls sync.WaitGroup
	for i := range 8 {
		calls.Go(func() {
			call := toolCall("grep", input{"pattern": "nothing"})
			call.ID = strconv.Itoa(i)
			result, err := b.Call(t.Context(), call)
			if err != nil || result.IsError {
				t.Errorf("grep, when no process can be started: %v %.300q", err, result.Text)
			}
		})
	}
	calls.Wait()
	b.do(toolCall("bash", input{"restart": true}))
	equal(t, "afterwards", b.bash("echo fine"), "fine")
}

func testDiskLimit(t *testing.T, newEngine Maker) {
	b := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{DiskBytes: 20 << 20}})
	b.bash("head -c 5M /dev/zero >small")
	if !b.reached("20 MiB of files", "head -c 60M /dev/zero >big; sleep 30") {
		t.Fatal("the sandbox was ended for a call that could be stopped")
	}
	// Nor may it go on in calls that are over soon.
	stopped := false
	for range 20 {
		r := b.do(toolCall("bash", input{"command": "for i in 1 2 3 4 5; do head -c 200k /dev/zero >>big; sleep 0.02; done"}))
		if stopped = r.IsError && strings.Contains(r.Text, "its limit of 20 MiB of files"); stopped {
			break
		}
	}
	if !stopped {
		t.Error("20 calls have written on, each for a short time")
	}
	equal(t, "what is too much can be removed", b.bash("rm big && ls"), "small")
	b.bash("head -c 5M /dev/zero >other; sleep 1")
}

func testDiskLimitInBackground(t *testing.T, newEngine Maker) {
	b := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{DiskBytes: 20 << 20}})
	b.bash("(while head -c 1M /dev/zero; do sleep 0.05; done) >big 2>/dev/null &")
	select {
	case <-b.Done():
	case <-time.After(3 * patience):
		t.Fatal("nobody ends what writes in the background")
	}
	_, err := b.Call(t.Context(), toolCall("bash", input{"command": "echo fine"}))
	var full *sandbox.LimitError
	if !errors.As(err, &full) {
		t.Errorf("the next call says %v", err)
	}
}

// testDiskLimitInDepth nests directories until counting what is in them would take
// longer than writing to them.
func testDiskLimitInDepth(t *testing.T, newEngine Maker) {
	b := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{DiskBytes: 20 << 20}})
	b.reached("20 MiB of files", "deeper=$(printf 'a/%.0s' {1..1000}); for i in 1 2 3; do mkdir -p $deeper && cd $deeper; done; sleep 30")
}

// testDiskLimitBehindAMode writes where the worker, as an ordinary user, may not look.
func testDiskLimitBehindAMode(t *testing.T, newEngine Maker) {
	b := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{DiskBytes: 20 << 20}})
	if b.Workdir() != sandbox.GuestWorkdir {
		t.Skip("its mode keeps the session out too: it has the worker's rights and no more")
	}
	equal(t, "while there is room", b.bash("mkdir -p shut/deep && cd shut/deep && chmod 000 . .. && sleep 1; echo fine"), "fine")
	b.reached("20 MiB of files", "chmod 000 . ..; head -c 60M /dev/zero >big; sleep 30")
	b.bash("rm -r /workspace/shut") // which the test's cleaning could not do
}

func testScratchLimit(t *testing.T, newEngine Maker) {
	b := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{DiskBytes: 20 << 20}})
	if b.Workdir() != sandbox.GuestWorkdir {
		t.Skip("there is no scratch: the sandbox has the host's files")
	}
	result := b.do(toolCall("bash", input{"command": "head -c 60M /dev/zero >/tmp/big; sleep 2"}))
	if !strings.Contains(result.Text, "its limit of 20 MiB of files") {
		t.Errorf("60 MiB were written to a scratch of 20, or nobody says why they were not: %.300q", result.Text)
	}
	equal(t, "afterwards", b.bash("rm /tmp/big; echo fine"), "fine")
}

func testPause(t *testing.T, newEngine Maker) {
	b := newBoxOf(t, newEngine, sandbox.Spec{Limits: sandbox.Limits{MemoryBytes: 1 << 30}})
	b.bash("(while :; do echo tick; sleep 0.02; done) >>ticks &")
	ticks := func() int64 {
		info, err := os.Stat(filepath.Join(b.host, "ticks"))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	grows := func(than int64) {
		t.Helper()
		for deadline := time.Now().Add(patience); ticks() <= than; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("nothing moves in the sandbox")
			}
		}
	}
	grows(0)
	switch err := b.Pause(t.Context()); {
	case errors.Is(err, cgroup.ErrCannotFreeze):
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	before := ticks()
	answered := make(chan hand.Result, 1)
	go func() {
		result, _ := b.Call(context.WithoutCancel(t.Context()), toolCall("bash", input{"command": "echo fine"}))
		answered <- result
	}()
	select {
	case r := <-answered:
		t.Errorf("a call of a paused sandbox was answered: %+v", r)
	case <-time.After(300 * time.Millisecond):
	}
	if after := ticks(); after != before {
		t.Errorf("a paused sandbox writes: %d bytes, then %d", before, after)
	}
	if err := b.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-answered:
		equal(t, "the call that waited", strings.TrimSpace(r.Text), "fine")
	case <-time.After(patience):
		t.Error("the call that waited is never answered")
	}
	grows(before)
	if err := b.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Destroy(t.Context()); err != nil {
		t.Errorf("destroy a paused sandbox: %v", err)
	}
}
