package conformance

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hearth/internal/hands/depot"
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
	last := c.last
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

// last is the text of a turn's last result.
func (c *chat) last(turn int) string {
	c.t.Helper()
	texts, _ := c.results(c.end(turn))
	return strings.TrimSpace(texts[len(texts)-1])
}

// fleet is two workers of a site that share a store, one at a time.
type fleet struct {
	t          *testing.T
	site       *site
	store, key string
	dirs       [2]string
	flags      []string
}

func newFleet(t *testing.T, s *site, flags ...string) *fleet {
	t.Helper()
	key, err := depot.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{t, s, t.TempDir(), key, [2]string{t.TempDir(), t.TempDir()}, flags}
}

func (f *fleet) begin(n int) run.Program {
	f.t.Helper()
	cmd := run.Hearth(f.t, append([]string{"worker", "--base-url", f.site.URL, "--environment-id", f.site.environmentID, "--engine", "gvisor",
		"--state", f.dirs[n], "--park-store", f.store}, f.flags...)...)
	cmd.Env = append(cmd.Env, "HEARTH_ENVIRONMENT_KEY="+f.site.key, "HEARTH_PARK_KEY="+f.key)
	return run.Begin(f.t, cmd)
}

func (f *fleet) end(w run.Program) {
	f.t.Helper()
	if err := w.Process.Signal(syscall.SIGTERM); err != nil || !w.Ends() {
		f.t.Fatalf("the worker does not end: %v", err)
	}
}

// TestParkedElsewhere has a session go on with another worker than the one that
// parked it, on the same store; and with the first again, which must not take up
// what it had itself.
func TestParkedElsewhere(t *testing.T) {
	t.Parallel()
	s := newSite(t, run.Serve(t), "elsewhere")
	f := newFleet(t, s, "--max-idle", maxIdle.String(), "--drain", "2s")
	begin, end := f.begin, f.end
	input := s.upload(t, "in.csv", "a,b\n")
	worker := begin(0)
	c := s.startWith(t, "$ mkdir -p sub && cd sub && said=before && echo x >/tmp/scratch && ln -s /etc/passwd link\n$ (sleep 1000; echo never) & sleeper=$!\n$ touch here; chown 1000:100 here", input.at(""))
	last := c.last
	last(1)
	end(worker) // which parks
	worker = begin(1)
	look := "$ pwd; echo $said $(ls) $(stat -c %u:%g here) $(cat /tmp/scratch /mnt/session/uploads/" + input.id + ") $(kill -0 $sleeper && echo alive); said=after"
	c.say(look)
	if got, want := last(2), "/workspace/sub\nbefore here link 1000:100 x a,b alive"; got != want {
		t.Errorf("with the second worker it says %q, want %q\n%s", got, want, c.story())
	}
	end(worker)
	worker = begin(0)
	c.say(look)
	if got, want := last(3), "/workspace/sub\nafter here link 1000:100 x a,b alive"; got != want {
		t.Errorf("back with the first worker it says %q, want %q\n%s", got, want, c.story())
	}
	// Killed, it leaves nothing to go on from but the files it had been given.
	c.say("$ touch lost; sleep 0.1")
	last(4)
	kill(t, worker)
	worker = begin(1)
	c.say("$ cd /workspace; echo ${said:-new} $(ls sub)")
	if got := last(5); got != "new here link" && got != "after here link lost" && got != "after here lost link" { // it may just have been stored
		t.Errorf("after a kill it says %q\n%s", got, c.story())
	}
	// Taken by one that is lost before it has anything of it, the files are still
	// there, and not what another has of earlier.
	c.say("$ touch latest")
	last(6)
	end(worker)
	took := 0
	err := filepath.WalkDir(f.store, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == "live" {
			took++
			err = os.Remove(path)
		}
		return err
	})
	if took != 1 || err != nil {
		t.Fatalf("%d states may be gone on from, %v", took, err)
	}
	begin(0)
	c.say("$ cd /workspace; echo ${said:-new} $(ls latest)")
	if got := last(7); got != "new latest" {
		t.Errorf("with a worker that had it before, it says %q\n%s", got, c.story())
	}
}

