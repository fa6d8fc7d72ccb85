package session

import (
	"bytes"
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
			t.Repeat(map[string]func(*rapid.T){"": s.check, "deed": func(t *rapid.T) { evenly(t, "deed", s.deeds()...).do(t) }})
			s.rests(t)
			s.check(t)
			s.checkFollowers(t)
		})
	})
}

// deed is something that somebody does; where it is not possible, nothing.
type deed struct {
	name string
	do   func(*rapid.T)
}

func (d deed) String() string { return d.name }

// deeds lists what may happen next, what makes the best stories more than once.
func (s *story) deeds() []deed {
	think, result, confirm := deed{"think", s.thinks}, deed{"result", s.posts}, deed{"confirm", s.confirms}
	message := deed{"message", s.messages}
	return []deed{
		think, think, think, think, think, think, think, result, result, result, result, confirm, confirm, message, message,
		{"results", s.postsAll}, {"interrupt", s.interrupts}, {"interrupt one", s.interruptsOne}, {"archive one", s.archivesOne}, {"nonsense", s.sendsNonsense}, {"change", s.changes}, {"old run", s.oldRunWrites},
		{"time passes", s.timePasses}, {"follow", s.follows}, {"read", s.reads}, {"mislead", s.misleads},
	}
}

// evenly draws one of the choices, each as likely as any other: rapid by itself
// much prefers the first ones.
func evenly[E any](t *rapid.T, label string, choices ...E) E {
	const bits = 8
	n := 0
	for _, bit := range rapid.SliceOfN(rapid.Bool(), bits, bits).Draw(t, label) {
		n *= 2
		if bit {
			n++
		}
	}
	return choices[n*len(choices)>>bits]
}

// story is one session, and what its clients and servers remember of it.
type story struct {
	*bench
	id, kind string

	*mind                        // whose turn it is
	minds       map[string]*mind // the current runs, by thread
	old         []*Run
	dead        map[string]*Run  // the last of each thread that died without a word
	epochs      map[string]int64 // the latest run of each thread
	threads     []string         // those made so far, as they were made
	overThreads map[string]bool  // archived or failed for good

	log     []StoredEvent // as it was when last looked at
	said    *folded       // what log says
	queued  map[string]bool
	results map[string]answer // that were accepted, by call
	answers map[string]answer // confirmations that were accepted, by call
	spent   int64             // tokens of all kinds
	cost    int64             // of all requests, in billionths of a dollar
	over    bool              // archived or failed for good
	deleted bool

	followers []*follower
}

// mind is a run of a thread, and whether it has begun a model request.
type mind struct {
	run      *Run
	thinking bool
}

// answer is an input that was accepted, and the id it got.
type answer struct{ content, id string }

