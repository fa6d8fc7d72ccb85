package session

import (
	"encoding/json"
	"errors"
	"time"

	"pgregory.net/rapid"

	"hearth/api"
)

// --- the deeds of servers ---

// thinks has the server that runs the session take its next step, as the agent
// loop would, or claim the session if no server runs it.
func (s *story) thinks(t *rapid.T) {
	switch {
	case s.run == nil:
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

// claims tells whether the session was due.
func (s *story) claims(t *rapid.T) bool {
	run, err := s.store.Claim(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if run == nil {
		return false
	}
	if n := len(s.old); run.SessionID != s.id || n > 0 && run.Epoch <= s.old[n-1].Epoch {
		t.Fatalf("claimed %+v after %+v", run, s.old)
	}
	s.run, s.thinking = run, false
	return true
}

// leaves ends the current run, whose writes must be refused from now on.
func (s *story) leaves() {
	s.old, s.run, s.thinking = append(s.old, s.run), nil, false
}

// steps does what a run begins with.
func (s *story) steps(t *rapid.T) {
	ended := s.over || s.deleted
	snap, err := s.run.Snapshot(s.ctx)
	if err == nil {
		switch {
		case snap.Interrupted() && !ended:
			err = s.run.ApplyInterrupt(s.ctx, nil, api.ModelUsage{})
		case snap.Session.Status == api.SessionTerminated, len(snap.Open) > 0, snap.Session.Status == api.SessionIdle && len(snap.Inbox) == 0:
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
	if refused := err != nil; refused != (s.over || s.deleted) {
		t.Fatalf("%s of a session that is over (%v) or deleted (%v): %v", what, s.over, s.deleted, err)
	}
}

// endsRequest ends the model request in flight in one of the ways it can.
func (s *story) endsRequest(t *rapid.T) {
	switch evenly(t, "end of the request", "reply", "reply", "reply", "reply", "reply", "reply", "renew", "die", "fail", "interrupt") {
	case "renew":
		s.wantWritten(t, "renew", s.run.Renew(s.ctx))
		return
	case "die": // the server dies, and its lease lapses
		s.dead = s.run
		s.clock.advance(runTTL)
	case "fail":
		s.fails(t, evenly(t, "retry status", api.RetryRetrying, api.RetryRetrying, api.RetryExhausted, api.RetryTerminal))
	case "interrupt":
		partial := Draft{Event: &api.ContentEvent{EventHead: api.EventHead{Type: api.EventAgentMessage}, Content: []api.Block{api.TextBlock("I was going to")}}}
		s.wantWritten(t, "interrupt", s.run.ApplyInterrupt(s.ctx, []Draft{partial}, s.spends(t)))
	default:
		c := Completion{Drafts: drawDrafts(t), Usage: s.spends(t), Stop: evenly(t, "stop", "", api.StopRefusal)}
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
	s.wantWritten(t, "fail", s.run.FailRequest(s.ctx, failure, api.ModelUsage{}, s.clock.now().Add(2*time.Second)))
	s.over = s.over || retry == api.RetryTerminal
}

// drawDrafts draws what a model says: text, thinking and calls.
func drawDrafts(t *rapid.T) []Draft {
	var drafts []Draft
	for range rapid.IntRange(1, 4).Draw(t, "length of the reply") {
		switch kind := evenly(t, "draft", "text", "thinking", "allow", "allow", "ask", "ask", "custom", "deny"); kind {
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

// spends draws what a model request costs, which the session must then count.
func (s *story) spends(t *rapid.T) api.ModelUsage {
	n := rapid.Int64Range(0, 1000)
	u := api.ModelUsage{
		InputTokens: n.Draw(t, "input"), OutputTokens: n.Draw(t, "output"),
		CacheCreationInputTokens: n.Draw(t, "cache written"), CacheReadInputTokens: n.Draw(t, "cache read"),
	}
	if !s.over && !s.deleted {
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
	if s.run == nil && run == s.dead {
		return // a lapsed lease is good until somebody else claims the session
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
	for range 30 {
		s.look(t)
		if s.over || s.deleted {
			return
		}
		s.answersAll(t)
		switch {
		case s.run == nil && !s.claims(t):
			next, err := s.store.NextDue(s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if next.IsZero() {
				s.wantAtRest(t)
				return
			}
			s.clock.advance(next.Sub(s.clock.now()))
		case s.thinking:
			s.wantWritten(t, "complete", s.run.CompleteRequest(s.ctx, Completion{}))
			s.leaves()
		default:
			s.steps(t)
		}
	}
	t.Fatalf("the session does not come to rest: %+v", s.said)
}

func (s *story) answersAll(t *rapid.T) {
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
}
