package queue

import (
	"context"
	"sync"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

func TestEachItemIsClaimedOnceHoweverManyPoll(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		const items, pollers = 60, 12
		for range items {
			b.offer(t, "", false)
		}
		claims := make(chan *api.Work, 2*items)
		var polling sync.WaitGroup
		for range pollers {
			polling.Go(func() {
				for {
					w, err := b.q.Poll(b.ctx, PollParams{EnvironmentID: b.env})
					if err != nil {
						t.Errorf("poll: %v", err)
					}
					if w == nil {
						return
					}
					claims <- w
				}
			})
		}
		polling.Wait()
		close(claims)
		seen := map[string]bool{}
		for w := range claims {
			if seen[w.ID] {
				t.Errorf("item %s was claimed twice", w.ID)
			}
			seen[w.ID] = true
		}
		if len(seen) != items {
			t.Errorf("%d items were claimed, want %d", len(seen), items)
		}
	})
}

func TestOldestComesFirst(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		var want []string
		for range 5 {
			want = append(want, b.offer(t, "", false))
			b.clock.advance(time.Second)
		}
		for _, id := range want {
			if w := b.poll(t, PollParams{}); w == nil || w.Data.ID != id {
				t.Fatalf("claimed %+v, want the item of %s", w, id)
			}
		}
	})
}

func TestAnEnvironmentSeesOnlyItsOwnItems(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		b.offer(t, "", false)
		other, err := b.q.Poll(b.ctx, PollParams{EnvironmentID: api.NewID(api.PrefixEnvironment)})
		if err != nil || other != nil {
			t.Errorf("another environment's poll got %+v, %v", other, err)
		}
		w := b.poll(t, PollParams{})
		_, err = b.q.Ack(b.ctx, api.NewID(api.PrefixEnvironment), w.ID)
		wantStatus(t, "ack through another environment", err, 404)
	})
}

func TestLongPollWakesOnAnOffer(t *testing.T) {
	each(t, func(t *testing.T, b *bench) { wakes(t, b, b.q) })
}

func TestLongPollWakesOnAnotherServersOffer(t *testing.T) {
	t.Parallel()
	url := dbtest.PostgresURL(t)
	b := newBench(t, dbtest.Open(t, url))
	wakes(t, b, b.server(t, dbtest.Open(t, url)))
}

// wakes has an item offered by b's server while a poll of q is blocked for an
// hour, over and over: a wake that is lost once ends the test in time-out.
func wakes(t *testing.T, b *bench, q *Queue) {
	claims := make(chan *api.Work)
	go func() {
		defer close(claims)
		for {
			w, err := q.Poll(b.ctx, PollParams{EnvironmentID: b.env, WorkerID: "sleeper", Block: time.Hour})
			if err != nil {
				t.Errorf("poll: %v", err)
			}
			if w == nil {
				return
			}
			claims <- w
		}
	}()
	awaitPollers(t, b, 1)
	for range 30 {
		want := b.offer(t, "", false)
		if w := <-claims; w == nil || w.Data.ID != want {
			t.Fatalf("the poll answered %+v, want the item of %s", w, want)
		}
	}
}

// awaitPollers waits until n workers have polled.
func awaitPollers(t *testing.T, b *bench, n int64) {
	t.Helper()
	for {
		stats, err := b.q.Stats(b.ctx, b.env)
		if err != nil {
			t.Fatal(err)
		}
		if *stats.WorkersPolling >= n {
			return
		}
	}
}

func TestLongPollWakesWhenAPauseIsCutShort(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		id := b.offer(t, "", false)
		b.needs.set(id, true)
		for range 3 { // the third item on comes after a pause
			w := b.poll(t, PollParams{})
			if w == nil {
				break
			}
			if _, err := b.q.Stop(b.ctx, b.env, w.ID, true); err != nil {
				t.Fatal(err)
			}
		}
		claims := make(chan *api.Work)
		go func() {
			w, err := b.q.Poll(b.ctx, PollParams{EnvironmentID: b.env, WorkerID: "sleeper", Block: time.Hour})
			if err != nil {
				t.Errorf("poll: %v", err)
			}
			claims <- w
		}()
		awaitPollers(t, b, 1)
		b.offer(t, id, true)
		if w := <-claims; w == nil || w.Data.ID != id {
			t.Errorf("the poll answered %+v, want the item of %s", w, id)
		}
	})
}

func TestPollThatIsGivenUpClaimsNothing(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		ctx, cancel := context.WithCancel(b.ctx)
		ended := make(chan *api.Work)
		go func() {
			w, err := b.q.Poll(ctx, PollParams{EnvironmentID: b.env, WorkerID: "leaver", Block: time.Hour})
			if err != nil {
				t.Errorf("poll: %v", err)
			}
			ended <- w
		}()
		awaitPollers(t, b, 1)
		cancel()
		if w := <-ended; w != nil {
			t.Errorf("the poll claimed %+v", w)
		}
		id := b.offer(t, "", false)
		if w := b.poll(t, PollParams{}); w == nil || w.Data.ID != id {
			t.Errorf("the next poll got %+v", w)
		}
	})
}

