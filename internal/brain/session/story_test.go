package session

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hearth/api"
	"hearth/internal/db"
)

// TestStories runs sessions through random deeds of clients, workers, servers
// and time. What must come of a deed is foretold from the log alone; after each,
// everything that can be seen of the session must be what its log says. In the
// end, when all calls are answered, every session must come to rest.
func TestStories(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		rapid.Check(t, func(t *rapid.T) {
			s := newStory(t, b)
			t.Repeat(map[string]func(*rapid.T){
				"": s.check, "message": s.messages, "interrupt": s.interrupts, "result": s.posts, "results": s.postsAll, "confirm": s.confirms,
				"nonsense": s.sendsNonsense, "change": s.changes, "think": s.thinks, "think more": s.thinks, "old run": s.oldRunWrites,
				"time passes": s.timePasses, "follow": s.follows, "read": s.reads, "mislead": s.misleads,
			})
			s.rests(t)
			s.check(t)
			s.checkFollowers(t)
		})
	})
}

// story is one session, and what its clients and servers remember of it.
type story struct {
	*bench
	id, kind string

	run      *Run // the current run, nil when there is none
	thinking bool // it has begun a model request
	old      []*Run

	log     []StoredEvent // as it was when last looked at
	said    *folded       // what log says
	queued  map[string]bool
	results map[string]answer // that were accepted, by call
	answers map[string]answer // confirmations that were accepted, by call
	over    bool              // archived or failed for good
	deleted bool

	followers []*follower
}

// answer is an input that was accepted, and the id it got.
type answer struct{ content, id string }

