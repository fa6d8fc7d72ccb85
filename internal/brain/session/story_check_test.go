package session

import (
	"bytes"
	"reflect"
	"slices"

	"pgregory.net/rapid"

	"hearth/api"
	"hearth/internal/db"
)

// look reads the log anew and wants it to be the old one, grown: what has taken
// effect stays where it is, to the byte.
func (s *story) look(t *rapid.T) {
	if s.deleted {
		s.log, s.said = nil, &folded{status: api.SessionTerminated}
		return
	}
	before := s.log
	s.log = s.bench.log(t, s.id)
	now := map[int64]StoredEvent{}
	for _, e := range s.log {
		now[e.Seq] = e
		if waits(e) {
			s.queued[e.ID] = true
		}
	}
	for _, e := range before {
		if kept, ok := now[e.Seq]; !waits(e) && (!ok || !sameStored(e, kept)) {
			t.Fatalf("event %d was\n%s\nand is now\n%s", e.Seq, e.JSON, kept.JSON)
		}
	}
	s.said = fold(t, s.log, s.clock.now())
}

// waits tells whether an event has yet to take effect.
func waits(e StoredEvent) bool { return bytes.Contains(e.JSON, []byte(`"processed_at":null`)) }

func wantSameLog(t *rapid.T, before, after []StoredEvent) {
	if !slices.EqualFunc(before, after, sameStored) {
		t.Fatalf("the log has changed, from %d events to %d", len(before), len(after))
	}
}

// check wants all that can be seen of the session to be what its log says.
func (s *story) check(t *rapid.T) {
	s.look(t)
	if s.deleted {
		for _, err := range []error{err1(s.store.Get(s.ctx, workspace, s.id)), err2(s.store.Events(s.ctx, s.id, EventFilter{Limit: 1})), err1(s.store.Subscribe(s.ctx, s.id, ""))} {
			if status(t, err) != 404 {
				t.Fatalf("a deleted session is answered with %v", err)
			}
		}
		return
	}
	s.checkSequence(t)
	s.checkProjections(t)
	s.checkSnapshot(t)
	s.checkPages(t)
}

func err1[A any](_ A, err error) error         { return err }
func err2[A, B any](_ A, _ B, err error) error { return err }

// checkSequence wants each number to be given out once and without gaps: those
// missing from the log are the first seats of events that were queued.
func (s *story) checkSequence(t *rapid.T) {
	r, err := s.store.read(s.ctx, s.id)
	if err != nil {
		t.Fatal(err)
	}
	moved, last := int64(0), int64(0)
	for _, e := range s.log {
		if e.Seq <= last {
			t.Fatalf("event %d follows event %d", e.Seq, last)
		}
		last = e.Seq
		if s.queued[e.ID] && !waits(e) {
			moved++
		}
	}
	if last > r.primary.seq || int64(len(s.log))+moved != r.primary.seq {
		t.Fatalf("%d numbers were given out, to %d events of which %d were queued first; the last is %d", r.primary.seq, len(s.log), moved, last)
	}
}

func (s *story) checkProjections(t *rapid.T) {
	got, err := s.store.Get(s.ctx, workspace, s.id)
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != s.said.status || got.Usage != s.said.usage || !reflect.DeepEqual(got.Title, s.said.title) {
		t.Fatalf("the session is %s with %+v and title %v, its log says %s with %+v and title %v", got.Status, got.Usage, got.Title, s.said.status, s.said.usage, s.said.title)
	}
	if u := got.Usage; u.InputTokens+u.OutputTokens+u.CacheReadInputTokens+u.CacheCreation.Ephemeral5m != s.spent {
		t.Fatalf("usage is %+v, %d tokens were spent", u, s.spent)
	}
	if (got.Status == api.SessionTerminated) != s.over {
		t.Fatalf("the session is %s, over: %v", got.Status, s.over)
	}
	blocking := []string{}
	for _, c := range s.said.open() {
		if s.kind != api.EnvironmentCloud || c.kind != string(CallHands) || !c.runnable() {
			blocking = append(blocking, c.id)
		}
	}
	switch {
	case s.said.status == api.SessionIdle && !slices.Equal(s.said.waitsFor, blocking):
		t.Fatalf("the session says it waits for %v, and %v block it", s.said.waitsFor, blocking)
	case s.said.status == api.SessionRunning && len(blocking) > 0:
		t.Fatalf("the session is running, and %v block it", blocking)
	}
}

// checkSnapshot wants the brain to see the same log as clients, cache or none.
func (s *story) checkSnapshot(t *rapid.T) {
	snap, err := (&Run{SessionID: s.id, store: s.store}).Snapshot(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var log, inbox []StoredEvent
	for _, e := range s.log {
		switch {
		case !waits(e):
			log = append(log, e)
		case e.Type != api.EventUserInterrupt:
			inbox = append(inbox, e)
		}
	}
	same := func(a LogEvent, b StoredEvent) bool { return sameStored(a.StoredEvent, b) }
	if !slices.EqualFunc(snap.Log, log, same) || !slices.EqualFunc(snap.Inbox, inbox, same) {
		t.Fatalf("the brain sees %d events and %d queued, clients %d and %d", len(snap.Log), len(snap.Inbox), len(log), len(inbox))
	}
	if s.over {
		return // what was left open is moot, and waits for nothing
	}
	sameCall := func(a Call, b *foldedCall) bool {
		return a.ID == b.id && string(a.Kind) == b.kind && a.runnable() == (b.kind == string(CallHands) && b.runnable())
	}
	if !slices.EqualFunc(snap.Open, s.said.open(), sameCall) {
		t.Fatalf("open calls are %+v, the log says %+v", snap.Open, s.said.open())
	}
}

// checkPages wants the log to read the same from either end, and stored JSON to
// be what listing answers.
func (s *story) checkPages(t *rapid.T) {
	var backwards []StoredEvent
	for cursor, more := int64(0), true; more; {
		var page []StoredEvent
		var err error
		page, more, err = s.store.Events(s.ctx, s.id, EventFilter{Limit: 25, CursorSeq: cursor, Descending: true})
		if err != nil {
			t.Fatal(err)
		}
		if backwards = append(backwards, page...); len(page) > 0 {
			cursor = page[len(page)-1].Seq
		}
	}
	slices.Reverse(backwards)
	wantSameLog(t, s.log, backwards)
	var stored []StoredEvent
	err := s.db.Read(s.ctx, func(tx db.Tx) (err error) {
		stored, err = storedEvents(s.ctx, tx, "log_id = ? ORDER BY seq", s.id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wantSameLog(t, stored, s.log)
}
