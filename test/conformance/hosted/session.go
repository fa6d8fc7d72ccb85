package hosted

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pingEvery is far shorter than any idle time, so that a worker which takes a
// ping for an event never leaves.
const pingEvery = 100 * time.Millisecond

// Tool is a call for [Session.Call] to make.
type Tool struct {
	Name  string
	Input map[string]any
	// Permission is evaluated_permission; empty leaves the field out.
	Permission string
	// Custom makes it an agent.custom_tool_use.
	Custom bool
}

// Result is what a worker answered to a call.
type Result struct {
	IsError bool
	Text    string // of all blocks, joined
}

// Session is a scripted session. Its methods may be called from any goroutine.
type Session struct {
	ID        string
	service   *Service
	skills    []*Skill
	resources []any
	memory    *memoryStore // nil for none

	// All guarded by Service.mu.
	events []map[string]any     // the log, as listed
	added  []time.Time          // when each event of the log took its place
	feed   []map[string]any     // everything streamed, in order
	calls  map[string]*toolCall // by event id
	cut    chan struct{}        // closed and replaced by CutStreams
	claim  *claim               // the latest on an item of this session
	ended  bool                 // terminated or deleted
}

// toolCall is where a call stands. Guarded by Service.mu.
type toolCall struct {
	Tool
	at          time.Time // processed_at
	verdict     string    // of the confirmation
	interrupted bool
	body        []byte // the request that answered it
	result      *Result
	answerLost  bool // the worker cannot know that its result was taken
}

// SessionOptions shape a session.
type SessionOptions struct {
	Skills []*Skill
	// Memories, if there are any, are those of a memory store, content by path.
	Memories map[string]string
}

// NewSession makes a session with a message waiting in its history.
func (s *Service) NewSession(options SessionOptions) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	session := &Session{
		ID: s.newID("sesn"), service: s, skills: options.Skills, resources: []any{},
		calls: map[string]*toolCall{}, cut: make(chan struct{}),
	}
	if options.Memories != nil {
		session.memory = &memoryStore{id: s.newID("memstore"), memories: maps.Clone(options.Memories)}
		session.resources = append(session.resources, map[string]any{
			"type": "memory_store", "memory_store_id": session.memory.id, "name": "notes", "access": "read_write", "mount_path": nil,
		})
	}
	s.sessions[session.ID] = session
	session.add(map[string]any{"type": "user.message", "content": text("go")})
	session.add(map[string]any{"type": "session.thread_status_running", "agent_name": "a", "session_thread_id": "sthr_1"})
	session.add(map[string]any{"type": "session.status_running"})
	session.add(map[string]any{"type": "workflow_run.status_ended", "workflow_run_id": "wrun_1", "result": map[string]any{"type": "completed"}})
	session.add(map[string]any{"type": "session.an_event_of_next_year", "anything": []int{1}, "content": "of another shape"})
	return session
}

func text(text string) []any { return []any{map[string]any{"type": "text", "text": text}} }

// Add appends an event of any type and returns its id.
func (session *Session) Add(event map[string]any) string {
	s := session.service
	s.mu.Lock()
	defer s.mu.Unlock()
	return session.add(event)
}

func (session *Session) add(event map[string]any) string {
	s := session.service
	if event["id"] == nil {
		event["id"] = s.newID("sevt")
	}
	if _, given := event["processed_at"]; !given {
		event["processed_at"] = s.now()
	}
	session.events = append(session.events, event)
	session.added = append(session.added, time.Now())
	session.feed = append(session.feed, event)
	s.change()
	return event["id"].(string)
}

// Call has the agent make calls in one turn, and the session wait for them.
// It returns their ids.
func (session *Session) Call(tools ...Tool) []string {
	s := session.service
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, tool := range tools {
		event := map[string]any{"type": "agent.tool_use", "name": tool.Name, "input": tool.Input}
		if tool.Custom {
			event["type"] = "agent.custom_tool_use"
		}
		if tool.Permission != "" {
			event["evaluated_permission"] = tool.Permission
		}
		event["id"], event["processed_at"] = s.newID("sevt"), s.now()
		session.calls[event["id"].(string)] = &toolCall{Tool: tool, at: event["processed_at"].(time.Time)}
		ids = append(ids, session.add(event))
	}
	session.add(map[string]any{"type": "session.status_idle", "stop_details": nil, "stop_reason": map[string]any{"type": "requires_action", "event_ids": ids}})
	return ids
}

// Bash has the agent make one bash call and returns its id.
func (session *Session) Bash(command string) string {
	return session.Call(Tool{Name: "bash", Input: map[string]any{"command": command}, Permission: "allow"})[0]
}

