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
	s.threads = nil
	for _, e := range s.log {
		if e.Type == api.EventThreadCreated {
			s.threads = append(s.threads, *decodeEvent(t, e.JSON).SessionThreadID)
		}
	}
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
	s.checkThreads(t)
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
	if s.said.children() {
		s.said.usage.InputTokens, s.said.usage.OutputTokens = got.Usage.InputTokens, got.Usage.OutputTokens
		s.said.usage.CacheReadInputTokens, s.said.usage.CacheCreation = got.Usage.CacheReadInputTokens, got.Usage.CacheCreation
	}
	if got.Status != s.said.status || got.Status != s.said.standing() || got.Usage != s.said.usage || !reflect.DeepEqual(got.Title, s.said.title) {
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
	waitsFor := slices.Sorted(slices.Values(s.said.waitsFor))
	if slices.Sort(blocking); s.said.status == api.SessionIdle && !slices.Equal(waitsFor, blocking) {
		t.Fatalf("the session says it waits for %v, and %v block it", s.said.waitsFor, blocking)
	}
	for id, said := range s.said.threads {
		own := s.blockingOf(id)
		if said.status == api.SessionIdle && !slices.Equal(said.waitsFor, own) || said.status == api.SessionRunning && len(own) > 0 {
			t.Fatalf("thread %s is %s and says it waits for %v, and %v block it", id, said.status, said.waitsFor, own)
		}
	}
}

// blockingOf lists the calls that block a thread.
func (s *story) blockingOf(threadID string) (ids []string) {
	if threadID == s.said.primaryID {
		threadID = ""
	}
	for _, c := range s.said.open() {
		if c.thread == threadID && (s.kind != api.EnvironmentCloud || c.kind != string(CallHands) || !c.runnable()) {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// checkThreads wants each thread's log to tell the same as the session's, and
// what the threads have used to come to what the session has.
func (s *story) checkThreads(t *rapid.T) {
	listed, last, err := s.store.Threads(s.ctx, ThreadFilter{WorkspaceID: workspace, SessionID: s.id, After: -1, Limit: 1000})
	if err != nil || last != -1 || len(listed) != len(s.threads)+1 {
		t.Fatalf("%d threads are listed, %d were made: %v", len(listed), len(s.threads)+1, err)
	}
	var spent int64
	for i, thread := range listed {
		id := thread.ID
		if i == 0 {
			id = ""
		} else if id != s.threads[i-1] {
			t.Fatalf("thread %d is %s, made was %s", i, id, s.threads[i-1])
		}
		if said := s.said.thread(id); thread.Status != said.status {
			t.Fatalf("thread %s is %s, the log says %s", thread.ID, thread.Status, said.status)
		}
		if u := thread.Usage; u != nil {
			spent += u.InputTokens + u.OutputTokens + u.CacheReadInputTokens + u.CacheCreation.Ephemeral5m
		}
		if i > 0 {
			s.checkThread(t, id)
		}
	}
	if spent > s.spent {
		t.Fatalf("the threads have used %d tokens, %d were spent", spent, s.spent)
	}
}

// checkThread wants what a thread's log says of its calls to be in the session's
// log too, and its events to be numbered without gaps.
func (s *story) checkThread(t *rapid.T, id string) {
	snap, err := (&Run{SessionID: s.id, ThreadID: id, store: s.store}).Snapshot(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(snap.Inbox) > 0 {
		t.Fatalf("clients' messages wait for thread %s", id)
	}
	status, running := api.SessionIdle, []string{}
	for i, e := range snap.Log {
		if e.Seq != int64(i+1) {
			t.Fatalf("event %d of thread %s has number %d", i+1, id, e.Seq)
		}
		switch e.Type {
		case api.EventThreadStatusRunning:
			status = api.SessionRunning
		case api.EventThreadStatusRescheduled:
			status = api.SessionRescheduling
		case api.EventThreadStatusIdle:
			status = api.SessionIdle
		case api.EventThreadStatusTerminated:
			status = api.SessionTerminated
		case api.EventAgentToolUse, api.EventAgentCustomToolUse:
			if e.Event.SessionThreadID != nil {
				t.Fatalf("in its own log a call names its thread: %s", e.JSON)
			}
			if e.Event.EvaluatedPermission != api.PermissionDeny {
				running = append(running, e.ID)
			}
		case api.EventUserToolResult, api.EventAgentToolResult, api.EventUserCustomToolResult:
			running = slices.DeleteFunc(running, func(id string) bool { return id == e.Event.ToolUseID+e.Event.CustomToolUseID })
		}
	}
	if said := s.said.thread(id); status != said.status {
		t.Fatalf("thread %s is %s in its own log, and %s in the session's", id, status, said.status)
	}
	var open []string
	for _, c := range s.said.open() {
		if c.thread == id {
			open = append(open, c.id)
		}
	}
	if !slices.Equal(open, running) && len(open)+len(running) > 0 {
		t.Fatalf("open calls of thread %s are %v in its own log, and %v in the session's", id, running, open)
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
	own := slices.DeleteFunc(s.said.open(), func(c *foldedCall) bool { return c.thread != "" })
	if !slices.EqualFunc(snap.Open, own, sameCall) {
		t.Fatalf("open calls are %+v, the log says %+v", snap.Open, own)
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