func newStory(t *rapid.T, b *bench) *story {
	err := b.db.Write(b.ctx, func(tx db.Tx) error {
		for _, table := range []string{"sessions", "events", "tool_calls", "work", "work_offers"} {
			if _, err := tx.Exec(b.ctx, "DELETE FROM "+table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &story{bench: b, queued: map[string]bool{}, results: map[string]answer{}, answers: map[string]answer{}}
	s.kind = rapid.SampledFrom([]string{api.EnvironmentSelfHosted, api.EnvironmentSelfHosted, api.EnvironmentCloud}).Draw(t, "environment")
	s.id = b.create(t, s.kind)
	s.look(t)
	return s
}

// free tells whether a message takes effect at once.
func (s *story) free() bool { return s.said.status == api.SessionIdle && len(s.said.waitsFor) == 0 }

// sends sends inputs. When they must be refused they are, with a plain 4xx, and
// change nothing. It returns the events answered, nil when refused.
func (s *story) sends(t *rapid.T, from Sender, refused bool, inputs ...map[string]any) []api.Event {
	before := s.log
	stored, err := s.trySend(t, s.id, from, inputs...)
	got := status(t, err)
	if want := refused || s.over || s.deleted; want != (got >= 400 && got < 500) {
		t.Fatalf("%v was answered %d (%v), refusal wanted: %v", inputs, got, err, want)
	}
	s.look(t)
	if err != nil {
		wantSameLog(t, before, s.log)
		return nil
	}
	if len(stored) != len(inputs) {
		t.Fatalf("%d events answered for %d sent", len(stored), len(inputs))
	}
	events := make([]api.Event, len(stored))
	for i, raw := range stored {
		events[i] = decodeEvent(t, raw)
		s.wantListed(t, events[i].ID, raw)
	}
	return events
}

// wantListed wants what was answered to be what listing answers.
func (s *story) wantListed(t *rapid.T, id string, raw json.RawMessage) {
	for _, e := range s.log {
		if e.ID == id {
			if string(e.JSON) != string(raw) {
				t.Fatalf("event %s was answered as\n%s\nand is listed as\n%s", id, raw, e.JSON)
			}
			return
		}
	}
	t.Fatalf("event %s was answered and is not listed", id)
}

// --- the deeds of clients and workers ---

func (s *story) messages(t *rapid.T) {
	free := s.free()
	inputs := []map[string]any{message("go on")}
	if rapid.Bool().Draw(t, "with a system message") {
		inputs = append(inputs, map[string]any{"type": "system.message", "content": text("by the way")})
	}
	for i, e := range s.sends(t, SenderClient, false, inputs...) {
		if want := free && i == 0; (e.ProcessedAt != nil) != want {
			t.Fatalf("%s of a session that is free (%v): processed at %v", e.Type, free, e.ProcessedAt)
		}
	}
	if free && !s.over && !s.deleted && s.said.status != api.SessionRunning {
		t.Fatalf("a message leaves a session that was free %s", s.said.status)
	}
}

func (s *story) interrupts(t *rapid.T) {
	free := s.free()
	for _, e := range s.sends(t, SenderClient, false, interrupt()) {
		if (e.ProcessedAt != nil) != free {
			t.Fatalf("an interrupt of a session that is free (%v): processed at %v", free, e.ProcessedAt)
		}
	}
}

// posts sends a result, right or wrong in any way, of some call or of none.
func (s *story) posts(t *rapid.T) {
	call := s.drawCall(t)
	kind := call.kind
	if rapid.IntRange(0, 9).Draw(t, "as the wrong kind") == 0 {
		kind = map[string]string{string(CallHands): string(CallCustom), string(CallCustom): string(CallHands)}[call.kind]
	}
	content := rapid.SampledFrom([]string{"42", "42", "43"}).Draw(t, "content")
	from := rapid.SampledFrom([]Sender{SenderWorker, SenderWorker, SenderClient}).Draw(t, "from")
	first, had := s.results[call.id]
	refused := kind != call.kind || kind == string(CallHands) && from == SenderClient && s.kind == api.EnvironmentCloud
	switch {
	case had:
		refused = refused || first.content != content
	default:
		refused = refused || s.said.call(call.id) == nil || len(call.results) > 0 || kind == string(CallHands) && !call.runnable()
	}
	events := s.sends(t, from, refused, s.result(kind, call.id, content))
	if events == nil {
		return
	}
	if had && events[0].ID != first.id {
		t.Fatalf("the same result again was answered with %s, first with %s", events[0].ID, first.id)
	}
	s.results[call.id] = answer{content, events[0].ID}
}

func (s *story) result(kind, callID, content string) map[string]any {
	if kind == string(CallCustom) {
		return customResult(callID, content)
	}
	return result(callID, content)
}

// drawCall draws a call of the log, or one that the session never made.
func (s *story) drawCall(t *rapid.T) *foldedCall {
	i := rapid.IntRange(0, len(s.said.calls)).Draw(t, "call")
	if i == len(s.said.calls) {
		return &foldedCall{id: api.NewID(api.PrefixEvent), kind: string(CallHands), permission: api.PermissionAllow}
	}
	return s.said.calls[len(s.said.calls)-1-i] // the latest first: those that are open
}

// postsAll answers all calls that can be, in one request.
func (s *story) postsAll(t *rapid.T) {
	var inputs []map[string]any
	var calls []*foldedCall
	for _, c := range s.said.open() {
		if c.runnable() || c.kind == string(CallCustom) {
			inputs, calls = append(inputs, s.result(c.kind, c.id, "all")), append(calls, c)
		}
	}
	if len(inputs) == 0 {
		t.Skip("no call to answer")
	}
	for i, e := range s.sends(t, SenderWorker, false, inputs...) {
		s.results[calls[i].id] = answer{"all", e.ID}
	}
}

func (s *story) confirms(t *rapid.T) {
	call := s.drawCall(t)
	input := map[string]any{"type": "user.tool_confirmation", "tool_use_id": call.id}
	content := rapid.SampledFrom([]string{"allow", "deny", "deny: rather not"}).Draw(t, "confirmation")
	switch content {
	case "allow", "deny":
		input["result"] = content
	default:
		input["result"], input["deny_message"] = "deny", "rather not"
	}
	first, had := s.answers[call.id]
	refused := s.said.call(call.id) == nil || call.kind != string(CallHands) || call.permission != api.PermissionAsk
	if had {
		refused = refused || first.content != content
	} else {
		refused = refused || len(call.results) > 0
	}
	events := s.sends(t, SenderClient, refused, input)
	if events == nil {
		return
	}
	if had && events[0].ID != first.id {
		t.Fatalf("the same confirmation again was answered with %s, first with %s", events[0].ID, first.id)
	}
	s.answers[call.id] = answer{content, events[0].ID}
	if denied := s.said.call(call.id); content != "allow" && len(denied.results) != 1 {
		t.Fatalf("a call that was denied has the results %v", denied.results)
	}
}

// sendsNonsense sends something good along with something that is not: a
// request is taken whole or not at all.
func (s *story) sendsNonsense(t *rapid.T) {
	bad := rapid.SampledFrom([]map[string]any{
		result("sevt_unknown", "42"), {"type": "agent.message", "content": text("I am the agent")}, {"type": "user.message"}, {},
	}).Draw(t, "nonsense")
	s.sends(t, SenderClient, true, message("good"), bad)
}

// changes renames the session, or, seldom, ends it.
func (s *story) changes(t *rapid.T) {
	busy := s.said.status == api.SessionRunning || s.said.status == api.SessionRescheduling
	var err error
	var refused bool
	switch rapid.IntRange(0, 14).Draw(t, "change") {
	case 0:
		_, err = s.store.Archive(s.ctx, workspace, s.id)
		refused = busy || s.deleted
		s.over = s.over || !refused
	case 1:
		err = s.store.Delete(s.ctx, workspace, s.id)
		refused = busy || s.deleted
		s.deleted = s.deleted || !refused
	default:
		title := new(string)
		*title = rapid.SampledFrom([]string{"one", "two", "three"}).Draw(t, "title")
		_, err = s.store.Update(s.ctx, workspace, s.id, UpdateParams{Title: &title})
		refused = s.over || s.deleted
	}
	if got := status(t, err); (got != 0) != refused {
		t.Fatalf("answered %d (%v), refusal wanted: %v", got, err, refused)
	}
	s.look(t)
}

func (s *story) timePasses(t *rapid.T) {
	s.clock.advance(time.Duration(rapid.IntRange(1, 5_000_000).Draw(t, "microseconds")) * time.Microsecond)
}