// Confirm answers a held call: verdict is "allow" or "deny".
func (session *Session) Confirm(id, verdict string) {
	s := session.service
	s.mu.Lock()
	defer s.mu.Unlock()
	session.calls[id].verdict = verdict
	session.add(map[string]any{"type": "user.tool_confirmation", "tool_use_id": id, "result": verdict})
}

// QueueInterrupt appends an interrupt that has not taken effect yet.
func (session *Session) QueueInterrupt() string {
	return session.Add(map[string]any{"type": "user.interrupt", "processed_at": nil})
}

// Interrupt has a queued interrupt take effect: it is streamed again, and every
// call so far is moot.
func (session *Session) Interrupt(id string) {
	s := session.service
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.now()
	for i, event := range session.events {
		if event["id"] == id {
			processed := map[string]any{"id": id, "type": "user.interrupt", "processed_at": at}
			session.events[i] = processed
			session.feed = append(session.feed, processed)
		}
	}
	for _, call := range session.calls {
		call.interrupted = call.interrupted || !call.at.After(at)
	}
	s.change()
}

// EndTurn ends the turn.
func (session *Session) EndTurn() {
	session.Add(map[string]any{"type": "session.status_idle", "stop_details": nil, "stop_reason": map[string]any{"type": "end_turn"}})
}

// End appends session.status_terminated or session.deleted and closes the
// session for good.
func (session *Session) End(event string) {
	s := session.service
	s.mu.Lock()
	defer s.mu.Unlock()
	session.ended = true
	session.add(map[string]any{"type": event})
}

// CutStreams closes every open stream of the session cleanly.
func (session *Session) CutStreams() {
	s := session.service
	s.mu.Lock()
	defer s.mu.Unlock()
	close(session.cut)
	session.cut = make(chan struct{})
}

// Answer records the result of a call that a worker of an earlier activation
// gave, without any worker.
func (session *Session) Answer(id, output string) {
	session.AnswerAs("user.tool_result", id, output)
}

// AnswerAs is Answer with an event of another type.
func (session *Session) AnswerAs(event, id, output string) {
	s := session.service
	s.mu.Lock()
	defer s.mu.Unlock()
	session.calls[id].result = &Result{Text: output}
	session.add(map[string]any{"type": event, "tool_use_id": id, "is_error": false, "content": text(output)})
}

// AwaitResult waits for the accepted result of a call.
func (session *Session) AwaitResult(t testing.TB, id string) Result {
	t.Helper()
	var result Result
	session.service.await(t, "the result of "+id, func() bool {
		if call := session.calls[id]; call.result != nil {
			result = *call.result
			return true
		}
		return false
	})
	return result
}

// Answered tells whether a call has an accepted result.
func (session *Session) Answered(id string) bool {
	s := session.service
	s.mu.Lock()
	defer s.mu.Unlock()
	return session.calls[id].result != nil
}

// runnable tells whether a worker owes the call an answer.
func (call *toolCall) runnable() bool {
	allowed := call.Permission == "" || call.Permission == "allow" || call.verdict == "allow" && call.Permission != "deny"
	return call.ours() && allowed && !call.interrupted
}

// held tells whether the call waits for a confirmation.
func (call *toolCall) held() bool {
	return call.ours() && !call.interrupted && call.verdict == "" &&
		call.Permission != "" && call.Permission != "allow" && call.Permission != "deny"
}

func (call *toolCall) ours() bool {
	return !call.Custom && slices.Contains([]string{"bash", "read", "write", "edit", "glob", "grep"}, call.Name)
}

// owed lists the calls a worker may not leave.
func (session *Session) owed() []string {
	var owed []string
	for id, call := range session.calls {
		if call.result == nil && (call.runnable() || call.held()) {
			owed = append(owed, id)
		}
	}
	return owed
}

// idleSince is when the turn ended, if it has and nothing but neutral events
// came after.
func (session *Session) idleSince() (time.Time, bool) {
	for i := len(session.events) - 1; i >= 0; i-- {
		switch event := session.events[i]; event["type"] {
		case "user.tool_confirmation", "user.interrupt":
		case "session.status_idle":
			reason, _ := event["stop_reason"].(map[string]any)
			return session.added[i], reason["type"] != "requires_action"
		default:
			return time.Time{}, false
		}
	}
	return time.Time{}, false
}