func TestUnacknowledgedClaimIsOfferedAgain(t *testing.T) {
	for name, reclaim := range map[string]time.Duration{"after the default": 0, "after the poller's own time": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, b *bench) {
				after := orDefault(reclaim, 5*time.Second)
				b.offer(t, "", false)
				first := b.poll(t, PollParams{})
				b.clock.advance(after - time.Millisecond)
				if w := b.poll(t, PollParams{ReclaimAfter: reclaim}); w != nil {
					t.Fatalf("claimed again before its time: %+v", w)
				}
				b.clock.advance(time.Millisecond)
				second := b.poll(t, PollParams{ReclaimAfter: reclaim})
				if second == nil || second.ID != first.ID {
					t.Fatalf("claimed %+v, want item %s again", second, first.ID)
				}
				_, err := b.q.VerifyToken(b.ctx, token(t, first))
				wantStatus(t, "the first claim's token", err, 401)
				if _, err := b.q.VerifyToken(b.ctx, token(t, second)); err != nil {
					t.Errorf("the second claim's token: %v", err)
				}
				b.ack(t, second)
				_, err = b.beat(second.ID, api.NoHeartbeat, 1)
				wantStatus(t, "a heartbeat from the first claim", err, 412)
				b.clock.advance(after)
				if w := b.poll(t, PollParams{ReclaimAfter: reclaim}); w != nil {
					t.Errorf("an acknowledged item was offered again: %+v", w)
				}
			})
		})
	}
}

func TestStatsTellWhatIsQueuedClaimedAndPolling(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		oldest := b.clock.now()
		b.offer(t, "", false)
		b.clock.advance(time.Second)
		b.offer(t, "", false)
		b.poll(t, PollParams{WorkerID: "one"})
		b.clock.advance(20 * time.Second)
		stats, err := b.q.Stats(b.ctx, b.env)
		if err != nil {
			t.Fatal(err)
		}
		if stats.Depth != 1 || stats.Pending != 1 || *stats.WorkersPolling != 1 || !stats.OldestQueuedAt.Equal(oldest) {
			t.Errorf("stats %+v", stats)
		}
		b.clock.advance(11 * time.Second)
		if stats, err = b.q.Stats(b.ctx, b.env); err != nil || *stats.WorkersPolling != 0 {
			t.Errorf("half a minute later %d workers poll, %v", *stats.WorkersPolling, err)
		}
	})
}

func TestNewRefusesAWeakSigningKey(t *testing.T) {
	if _, err := New(t.Context(), Config{DB: &db.DB{}, SigningKey: make([]byte, 31)}); err == nil {
		t.Error("a key of 31 bytes was accepted")
	}
}

func TestTheLastWorkerHasFirstRefusal(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		session := b.offer(t, "", false)
		w := b.poll(t, PollParams{WorkerID: "one"})
		b.ack(t, w)
		if _, err := b.q.Stop(b.ctx, b.env, w.ID, true); err != nil {
			t.Fatal(err)
		}
		b.offer(t, session, true)
		if other := b.poll(t, PollParams{WorkerID: "two"}); other != nil {
			t.Errorf("another worker was faster: %+v", other)
		}
		if w := b.poll(t, PollParams{WorkerID: "one"}); w == nil || w.Data.ID != session {
			t.Fatalf("the worker that served it last got %+v", w)
		}
		// Its claim lapses: then it is anybody's.
		b.clock.advance(10 * time.Second)
		w = b.poll(t, PollParams{WorkerID: "two"})
		if w == nil {
			t.Fatal("a claim nobody acknowledged is still kept")
		}
		b.ack(t, w)
		if _, err := b.q.Stop(b.ctx, b.env, w.ID, true); err != nil {
			t.Fatal(err)
		}
		// A worker that does not come is waited for a moment, and one that has not
		// been seen for long not at all.
		b.offer(t, session, true)
		b.clock.advance(firstRefusal)
		w = b.poll(t, PollParams{WorkerID: "three"})
		if w == nil {
			t.Fatal("it is kept for a worker that does not come")
		}
		b.ack(t, w)
		if _, err := b.q.Stop(b.ctx, b.env, w.ID, true); err != nil {
			t.Fatal(err)
		}
		b.clock.advance(time.Hour)
		b.offer(t, session, true)
		if w := b.poll(t, PollParams{WorkerID: "four"}); w == nil {
			t.Error("it is kept for a worker that has gone")
		}
	})
}