// TestParkedNotForever: what is on disk for too long, or takes too much, goes, the
// oldest first; sessions keep their files.
func TestParkedNotForever(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"quota": {"--park-quota", "3MiB"}, "age": {"--park-ttl", "1s"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, dir := newSite(t, run.Serve(t), name), t.TempDir()
			cmd := run.Hearth(t, append([]string{"worker", "--base-url", s.URL, "--environment-id", s.environmentID, "--engine", "gvisor",
				"--state", dir, "--max-idle", maxIdle.String()}, flags...)...)
			cmd.Env = append(cmd.Env, "HEARTH_ENVIRONMENT_KEY="+s.key)
			run.Begin(t, cmd)
			parked := func(c *chat) bool {
				_, err := os.Stat(filepath.Join(dir, "sessions", c.id, "parked"))
				return err == nil
			}
			older := s.start(t, "$ said=before; touch kept")
			older.end(1)
			run.Eventually(t, "the sandbox is put on disk", func() bool { return parked(older) })
			time.Sleep(time.Second) // so that it is the older one, and too old
			later := s.start(t, "$ said=before; touch kept")
			later.end(1)
			run.Eventually(t, "the next takes its place", func() bool { return parked(later) && !parked(older) })
			goesOn := func(c *chat, want string) {
				t.Helper()
				c.say("$ echo ${said:-nothing} $(ls)")
				if got := c.last(2); got != want {
					t.Errorf("it says %q, want %q\n%s", got, want, c.story())
				}
			}
			goesOn(later, "before kept") // first, for the other is put on disk again, too
			goesOn(older, "nothing kept")
		})
	}
}

