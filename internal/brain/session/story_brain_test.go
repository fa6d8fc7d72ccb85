package session

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"

	"hearth/api"
	"hearth/internal/db"
)

// --- the deeds of servers ---

// thinks has a server that runs a thread take its next step, as the agent loop
// would, or claim a thread if one is due.
func (s *story) thinks(t *rapid.T) {
	choices := []*mind{nil}
	for _, id := range slices.Sorted(maps.Keys(s.minds)) {
		choices = append(choices, s.minds[id], s.minds[id])
	}
	s.mind = evenly(t, "whose turn", choices...)
	switch {
	case s.mind == nil:
		if s.claims(t) && evenly(t, "begin", "at once", "at once", "at once", "later") == "at once" {
			s.steps(t)
		}
	case s.thinking:
		s.endsRequest(t)
	default:
		s.steps(t)
	}
	s.look(t)
}

// claims tells whether a thread was due. A run whose lease has lapsed may so be
// succeeded by another.
func (s *story) claims(t *rapid.T) bool {
	run, err := s.store.Claim(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if run == nil {
		return false
	}
	if run.SessionID != s.id || run.Epoch <= s.epochs[run.ThreadID] {
		t.Fatalf("claimed %+v after run %d", run, s.epochs[run.ThreadID])
	}
	if before := s.minds[run.ThreadID]; before != nil {
		s.old = append(s.old, before.run)
	}
	s.epochs[run.ThreadID] = run.Epoch
	s.mind = &mind{run: run}
	s.minds[run.ThreadID] = s.mind
	return true
}

// leaves ends the current run, whose writes must be refused from now on.
func (s *story) leaves() {
	s.old = append(s.old, s.run)
	delete(s.minds, s.run.ThreadID)
}

// steps does what a run begins with.
func (s *story) steps(t *rapid.T) {
	ended := s.ended(s.run.ThreadID)
	snap, err := s.run.Snapshot(s.ctx)
	if err == nil {
		switch {
		case snap.Halted && !ended:
			err = s.run.ApplyInterrupt(s.ctx, nil, api.ModelUsage{})
		case snap.Thread.Status == api.SessionTerminated, len(snap.Open) > 0, snap.Thread.Status == api.SessionIdle && len(snap.Inbox)+snap.Undelivered == 0:
			err = s.run.Release(s.ctx, time.Time{})
		default:
			_, _, err = s.run.BeginRequest(s.ctx)
			s.thinking = err == nil
		}
	}
	s.wantWritten(t, "a step", err)
	if !s.thinking {
		s.leaves()
	}
}

// wantWritten wants a write of the current run to have gone well, or to have
// been refused because a client has ended the session.
func (s *story) wantWritten(t *rapid.T, what string, err error) {
	if refused := err != nil; refused != s.ended(s.run.ThreadID) {
		t.Fatalf("%s of thread %q, which is over (%v): %v", what, s.run.ThreadID, s.ended(s.run.ThreadID), err)
	}
}

// endsRequest ends the model request in flight in one of the ways it can.
func (s *story) endsRequest(t *rapid.T) {
	switch evenly(t, "end of the request", "reply", "reply", "reply", "reply", "reply", "reply", "renew", "die", "fail", "interrupt") {
	case "renew":
		s.wantWritten(t, "renew", s.run.Renew(s.ctx))
		return
	case "die": // the server dies, and its lease lapses
		s.dead[s.run.ThreadID] = s.run
		s.clock.advance(runTTL)
	case "fail":
		s.fails(t, evenly(t, "retry status", api.RetryRetrying, api.RetryRetrying, api.RetryExhausted, api.RetryTerminal))
	case "interrupt":
		partial := Draft{Event: &api.ContentEvent{EventHead: api.EventHead{Type: api.EventAgentMessage}, Content: []api.Block{api.TextBlock("I was going to")}}}
		s.wantWritten(t, "interrupt", s.run.ApplyInterrupt(s.ctx, []Draft{partial}, s.spends(t)))
	default:
		c := Completion{Drafts: s.drawDrafts(t), Usage: s.spends(t), Stop: evenly(t, "stop", "", api.StopRefusal)}
		for _, d := range c.Drafts {
			if use, ok := d.Event.(*api.ToolUseEvent); ok && use.EvaluatedPermission == api.PermissionDeny {
				c.Continue = true
			}
		}
		s.wantWritten(t, "complete", s.run.CompleteRequest(s.ctx, c))
	}
	s.leaves()
}

func (s *story) fails(t *rapid.T, retry string) {
	failure := api.SessionError{Type: api.SessionErrorModelOverloaded, Message: "too much to do", RetryStatus: api.RetryStatus{Type: retry}}
	s.wantWritten(t, "fail", s.run.FailRequest(s.ctx, failure, s.clock.now().Add(2*time.Second)))
	switch {
	case retry != api.RetryTerminal:
	case s.run.ThreadID == "":
		s.over = true
	default:
		s.overThreads[s.run.ThreadID] = true
	}
}

// ended tells whether a thread takes no more writes.
func (s *story) ended(threadID string) bool { return s.over || s.deleted || s.overThreads[threadID] }

// drawDrafts draws what a model says: text, thinking and calls.
func (s *story) drawDrafts(t *rapid.T) []Draft {
	var drafts []Draft
	kinds := []string{"text", "thinking", "allow", "allow", "ask", "ask", "custom", "deny"}
	if s.run.ThreadID == "" {
		kinds = append(kinds, "send", "send", "send")
	}
	for range rapid.IntRange(1, 4).Draw(t, "length of the reply") {
		switch kind := evenly(t, "draft", kinds...); kind {
		case "send":
			drafts = append(drafts, s.drawSend(t))
		case "text":
			drafts = append(drafts, Draft{Event: &api.ContentEvent{EventHead: api.EventHead{Type: api.EventAgentMessage}, Content: []api.Block{api.TextBlock("hm")}}})
		case "thinking":
			drafts = append(drafts, Draft{Event: &api.MarkerEvent{EventHead: api.EventHead{Type: api.EventAgentThinking}}, Private: json.RawMessage(`{"text":"hm"}`)})
		case "custom":
			d, _ := customCall()
			drafts = append(drafts, d)
		case "deny":
			d, id := handsCall(kind)
			d.Call = nil // the server itself answers, at once
			drafts = append(drafts, d, Draft{Event: &api.ToolResultEvent{EventHead: api.EventHead{Type: api.EventAgentToolResult}, ToolUseID: id, Content: []api.Block{api.TextBlock("no")}}})
		default:
			d, _ := handsCall(kind)
			drafts = append(drafts, d)
		}
	}
	return drafts
}

// drawSend draws a call that makes a thread, or goes on in one.
func (s *story) drawSend(t *rapid.T) Draft {
	to := evenly(t, "to", append([]string{"", ""}, s.threads...)...)
	return Draft{
		Event: &api.ToolUseEvent{EventHead: api.EventHead{ID: api.NewID(api.PrefixEvent), Type: api.EventAgentToolUse}, Name: api.ToolSendToAgent, Input: json.RawMessage("{}"), EvaluatedPermission: api.PermissionAllow},
		Act: func(c Cast) (string, bool, error) {
			var err error
			if to == "" {
				members, failed := c.Members()
				if failed != nil {
					return "", false, failed
				}
				_, err = c.Start(members[0], "do something")
			} else {
				_, err = c.Send(to, "do more")
			}
			if err != nil && !errors.Is(err, ErrThreadOver) && !errors.Is(err, ErrInterrupted) {
				return "", false, err
			}
			return "well", err != nil, nil
		},
	}
}

// spends draws what a model request costs, which the session must then count.
func (s *story) spends(t *rapid.T) api.ModelUsage {
	n := rapid.Int64Range(0, 1000)
	u := api.ModelUsage{
		InputTokens: n.Draw(t, "input"), OutputTokens: n.Draw(t, "output"),
		CacheCreationInputTokens: n.Draw(t, "cache written"), CacheReadInputTokens: n.Draw(t, "cache read"),
	}
	if !s.ended(s.run.ThreadID) {
		s.spent += u.InputTokens + u.OutputTokens + u.CacheCreationInputTokens + u.CacheReadInputTokens
	}
	return u
}

// oldRunWrites has a server that was taken for dead try all it can.
func (s *story) oldRunWrites(t *rapid.T) {
	if len(s.old) == 0 {
		return
	}
	run := rapid.SampledFrom(s.old).Draw(t, "old run")
	if run == s.dead[run.ThreadID] && run.Epoch == s.epochs[run.ThreadID] && !s.ended(run.ThreadID) {
		return // a lapsed lease is good until somebody else claims the thread
	}
	before := s.log
	for what, err := range writes(s.bench, run) {
		var gone *api.Error
		if !errors.Is(err, ErrStale) && !(s.deleted && errors.As(err, &gone)) {
			t.Fatalf("%s through run %d: %v", what, run.Epoch, err)
		}
	}
	s.look(t)
	wantSameLog(t, before, s.log)
}

// rests answers all calls and lets the model end its turns, until nothing is
// left to do. A session that then still has something to do, but is not due,
// would be stuck for ever.
func (s *story) rests(t *rapid.T) {
	for range 60 + 30*len(s.threads) {
		s.look(t)
		if s.over || s.deleted {
			return
		}
		s.answersAll(t)
		for _, id := range slices.Sorted(maps.Keys(s.minds)) {
			if s.mind = s.minds[id]; s.thinking {
				s.wantWritten(t, "complete", s.run.CompleteRequest(s.ctx, Completion{}))
				s.leaves()
				continue
			}
			s.steps(t)
		}
		if len(s.minds) > 0 || s.claims(t) {
			continue
		}
		next, err := s.store.NextDue(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if next.IsZero() {
			s.look(t)
			s.wantAtRest(t)
			return
		}
		s.clock.advance(next.Sub(s.clock.now()))
	}
	t.Fatalf("the session does not come to rest: %+v", s.said)
}

func (s *story) answersAll(t *rapid.T) {
	s.look(t)
	for _, c := range s.said.open() {
		if c.kind == string(CallHands) && !c.runnable() {
			s.send(t, s.id, SenderClient, map[string]any{"type": "user.tool_confirmation", "tool_use_id": c.id, "result": "allow"})
		}
		s.send(t, s.id, SenderWorker, s.result(c.kind, c.id, "at last"))
	}
	s.look(t)
}

func (s *story) wantAtRest(t *rapid.T) {
	if open := s.said.open(); s.said.status != api.SessionIdle || len(open) > 0 {
		t.Fatalf("nothing is due, and the session is %s with %d open calls", s.said.status, len(open))
	}
	for _, e := range s.log {
		if waits(e) {
			t.Fatalf("nothing is due, and %s never took effect", e.JSON)
		}
	}
	var waiting int
	err := s.db.Read(s.ctx, func(tx db.Tx) error { return tx.QueryRow(s.ctx, "SELECT COUNT(*) FROM deliveries").Scan(&waiting) })
	if err != nil || waiting > 0 {
		t.Fatalf("nothing is due, and %d messages were never delivered: %v", waiting, err)
	}
}
