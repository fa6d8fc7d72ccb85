package session

import (
	"errors"
	"io"
	"slices"
	"strconv"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"hearth/api"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
)

// follower is somebody's live view of a story's session.
type follower struct {
	sub   *Subscription
	from  int64 // seq of the last event it did not ask for
	got   []StoredEvent
	ended bool
}

// follows opens a live view, from now on or from after an event of the log.
func (s *story) follows(t *rapid.T) {
	if s.deleted {
		return
	}
	after := ""
	if len(s.log) > 0 && rapid.Bool().Draw(t, "resume") {
		after = rapid.SampledFrom(s.log).Draw(t, "after").ID
	}
	sub, err := s.store.Subscribe(s.ctx, s.id, after)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	s.followers = append(s.followers, &follower{sub: sub, from: sub.last})
}

func (s *story) reads(t *rapid.T) {
	if len(s.followers) == 0 {
		return
	}
	s.catchUp(t, rapid.SampledFrom(s.followers).Draw(t, "follower"))
}

// catchUp reads until the follower has all there is. A hint that was lost would
// leave it waiting until the test's time is up.
func (s *story) catchUp(t *rapid.T, f *follower) {
	for !f.ended && f.sub.last < s.lastSeq(t) {
		events, err := f.sub.Next(s.ctx)
		if errors.Is(err, io.EOF) {
			f.ended = true
			return
		}
		if err != nil {
			t.Fatalf("follow: %v, at %d of %d", err, f.sub.last, s.lastSeq(t))
		}
		for _, e := range events {
			if e.Seq > 0 { // not a preview
				f.got = append(f.got, e)
			}
		}
	}
}

// lastSeq is the last number given out, of a deleted session too.
func (s *story) lastSeq(t *rapid.T) (seq int64) {
	err := s.db.Read(s.ctx, func(tx db.Tx) error {
		return tx.QueryRow(s.ctx, "SELECT seq FROM sessions WHERE id = ?", s.id).Scan(&seq)
	})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// misleads sends hints that are late, too early, or no hints at all.
func (s *story) misleads(t *rapid.T) {
	for _, hint := range rapid.SliceOfN(rapid.SampledFrom(hints), 1, 12).Draw(t, "hints") {
		if err := s.db.Publish(s.ctx, topic(s.id), hint); err != nil {
			t.Fatal(err)
		}
	}
}

var hints = []string{"0", "1", "3", "", "-7", "999999999", "not a number", `{"type":"event_delta"}`}

// checkFollowers wants every follower to have read every event once, in order,
// whatever hints it was given.
func (s *story) checkFollowers(t *rapid.T) {
	for _, f := range s.followers {
		s.catchUp(t, f)
		wantAscending(t, f.from, f.got)
		if s.deleted {
			if n := len(f.got); n > 0 && f.got[n-1].Type != api.EventSessionDeleted && f.got[n-1].Type != api.EventSessionStatusTerminated {
				t.Fatalf("the last a follower of a deleted session reads is %s", f.got[n-1].Type)
			}
			continue
		}
		var want []StoredEvent
		for _, e := range s.log {
			if e.Seq > f.from {
				want = append(want, e)
			}
		}
		// Beside the log as it is now, it has seen events while they were queued.
		got := slices.DeleteFunc(slices.Clone(f.got), func(e StoredEvent) bool {
			return s.queued[e.ID] && !slices.ContainsFunc(want, func(w StoredEvent) bool { return w.Seq == e.Seq })
		})
		wantSameLog(t, want, got)
	}
}

func wantAscending(t rapid.TB, from int64, got []StoredEvent) {
	t.Helper()
	for _, e := range got {
		if e.Seq <= from {
			t.Fatalf("event %d was delivered after event %d", e.Seq, from)
		}
		from = e.Seq
	}
}

func TestFollowersOnEveryServerReadAllThatManySend(t *testing.T) {
	t.Run("one server", func(t *testing.T) {
		each(t, func(t *testing.T, b *bench) { manyFollow(t, b, b.store) })
	})
	t.Run("two servers", func(t *testing.T) {
		t.Parallel()
		url := dbtest.PostgresURL(t)
		b := newBench(t, dbtest.Open(t, url))
		manyFollow(t, b, b.store, b.server(t, dbtest.Open(t, url)))
	})
}

// manyFollow has senders race, and misleading hints with them, while followers
// on each server read.
func manyFollow(t *testing.T, b *bench, servers ...*Store) {
	const senders, each = 6, 15
	id := b.create(t, api.EnvironmentSelfHosted)
	last := int64(senders*each + 2) // the first message also has the session run
	var following, sending sync.WaitGroup
	for i := range 6 {
		sub, err := servers[i%len(servers)].Subscribe(b.ctx, id, "")
		if err != nil {
			t.Fatal(err)
		}
		following.Go(func() {
			defer sub.Close()
			var got []StoredEvent
			for len(got) == 0 || got[len(got)-1].Seq < last {
				events, err := sub.Next(b.ctx)
				if err != nil {
					t.Errorf("follow: %v after %d events", err, len(got))
					return
				}
				for _, e := range events {
					if e.Seq > 0 {
						got = append(got, e)
					}
				}
			}
			for i, e := range got {
				if e.Seq != int64(i+1) {
					t.Errorf("event %d was delivered in place %d", e.Seq, i+1)
					return
				}
			}
		})
	}
	for i := range senders {
		sending.Go(func() {
			for range each {
				b.send(t, id, SenderClient, message("hello"))
				if err := b.db.Publish(b.ctx, topic(id), hints[i%len(hints)]); err != nil {
					t.Errorf("publish: %v", err)
				}
			}
		})
	}
	sending.Wait()
	following.Wait()
	for i, e := range b.log(t, id) {
		if e.Seq != int64(i+1) {
			t.Fatalf("event %d has the number %s", i+1, strconv.FormatInt(e.Seq, 10))
		}
	}
}
