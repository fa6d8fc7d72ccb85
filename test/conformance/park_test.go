package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hearth/test/run"
)

// TestParked has sessions wait for so long that their sandboxes are put on disk,
// and go on where they were: under the same worker, and under the next one on the
// same directory. One that is killed takes what was in memory with it.
func TestParked(t *testing.T) {
	t.Parallel()
	s, dir := newSite(t, run.Serve(t), "parked"), t.TempDir()
	worker := workers["hearth gvisor"](t, s, dir)
	c := s.start(t, "$ mkdir -p sub && cd sub && said=before && echo x >/tmp/scratch\n$ (sleep 1000; echo never) & sleeper=$!\n$ touch here")
	last := func(turn int) string {
		t.Helper()
		texts, _ := c.results(c.end(turn))
		return strings.TrimSpace(texts[len(texts)-1])
	}
	last(1)
	onDisk := func() {
		t.Helper()
		run.Eventually(t, "the sandbox is put on disk", func() bool {
			_, err := os.Stat(filepath.Join(dir, "sessions", c.id, "parked"))
			return err == nil
		})
	}
	const look = "$ echo $said $(ls) $(cat /tmp/scratch) $(kill -0 $sleeper && echo alive)"
	onDisk()
	c.say(look)
	if got := last(2); got != "before here x alive" {
		t.Errorf("restored, it says %q\n%s", got, c.story())
	}
	onDisk()
	if err := worker.Process.Signal(syscall.SIGTERM); err != nil || !worker.Ends() {
		t.Fatalf("the worker does not end: %v", err)
	}
	worker = workers["hearth gvisor"](t, s, dir)
	c.say(look)
	if got := last(3); got != "before here x alive" {
		t.Errorf("restored by another worker, it says %q\n%s", got, c.story())
	}
	c.say("$ said=now; sleep 0.1")
	last(4)
	kill(t, worker)
	workers["hearth gvisor"](t, s, dir)
	c.say("$ cd /workspace; echo $said $(ls sub)")
	if got := last(5); got != "here" && got != "now here" { // it may just have been put on disk
		t.Errorf("after a kill, it says %q\n%s", got, c.story())
	}
}