// getSession answers GET session.
func (s *Service) getSession(req *request) reply {
	session := req.claim.item.session
	if req.claim.sessionRead {
		s.violate(req, SessionFirst, "the session was read already")
	}
	req.claim.sessionRead, req.claim.mayStop = true, ""
	skills := []any{}
	for _, skill := range session.skills {
		skills = append(skills, map[string]any{"type": "custom", "skill_id": skill.ID, "version": skill.Version})
	}
	now := time.Now().UTC()
	return reply{status: http.StatusOK, body: map[string]any{
		"id": session.ID, "type": "session", "status": "running", "environment_id": EnvironmentID,
		"agent": map[string]any{
			"id": "agent_1", "type": "agent", "version": 1, "name": "a", "description": nil, "system": nil,
			"model": map[string]any{"id": "claude-opus-5-5"}, "mcp_servers": []any{}, "multiagent": nil, "skills": skills,
			"execution_identity": map[string]any{"type": "service_account"},
			"tools":              []any{map[string]any{"type": "agent_toolset_20260401", "configs": []any{}, "default_config": map[string]any{"enabled": true, "permission_policy": map[string]any{"type": "always_allow"}}}},
		},
		"resources": session.resources, "metadata": map[string]string{}, "title": nil, "vault_ids": []string{}, "budget": nil,
		"usage": map[string]any{}, "stats": map[string]any{}, "outcome_evaluations": []any{}, "deployment_id": nil,
		"created_at": now, "updated_at": now, "archived_at": nil,
	}}
}

// stream answers GET events/stream: everything from now on, with pings.
func (s *Service) stream(req *request) reply {
	session := req.claim.item.session
	s.checkSessionRead(req)
	if req.claim.unlisted {
		s.violate(req, StreamThenList, "the stream before was not followed by a listing")
	}
	req.claim.unlisted = true
	next, cut := len(session.feed), session.cut
	return reply{status: http.StatusOK, stream: func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, ": open\n\n")
		flush := http.NewResponseController(w).Flush
		ping := time.NewTicker(pingEvery)
		defer ping.Stop()
		for flush() == nil {
			s.mu.Lock()
			fresh, changed := session.feed[next:], s.changed
			next = len(session.feed)
			var frames strings.Builder
			for _, event := range fresh {
				encoded, _ := json.Marshal(event)
				fmt.Fprintf(&frames, "event: %s\ndata: %s\n\n", event["type"], encoded)
			}
			s.mu.Unlock()
			if frames.Len() > 0 {
				fmt.Fprint(w, frames.String())
				continue
			}
			select {
			case <-changed:
			case <-ping.C:
				fmt.Fprint(w, "event: ping\ndata: {\"type\":\"ping\"}\n\n")
			case <-cut:
				return
			case <-req.Context().Done():
				return
			case <-s.closing:
				return
			}
		}
	}}
}

// checkSessionRead checks that the session was read before its parts are.
func (s *Service) checkSessionRead(req *request) {
	if !req.claim.sessionRead {
		s.violate(req, SessionFirst, "%s was called before the session was read", req.route.endpoint)
	}
}

// list answers GET events, a few at a time and with an empty page on the way.
func (s *Service) list(req *request) reply {
	c, session := req.claim, req.claim.item.session
	limit := 100
	if req.query.Has("limit") {
		n, err := strconv.Atoi(req.query.Get("limit"))
		if err != nil || n < 1 || n > 1000 {
			s.violate(req, ListOrder, "limit is %q", req.query.Get("limit"))
			return refusal("limit: want 1 to 1000")
		}
		limit = n
	}
	if order := req.query.Get("order"); order != "" && order != "asc" {
		s.violate(req, ListOrder, "order is %q", order)
	}
	page := req.query.Get("page")
	switch {
	case page == "" && c.nextPage != "":
		s.violate(req, ListToTheEnd, "a new listing began before page %q of the last", c.nextPage)
	case page == "" && !c.unlisted && !c.listFailed:
		s.violate(req, StreamThenList, "a listing began with no stream opened for it")
	case page != c.nextPage:
		s.violate(req, ListToTheEnd, "page is %q, the last answer said %q", page, c.nextPage)
		return refusal("page: not a cursor of this list")
	}
	base := url.Values{"limit": req.query["limit"], "order": req.query["order"]}.Encode()
	if page == "" {
		c.unlisted, c.listQuery = false, base
	}
	if base != c.listQuery {
		s.violate(req, ListToTheEnd, "the query changed from %q to %q between pages", c.listQuery, base)
	}
	c.listFailed = false

	var offset, gap int
	if page != "" {
		_, _ = fmt.Sscanf(page, "after:%d:%d", &offset, &gap) // it equals what we made
	}
	size := min(limit, s.options.PageSize)
	if gap == 1 {
		size = 0
	}
	end := min(offset+size, len(session.events))
	c.nextPage = ""
	switch {
	case page == "":
		c.nextPage = fmt.Sprintf("after:%d:1", end)
	case end < len(session.events):
		c.nextPage = fmt.Sprintf("after:%d:0", end)
	}
	body := map[string]any{"data": session.events[offset:end], "next_page": nil}
	if c.nextPage != "" {
		body["next_page"] = c.nextPage
	}
	encoded, _ := json.Marshal(body) // now: the events may change once the lock is given up
	return reply{status: http.StatusOK, header: map[string]string{"Content-Type": "application/json"}, raw: encoded}
}
