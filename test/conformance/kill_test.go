package conformance

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
	"hearth/client"
	"hearth/test/run"
)

// midCall is what sessions are told whose worker goes while a call runs, which
// takes so many seconds.
func midCall(seconds int) string {
	return fmt.Sprintf("$ echo before\n$ touch begun; sleep %d; echo during\n$ echo after", seconds)
}

// begun waits until a session's second call has begun, by the file that it makes
// somewhere below a worker's directory.
func (c *chat) begun(dir string) {
	c.t.Helper()
	run.Eventually(c.t, "the second call begins", func() (found bool) {
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error { // what is gone meanwhile is not it
			found = found || err == nil && entry.Name() == "begun" && !entry.IsDir()
			return nil
		})
		return found
	})
}

// leftBehind are the calls that the log says a worker has left.
func leftBehind(log []api.Event) (calls []string) {
	for _, e := range log {
		if e.Type != api.EventSessionError {
			continue
		}
		for _, call := range log {
			if call.Type == api.EventAgentToolUse && strings.Contains(e.Error.Message, call.ID) {
				calls = append(calls, call.ID)
			}
		}
	}
	return calls
}

// TestKilledWorker kills a worker during a call and has another one, of the
// same kind or not, finish the session elsewhere.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	b := run.Serve(t)
	everyDay := []string{"official Go", "hearth gvisor", "hearth after official Go", "TypeScript after hearth", "hearth after TypeScript"}
	for name, kinds := range map[string][2]string{
		"official Go":                  {"official Go", "official Go"},
		"official TypeScript":          {"official TypeScript", "official TypeScript"},
		"hearth process":               {"hearth process", "hearth process"},
		"hearth namespace":             {"hearth namespace", "hearth namespace"},
		"hearth gvisor":                {"hearth gvisor", "hearth gvisor"},
		"hearth after official Go":     {"official Go", "hearth namespace"},
		"official Go after hearth":     {"hearth namespace", "official Go"},
		"TypeScript after hearth":      {"hearth process", "official TypeScript"},
		"hearth after TypeScript":      {"official TypeScript", "hearth process"},
		"TypeScript after official Go": {"official Go", "official TypeScript"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if os.Getenv("HEARTH_TEST_ALL") == "" && !slices.Contains(everyDay, name) {
				t.Skip("not tried every day: set HEARTH_TEST_ALL=1")
			}
			s := newSite(t, b, name)
			dir := t.TempDir()
			first := workers[kinds[0]](t, s, dir)
			c := s.start(t, midCall(3))
			c.begun(dir)
			kill(t, first)
			workers[kinds[1]](t, s, t.TempDir())
			log := c.end(1)
			c.expect(log, "before", "during", "after")
			if left := leftBehind(log); len(left) != 1 {
				t.Errorf("the log says that the calls %v were left, want the second\n%s", left, c.story())
			}
		})
	}
}

func kill(t *testing.T, p run.Program) {
	t.Helper()
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// TestRestartedWorker kills a worker and starts it again where it was: what it
// had begun it does not run a second time, and says so.
func TestRestartedWorker(t *testing.T) {
	t.Parallel()
	b := run.Serve(t)
	for _, kind := range []string{"hearth process", "hearth namespace"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s, dir := newSite(t, b, kind), t.TempDir()
			first := workers[kind](t, s, dir)
			c := s.start(t, midCall(60))
			c.begun(dir)
			kill(t, first)
			workers[kind](t, s, dir)
			log := c.end(1)
			c.expect(log, "before", "The worker was stopped while this call ran", "after")
		})
	}
}

// TestRevokedKey ends every kind of worker.
func TestRevokedKey(t *testing.T) {
	t.Parallel()
	b := run.Serve(t)
	for kind, start := range workers {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, b, kind)
			key, err := b.Client.CreateKey(t.Context(), s.environmentID, client.KeyParams{Name: "revoked"})
			if err != nil {
				t.Fatal(err)
			}
			s.key = key.Key
			worker := start(t, s, t.TempDir())
			c := s.start(t, "$ echo served")
			c.expect(c.end(1), "served")
			if _, err := b.Client.RevokeKey(t.Context(), s.environmentID, key.ID); err != nil {
				t.Fatal(err)
			}
			if !worker.Ends() {
				t.Error("the worker goes on")
			}
		})
	}
}

// TestStoppedItem stops the item of a session while a call runs. The session
// goes on with the next item.
func TestStoppedItem(t *testing.T) {
	t.Parallel()
	b := run.Serve(t)
	for kind, start := range workers {
		for name, force := range map[string]bool{"gracefully": false, "by force": true} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, b, kind+" "+name)
				dir := t.TempDir()
				start(t, s, dir)
				// Long enough not to be over before the stop, which ends it.
				c := s.start(t, midCall(10))
				c.begun(dir)
				work := b.Client.SDK().Beta.Environments.Work
				items, err := work.List(t.Context(), s.environmentID, anthropic.BetaEnvironmentWorkListParams{})
				if err != nil || len(items.Data) != 1 {
					t.Fatalf("%d items, %v", len(items.Data), err)
				}
				_, err = work.Stop(t.Context(), items.Data[0].ID, anthropic.BetaEnvironmentWorkStopParams{
					EnvironmentID: s.environmentID, BetaSelfHostedWorkStopRequest: anthropic.BetaSelfHostedWorkStopRequestParam{Force: anthropic.Bool(force)},
				})
				if err != nil {
					t.Fatal(err)
				}
				log := c.end(1)
				texts, _ := c.results(log)
				if len(texts) != 3 || !strings.Contains(texts[0], "before") || !strings.Contains(texts[2], "after") {
					t.Errorf("results %q\n%s", texts, c.story())
				}
			})
		}
	}
}