func newStory(t *rapid.T, b *bench) *story {
	err := b.db.Write(b.ctx, func(tx db.Tx) error {
		for _, table := range []string{"sessions", "events", "tool_calls", "threads", "deliveries", "work", "work_offers"} {
			if _, err := tx.Exec(b.ctx, "DELETE FROM "+table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &story{
		bench: b, minds: map[string]*mind{}, dead: map[string]*Run{}, epochs: map[string]int64{}, overThreads: map[string]bool{}, queued: map[string]bool{}, results: map[string]answer{}, answers: map[string]answer{},
	}
	s.kind = evenly(t, "environment", api.EnvironmentSelfHosted, api.EnvironmentSelfHosted, api.EnvironmentCloud)
	s.id = b.create(t, s.kind)
	s.look(t)
	s.messages(t)
	return s
}

// stopping tells whether an interrupt waits for some thread to stop.
func (s *story) stopping() bool {
	for _, e := range s.log {
		if e.Type == api.EventUserInterrupt && waits(e) && !bytes.Contains(e.JSON, []byte("session_thread_id")) {
			return true
		}
	}
	return false
}

// free tells whether a thread has nothing to do.
func (s *story) free(threadID string) bool {
	said := s.said.thread(threadID)
	return said.status == api.SessionIdle && len(said.waitsFor) == 0
}

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
	free := s.free("") && !s.stopping()
	inputs := []map[string]any{message("go on")}
	refused := false
	if rapid.Bool().Draw(t, "with a system message") {
		inputs = append(inputs, map[string]any{"type": "system.message", "content": text("by the way")})
		refused = len(s.said.waitsFor) > 0 // it may then accompany only a result
	}
	for i, e := range s.sends(t, SenderClient, refused, inputs...) {
		if want := free && i == 0; (e.ProcessedAt != nil) != want {
			t.Fatalf("%s of a session that is free (%v): processed at %v", e.Type, free, e.ProcessedAt)
		}
	}
	if free && !refused && !s.over && !s.deleted && s.said.status != api.SessionRunning {
		t.Fatalf("a message leaves a session that was free %s", s.said.status)
	}
}

func (s *story) interrupts(t *rapid.T) {
	free := s.free("")
	for _, id := range s.threads {
		free = free && (s.overThreads[id] || s.free(id))
	}
	for _, e := range s.sends(t, SenderClient, false, interrupt()) {
		if (e.ProcessedAt != nil) != free {
			t.Fatalf("an interrupt of a session that is free (%v): processed at %v", free, e.ProcessedAt)
		}
	}
}

// interruptsOne interrupts one thread, or one that there is not.
func (s *story) interruptsOne(t *rapid.T) {
	id := evenly(t, "thread", append([]string{"sthr_none"}, s.threads...)...)
	refused := id == "sthr_none" || s.overThreads[id]
	free := !refused && s.free(id)
	for _, e := range s.sends(t, SenderClient, refused, map[string]any{"type": "user.interrupt", "session_thread_id": id}) {
		if (e.ProcessedAt != nil) != free {
			t.Fatalf("an interrupt of a thread that is free (%v): processed at %v", free, e.ProcessedAt)
		}
	}
}

// archivesOne, seldom, ends a thread, which must be idle.
func (s *story) archivesOne(t *rapid.T) {
	if len(s.threads) == 0 || s.over || s.deleted || evenly(t, "archive", "yes", "no", "no") == "no" {
		return
	}
	id := evenly(t, "thread", s.threads...)
	busy := s.said.thread(id).status == api.SessionRunning || s.said.thread(id).status == api.SessionRescheduling
	_, err := s.store.ArchiveThread(s.ctx, workspace, s.id, id)
	if got := status(t, err); (got != 0) != busy {
		t.Fatalf("archiving a thread was answered %d (%v), refusal wanted: %v", got, err, busy)
	}
	s.overThreads[id] = s.overThreads[id] || !busy
	s.look(t)
}

// posts sends a result, right or wrong in any way, of some call or of none.
func (s *story) posts(t *rapid.T) {
	call := s.drawCall(t)
	kind := call.kind
	if evenly(t, "kind", "right", "right", "right", "right", "wrong") == "wrong" {
		kind = map[string]string{string(CallHands): string(CallCustom), string(CallCustom): string(CallHands)}[call.kind]
	}
	content := evenly(t, "content", "42", "42", "43")
	from := evenly(t, "from", SenderWorker, SenderWorker, SenderClient)
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
	if n := len(s.said.calls); n > 0 && evenly(t, "which", "known", "known", "known", "known", "known", "known", "unknown") == "known" {
		return s.said.calls[n-1-rapid.IntRange(0, n-1).Draw(t, "back")] // most often one of the latest, which may be open
	}
	return &foldedCall{id: api.NewID(api.PrefixEvent), kind: string(CallHands), permission: api.PermissionAllow}
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
		return
	}
	for i, e := range s.sends(t, SenderWorker, false, inputs...) {
		s.results[calls[i].id] = answer{"all", e.ID}
	}
}

func (s *story) confirms(t *rapid.T) {
	call := s.drawCall(t)
	input := map[string]any{"type": "user.tool_confirmation", "tool_use_id": call.id}
	content := evenly(t, "confirmation", "allow", "allow", "deny", "deny: rather not")
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
	switch evenly(t, "change", "title", "title", "title", "archive", "title", "title", "title", "delete") {
	case "archive":
		_, err = s.store.Archive(s.ctx, workspace, s.id)
		refused = busy || s.deleted
		s.over = s.over || !refused
	case "delete":
		err = s.store.Delete(s.ctx, workspace, s.id)
		refused = busy || s.deleted
		s.deleted = s.deleted || !refused
	default:
		title := new(string)
		*title = evenly(t, "title", "one", "two", "three")
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