// TestKeptAsLongAsParked: a session's files are there as long as its sandbox may be.
func TestKeptAsLongAsParked(t *testing.T) {
	t.Parallel()
	s, dir := newSite(t, run.Serve(t), "kept"), t.TempDir()
	places := map[string]string{}
	for name, age := range map[string]time.Duration{"parked": 30 * time.Hour, "old": 80 * time.Hour} {
		places[name] = filepath.Join(dir, "sessions", "sesn_"+name)
		at := time.Now().Add(-age)
		if err := errors.Join(os.MkdirAll(filepath.Join(places[name], "work"), 0o755), os.WriteFile(filepath.Join(places[name], "lock"), nil, 0o600), os.Chtimes(places[name], at, at)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := run.Hearth(t, "worker", "--base-url", s.URL, "--environment-id", s.environmentID, "--engine", "gvisor", "--state", dir, "--pool", "0", "--park-ttl", "72h")
	cmd.Env = append(cmd.Env, "HEARTH_ENVIRONMENT_KEY="+s.key)
	run.Begin(t, cmd)
	run.Eventually(t, "the older one is removed", func() bool { _, err := os.Stat(places["old"]); return err != nil })
	if _, err := os.Stat(places["parked"]); err != nil {
		t.Error(err)
	}
}

// TestFilesElsewhere has a session go on with another worker where its sandbox could
// not be parked: because it had ended, because a call ran on when the worker had to
// end, because the worker was killed and never had another sandbox. Its files are the
// latest all the same, and no call runs again.
func TestFilesElsewhere(t *testing.T) {
	t.Parallel()
	s := newSite(t, run.Serve(t), "files elsewhere")
	f := newFleet(t, s, "--max-idle", "3s", "--drain", "1s", "--disk", "16MiB")
	begin, end := f.begin, f.end
	worker := begin(0)
	c := s.start(t, "$ echo first >f")
	turn := 1
	last := func() string {
		t.Helper()
		return c.last(turn)
	}
	say := func(message string) string {
		t.Helper()
		c.say(message)
		turn++
		return last()
	}
	last()
	end(worker) // which parks

	// The sandbox is ended for what is written in the background.
	worker = begin(0)
	say("$ echo second >f; (while head -c 1M /dev/zero; do sleep 0.05; done) >big 2>/dev/null &")
	run.Eventually(t, "the session is stored without a sandbox", func() bool {
		return strings.Contains(worker.Log(t), "stored a session") && !strings.Contains(worker.Log(t), "parked a session")
	})
	end(worker)
	worker = begin(1)
	if got := say("$ rm -f big; cat f"); got != "second" {
		t.Errorf("after its sandbox ended it says %q\n%s", got, c.story())
	}

	// A call runs on when the worker has to end.
	c.say("$ echo third >>f; sleep 600")
	turn++
	run.Eventually(t, "the call runs", func() bool {
		raw, err := os.ReadFile(filepath.Join(f.dirs[1], "sessions", c.id, "work", "f"))
		return err == nil && strings.Contains(string(raw), "third")
	})
	end(worker)
	worker = begin(0)
	last()
	if got := say("$ cat f"); got != "second\nthird" {
		t.Errorf("after a call that was cut off it says %q\n%s", got, c.story())
	}

	// A worker is killed while a call runs, and the next on its directory only says so.
	c.say("$ echo fourth >>f; sleep 600")
	turn++
	run.Eventually(t, "the call runs", func() bool {
		raw, err := os.ReadFile(filepath.Join(f.dirs[0], "sessions", c.id, "work", "f"))
		return err == nil && strings.Contains(string(raw), "fourth")
	})
	kill(t, worker)
	worker = begin(0)
	last()
	end(worker)
	begin(1)
	if got := say("$ cat f"); got != "second\nthird\nfourth" {
		t.Errorf("after a kill it says %q\n%s", got, c.story())
	}
}

// stored is a fleet with one session, which the first worker has stored.
func stored(t *testing.T, name string) (*fleet, *chat) {
	t.Helper()
	s := newSite(t, run.Serve(t), name)
	f := newFleet(t, s, "--max-idle", maxIdle.String(), "--drain", "2s")
	worker := f.begin(0)
	c := s.start(t, "$ said=before; echo kept >f")
	c.last(1)
	f.end(worker)
	return f, c
}

// TestStoreOutOfReach: a worker that cannot fetch what is stored of a session, for want
// of the key or of the store, does not serve it without its files, nor stores others
// over them.
func TestStoreOutOfReach(t *testing.T) {
	t.Parallel()
	f, c := stored(t, "out of reach")

	key := f.key
	var err error
	if f.key, err = depot.NewKey(); err != nil {
		t.Fatal(err)
	}
	worker := f.begin(1)
	c.say("$ echo ${said:-new} $(cat f)")
	gives := func() {
		t.Helper()
		run.Eventually(t, "the worker leaves the session to others", func() bool { return strings.Contains(worker.Log(t), "left a session") })
		f.end(worker)
	}
	gives()
	f.key = key
	states := filepath.Join(f.store, "parked")
	if err := errors.Join(os.Rename(states, states+".away"), os.WriteFile(states, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	worker = f.begin(1)
	gives()
	if err := errors.Join(os.Remove(states), os.Rename(states+".away", states)); err != nil {
		t.Fatal(err)
	}
	f.begin(1)
	if got := c.last(2); got != "before kept" {
		t.Errorf("it says %q\n%s", got, c.story())
	}
}

// TestStateRemoved: where what was stored of a session is gone, for want of room say,
// and what tells of it is not, the session goes on without.
func TestStateRemoved(t *testing.T) {
	t.Parallel()
	f, c := stored(t, "state removed")
	states, err := filepath.Glob(filepath.Join(f.store, "parked", "*", c.id, "*.age"))
	if err != nil || len(states) != 1 {
		t.Fatalf("%q are stored, %v", states, err)
	}
	if err := os.Remove(states[0]); err != nil {
		t.Fatal(err)
	}
	f.begin(1)
	c.say("$ echo ${said:-new} $(ls)")
	if got := c.last(2); got != "new" {
		t.Errorf("it says %q\n%s", got, c.story())
	}
}
