package session

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/queue"
)

func TestOneServerClaimsADueSession(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		const sessions = 20
		for range sessions {
			b.send(t, b.create(t, api.EnvironmentSelfHosted), SenderClient, message("go"))
		}
		runs := make(chan *Run, 2*sessions)
		var claiming sync.WaitGroup
		for range 8 {
			claiming.Go(func() {
				for {
					run, err := b.store.Claim(b.ctx)
					if err != nil {
						t.Errorf("claim: %v", err)
					}
					if run == nil {
						return
					}
					runs <- run
				}
			})
		}
		claiming.Wait()
		// A claim may find nothing because another has locked it; at rest it may not.
		for run, err := b.store.Claim(b.ctx); run != nil || err != nil; run, err = b.store.Claim(b.ctx) {
			if err != nil {
				t.Fatal(err)
			}
			runs <- run
		}
		close(runs)
		claimed := map[string]bool{}
		for run := range runs {
			if claimed[run.SessionID] || run.Epoch != 1 {
				t.Errorf("session %s was claimed more than once, now with epoch %d", run.SessionID, run.Epoch)
			}
			claimed[run.SessionID] = true
		}
		if len(claimed) != sessions {
			t.Errorf("%d sessions were claimed, want %d", len(claimed), sessions)
		}
	})
}

func TestRunThatWasPausedCannotWrite(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		id := b.create(t, api.EnvironmentSelfHosted)
		b.send(t, id, SenderClient, message("go"))
		paused := b.claim(t)
		if _, _, err := paused.BeginRequest(b.ctx); err != nil {
			t.Fatal(err)
		}
		b.clock.advance(runTTL)
		successor := b.claim(t)
		before := b.log(t, id)
		for what, err := range writes(b, paused) {
			if !errors.Is(err, ErrStale) {
				t.Errorf("%s through the old run: %v", what, err)
			}
		}
		if after := b.log(t, id); !slices.EqualFunc(before, after, sameStored) {
			t.Errorf("the old run changed the log from %d to %d events", len(before), len(after))
		}
		if err := successor.Renew(b.ctx); err != nil {
			t.Errorf("the new run: %v", err)
		}
	})
}

// writes tries all that a run can write.
func writes(b *bench, run *Run) map[string]error {
	_, _, begun := run.BeginRequest(b.ctx)
	return map[string]error{
		"begin":     begun,
		"complete":  run.CompleteRequest(b.ctx, Completion{}),
		"fail":      run.FailRequest(b.ctx, api.SessionError{RetryStatus: api.RetryStatus{Type: api.RetryExhausted}}, api.ModelUsage{}, time.Time{}),
		"interrupt": run.ApplyInterrupt(b.ctx, nil, api.ModelUsage{}),
		"renew":     run.Renew(b.ctx),
		"release":   run.Release(b.ctx, time.Time{}),
	}
}

func sameStored(a, b StoredEvent) bool {
	return a.Seq == b.Seq && a.ID == b.ID && a.Type == b.Type && string(a.JSON) == string(b.JSON)
}

// A session that waits can be ended while a run of it has just begun, to apply
// an interrupt. Nobody may then run it again when the lease lapses.
func TestEndingASessionEndsItsRun(t *testing.T) {
	ends := map[string]struct {
		end  func(b *bench, id string) error
		want func(error) bool
	}{
		"archived": {
			func(b *bench, id string) error { _, err := b.store.Archive(b.ctx, workspace, id); return err },
			func(err error) bool { return errors.Is(err, ErrStale) },
		},
		"deleted": {
			func(b *bench, id string) error { return b.store.Delete(b.ctx, workspace, id) },
			func(err error) bool { var e *api.Error; return errors.As(err, &e) && e.Status == 404 },
		},
	}
	for name, c := range ends {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, b *bench) {
				id, _ := b.waiting(t, api.EnvironmentSelfHosted)
				b.send(t, id, SenderClient, interrupt())
				run := b.claim(t)
				if err := c.end(b, id); err != nil {
					t.Fatal(err)
				}
				if err := run.ApplyInterrupt(b.ctx, nil, api.ModelUsage{}); !c.want(err) {
					t.Errorf("the run goes on: %v", err)
				}
				b.clock.advance(time.Hour)
				if next, err := b.store.NextDue(b.ctx); err != nil || !next.IsZero() {
					t.Errorf("the session is due at %v, %v", next, err)
				}
				if again, err := b.store.Claim(b.ctx); err != nil || again != nil {
					t.Errorf("the session is run again: %+v, %v", again, err)
				}
			})
		})
	}
}

func TestOneOfManyResultsWins(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		id, call := b.waiting(t, api.EnvironmentSelfHosted)
		type answer struct {
			text string
			err  error
		}
		answers := make(chan answer, 8)
		var posting sync.WaitGroup
		for i := range cap(answers) {
			posting.Go(func() {
				text := string(rune('a' + i%4))
				_, err := b.trySend(t, id, SenderWorker, result(call, text))
				answers <- answer{text, err}
			})
		}
		posting.Wait()
		close(answers)
		accepted := map[string]int{}
		for a := range answers {
			if status(t, a.err) == 0 {
				accepted[a.text]++
			}
		}
		if len(accepted) != 1 {
			t.Fatalf("results accepted: %v", accepted)
		}
		f := fold(t, b.log(t, id), b.clock.now())
		for text, n := range accepted {
			again := b.send(t, id, SenderWorker, result(call, text))
			if n != 2 || again[0] != f.call(call).results[0] {
				t.Errorf("%q was accepted %d times, and is answered with %s, want %v", text, n, again[0], f.call(call).results)
			}
		}
	})
}

// The cap of the queue under test is one: the first new offer is the last.
func TestGivingUpOnWorkersIsSeenAndAMessageOffersAnew(t *testing.T) {
	for _, kind := range []string{api.EnvironmentSelfHosted, api.EnvironmentCloud} {
		t.Run(kind, func(t *testing.T) {
			each(t, func(t *testing.T, b *bench) {
				id, _ := b.waiting(t, kind)
				for range 2 {
					b.stopWork(t)
				}
				log := b.log(t, id)
				last := decodeEvent(t, log[len(log)-1].JSON)
				if last.Type != api.EventSessionError || last.Error.RetryStatus.Type != api.RetryExhausted {
					t.Fatalf("the log ends with %s", log[len(log)-1].JSON)
				}
				if w, err := b.queue.Poll(b.ctx, queue.PollParams{EnvironmentID: environment}); err != nil || w != nil {
					t.Fatalf("offered again after giving up: %+v, %v", w, err)
				}
				b.send(t, id, SenderClient, message("is anybody there?"))
				b.stopWork(t)
			})
		})
	}
}

// A server that has the database to itself takes over from its earlier life at
// once, and what that life still tries to write is refused.
func TestAServerThatIsAloneDoesNotWaitForItself(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		id := b.create(t, api.EnvironmentSelfHosted)
		b.send(t, id, SenderClient, message("go"))
		earlier := b.claim(t)
		if run, err := b.store.Claim(b.ctx); err != nil || run != nil {
			t.Fatalf("claimed what is held: %+v, %v", run, err)
		}
		later, err := New(b.ctx, Config{DB: b.db, Alone: true})
		if err != nil {
			t.Fatal(err)
		}
		later.UseQueue(b.queue)
		later.now = b.clock.now
		run, err := later.Claim(b.ctx)
		if err != nil || run == nil || run.SessionID != id {
			t.Fatalf("the next life claimed %+v, %v", run, err)
		}
		if _, _, err := earlier.BeginRequest(b.ctx); err == nil {
			t.Error("the earlier life still writes")
		}
	})
}

func TestACallThatMayRunTwiceIsOnRecord(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		id, call := b.waiting(t, api.EnvironmentSelfHosted)
		w, err := b.queue.Poll(b.ctx, queue.PollParams{EnvironmentID: environment})
		if err != nil || w == nil {
			t.Fatalf("poll: %+v, %v", w, err)
		}
		if _, err := b.queue.Ack(b.ctx, environment, w.ID); err != nil {
			t.Fatal(err)
		}
		none := api.NoHeartbeat
		if _, err := b.queue.Heartbeat(b.ctx, queue.HeartbeatParams{EnvironmentID: environment, WorkID: w.ID, Expected: &none}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.queue.Stop(b.ctx, environment, w.ID, true); err != nil {
			t.Fatal(err)
		}
		log := b.log(t, id)
		last := decodeEvent(t, log[len(log)-1].JSON)
		if last.Type != api.EventSessionError || last.Error.RetryStatus.Type != api.RetryRetrying || !strings.Contains(last.Error.Message, call+" (bash)") {
			t.Fatalf("the log ends with %s", log[len(log)-1].JSON)
		}
		b.send(t, id, SenderWorker, result(call, "once more"))
		fold(t, b.log(t, id), b.clock.now())
	})
}

// stopWork claims the item on offer, which there must be, and ends it.
func (b *bench) stopWork(t *testing.T) {
	t.Helper()
	w, err := b.queue.Poll(b.ctx, queue.PollParams{EnvironmentID: environment})
	if err != nil || w == nil {
		t.Fatalf("poll: %+v, %v", w, err)
	}
	if _, err := b.queue.Stop(b.ctx, environment, w.ID, true); err != nil {
		t.Fatal(err)
	}
}

func TestAWorkerMaySendResultsOnly(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		id, call := b.waiting(t, api.EnvironmentSelfHosted)
		for _, e := range []map[string]any{message("let me in"), interrupt(), {"type": "user.tool_confirmation", "tool_use_id": call, "result": "allow"}} {
			if _, err := b.trySend(t, id, SenderWorker, e); status(t, err) != 403 {
				t.Errorf("%v: %v", e["type"], err)
			}
		}
	})
}
