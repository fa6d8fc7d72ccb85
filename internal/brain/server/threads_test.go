package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/session"
)

var threadVerdicts = map[string]verdict{
	"GET /v1/sessions/{session_id}/threads":                      forRole(auth.RoleViewer, ""),
	"GET /v1/sessions/{session_id}/threads/{thread_id}":          forRole(auth.RoleViewer, ""),
	"POST /v1/sessions/{session_id}/threads/{thread_id}/archive": forRole(auth.RoleDeveloper, ""),
	"GET /v1/sessions/{session_id}/threads/{thread_id}/events":   forRole(auth.RoleViewer, ""),
	"GET /v1/sessions/{session_id}/threads/{thread_id}/stream":   forRole(auth.RoleViewer, ""),
}

var threadForms = []form{
	{"POST /v1/agents", `{"name":"n","model":"m","multiagent":{"type":"coordinator","agents":["{member_id}",{"type":"agent","id":"{second_id}","version":1},{"type":"self"},{"type":"advisor","model":"m"}]}}`,
		map[string]string{
			"multiagent": "object null", "multiagent.type": "string required choice", "multiagent.agents": "array required",
			"multiagent.agents[0]": "string object", "multiagent.agents[1].type": "string required choice", "multiagent.agents[1].id": "string required choice",
			"multiagent.agents[1].version": "number null whole", "multiagent.agents[3].model": "string required max 256",
		}},
	{"POST /v1/agents", `{"name":"n","model":"m","multiagent":{"type":"multiagent_20261001","advisor":{"type":"enabled","model":"m"},"subagents":{"type":"enabled","inline_agents":{"type":"disabled"},"predefined_agents":["{member_id}",{"type":"agent","id":"{second_id}","version":1},{"type":"self"}]},"workflows":{"type":"disabled"}}}`,
		map[string]string{
			"multiagent.advisor": "object null", "multiagent.advisor.type": "string required choice", "multiagent.advisor.model": "string required max 256",
			"multiagent.subagents": "object null", "multiagent.subagents.type": "string required choice", "multiagent.subagents.inline_agents": "object null",
			"multiagent.subagents.inline_agents.type": "string required choice", "multiagent.subagents.predefined_agents": "array required", "multiagent.subagents.predefined_agents[0]": "string object",
			"multiagent.subagents.predefined_agents[1].id": "string required choice", "multiagent.subagents.predefined_agents[1].version": "number null whole",
			"multiagent.workflows": "object null", "multiagent.workflows.type": "string required choice",
		}},
}

// addThreads names the thread that the site's session has made; it is idle.
func (s *site) addThreads() {
	s.t.Helper()
	place, err := s.sessions.PlaceOf(s.ctx, s.session.ID)
	must(s.t, err)
	threads, _, err := s.sessions.Threads(s.ctx, session.ThreadFilter{WorkspaceID: place.WorkspaceID, SessionID: s.session.ID, After: -1, Limit: 2})
	must(s.t, err)
	s.ids["thread_id"] = threads[1].ID
	s.ids["member_id"], s.ids["second_id"] = s.named("member", api.PolicyAlwaysAllow).ID, s.named("second", api.PolicyAlwaysAllow).ID
}

// coordinator is an agent on whose roster it is itself.
func (b *brain) coordinator(roster ...any) api.Agent {
	b.t.Helper()
	if len(roster) == 0 {
		roster = []any{object{"type": "self"}}
	}
	return ok[api.Agent](b, b.key, "POST", "/v1/agents", object{
		"name": "coordinator", "model": "test-model", "multiagent": object{"type": "coordinator", "agents": roster},
		"tools": []object{
			{"type": api.ToolTypeAgentToolset},
			{"type": api.ToolTypeCustom, "name": "ask", "description": "asks", "input_schema": object{"type": "object"}},
		},
	})
}

// named is an agent with a name and the built-in tools.
func (b *brain) named(name, policy string) api.Agent {
	b.t.Helper()
	return ok[api.Agent](b, b.key, "POST", "/v1/agents", object{
		"name": name, "model": "test-model", "description": "does what " + name + " does",
		"tools": []object{
			{"type": api.ToolTypeAgentToolset, "default_config": object{"permission_policy": object{"type": policy}}},
			{"type": api.ToolTypeCustom, "name": "ask", "description": "asks", "input_schema": object{"type": "object"}},
		},
	})
}

// troupe is a session whose coordinator has two agents to call on.
type troupe struct {
	*brain
	env             api.Environment
	one, two, chief api.Agent
	session         api.Session
}

func (b *brain) troupe(script string) *troupe {
	b.t.Helper()
	c := &troupe{brain: b, env: b.environment(), one: b.named("one", api.PolicyAlwaysAllow), two: b.named("two", api.PolicyAlwaysAsk)}
	c.chief = b.coordinator(c.one.ID, object{"type": "agent", "id": c.two.ID, "version": 1}, object{"type": "advisor", "model": "wise-model"})
	c.session = b.session(c.chief.ID, c.env.ID, script)
	return c
}

func (c *troupe) path(rest string) string { return "/v1/sessions/" + c.session.ID + rest }

func (c *troupe) threads(query string) []api.Thread {
	c.t.Helper()
	return ok[api.Page[api.Thread]](c.brain, c.key, "GET", c.path("/threads"+query), nil).Data
}

// log is the events of the session, or of a thread.
func (c *troupe) log(threadID string) []api.Event {
	c.t.Helper()
	path := c.path("/events")
	if threadID != "" {
		path = c.path("/threads/" + threadID + "/events")
	}
	return ok[api.Page[api.Event]](c.brain, c.key, "GET", path, nil).Data
}

func (c *troupe) send(events ...object) []api.Event {
	c.t.Helper()
	return ok[api.Page[api.Event]](c.brain, c.key, "POST", c.path("/events"), object{"events": events}).Data
}

// idle waits until the session is idle, and tells the calls it waits for.
func (c *troupe) idle() []string {
	c.t.Helper()
	return c.awaitIdle(c.session.ID).EventIDs
}

func typesOf(events []api.Event) (types []string) {
	for _, e := range events {
		types = append(types, string(e.Type))
	}
	return types
}

func find(events []api.Event, id string) *api.Event {
	if i := slices.IndexFunc(events, func(e api.Event) bool { return e.ID == id }); i >= 0 {
		return &events[i]
	}
	return nil
}

func said(e api.Event) string {
	var all strings.Builder
	for _, b := range e.Content {
		all.WriteString(b.Text)
	}
	return all.String()
}

// TestTwoAgentsAtWork: a coordinator calls on two agents, which act beside each
// other; what they ask for is seen and answered where the session is followed,
// and what they say wakes the coordinator.
func TestTwoAgentsAtWork(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		c := b.troupe("@one $ echo first\n&\n@two $ echo second")
		asked := c.idle()
		threads := c.threads("")
		if len(threads) != 3 || len(asked) != 2 {
			t.Fatalf("%d threads, and %v asked", len(threads), asked)
		}
		primary, one, two := threads[0], threads[1], threads[2]
		if primary.ParentThreadID != nil || *one.ParentThreadID != primary.ID || *two.ParentThreadID != primary.ID {
			t.Errorf("parents are %v, %v, %v", primary.ParentThreadID, one.ParentThreadID, two.ParentThreadID)
		}
		for i, want := range []string{"coordinator", "one", "two"} {
			var agent api.ThreadAgent
			must(t, json.Unmarshal(threads[i].Agent, &agent))
			if agent.Name != want || threads[i].Status != api.SessionIdle || threads[i].SessionID != c.session.ID {
				t.Errorf("thread %d is of %s and %s", i, agent.Name, threads[i].Status)
			}
		}

		// Each call is in its thread's log, and with the thread's name in the session's.
		log := c.log("")
		for i, thread := range []api.Thread{one, two} {
			own, posted := find(c.log(thread.ID), asked[i]), find(log, asked[i])
			if own == nil || own.SessionThreadID != nil {
				t.Fatalf("in its own log the call is %+v", own)
			}
			if posted == nil || posted.SessionThreadID == nil || *posted.SessionThreadID != thread.ID || posted.Name != own.Name || string(posted.Input) != string(own.Input) {
				t.Fatalf("in the session's log the call is %+v", posted)
			}
		}
		wantInOrder(t, typesOf(c.log(one.ID)),
			"agent.thread_message_received", "session.thread_status_running", "span.model_request_start", "agent.tool_use",
			"span.model_request_end", "session.thread_status_idle")
		wantInOrder(t, typesOf(log),
			"user.message", "session.status_running", "session.thread_status_running", "agent.tool_use", "session.thread_created", "agent.thread_message_sent",
			"session.thread_status_running", "agent.tool_result")
		if find(log, asked[1]).EvaluatedPermission != api.PermissionAsk {
			t.Error("the second call needs a permission")
		}

		// Answers go to the thread that asked, by the id of the call.
		key := b.envKey(c.env.ID, nil).Key
		answer := func(call, text string) api.Event {
			return ok[api.Page[api.Event]](b, key, "POST", c.path("/events"), object{"events": []object{{"type": "user.tool_result", "tool_use_id": call, "content": []object{{"type": "text", "text": text}}}}}).Data[0]
		}
		first := answer(asked[0], "first")
		if first.SessionThreadID == nil || *first.SessionThreadID != one.ID {
			t.Errorf("the result was routed to %v", first.SessionThreadID)
		}
		if again := answer(asked[0], "first"); again.ID != first.ID {
			t.Error("the same result again is another event")
		}
		if a := b.do(key, "POST", c.path("/events"), object{"events": []object{{"type": "user.tool_result", "tool_use_id": asked[0]}}}); a.status != http.StatusBadRequest {
			t.Errorf("another result of the call is answered %d", a.status)
		}
		confirmed := c.send(object{"type": "user.tool_confirmation", "tool_use_id": asked[1], "result": "allow"})[0]
		if *confirmed.SessionThreadID != two.ID {
			t.Errorf("the confirmation was routed to %v", *confirmed.SessionThreadID)
		}
		answer(asked[1], "second")
		b.eventually("both have spoken", func() bool {
			c.idle()
			return count(c.log(""), api.EventThreadMessageReceived) == 2
		})
		if reason := b.awaitIdle(c.session.ID); reason.Type != api.StopEndTurn {
			t.Errorf("the session ends with %+v", reason)
		}
		for i, thread := range []api.Thread{one, two} {
			received := c.log("")[slices.IndexFunc(c.log(""), func(e api.Event) bool {
				return e.Type == api.EventThreadMessageReceived && e.FromSessionThreadID == thread.ID
			})]
			if received.FromAgentName != []string{"one", "two"}[i] || !strings.HasPrefix(said(received), "Done: 1 calls") {
				t.Errorf("%s said %q", received.FromAgentName, said(received))
			}
		}
		c.wantUsage(t)
	})
}

// wantInOrder wants the words in a list in this order, with whatever between.
func wantInOrder(t *testing.T, list []string, words ...string) {
	t.Helper()
	rest := list
	for _, word := range words {
		i := slices.Index(rest, word)
		if i < 0 {
			t.Fatalf("%s does not come where it should in %v", word, list)
		}
		rest = rest[i+1:]
	}
}

// wantUsage wants the threads' tokens to come to the session's.
func (c *troupe) wantUsage(t *testing.T) {
	t.Helper()
	whole := ok[api.Session](c.brain, c.key, "GET", c.path(""), nil).Usage
	var input, output int64
	for _, thread := range c.threads("") {
		if thread.Usage == nil || thread.Stats == nil || thread.Usage.InputTokens == 0 || thread.Usage.ActiveSeconds != thread.Stats.ActiveSeconds {
			t.Errorf("thread %s has used %+v in %+v", thread.ID, thread.Usage, thread.Stats)
			continue
		}
		if thread.Usage.ListCost != (api.Money{}) {
			t.Errorf("thread %s has cost %+v, with a model that has no price", thread.ID, thread.Usage.ListCost)
		}
		input, output = input+thread.Usage.InputTokens, output+thread.Usage.OutputTokens
	}
	if input != whole.InputTokens || output != whole.OutputTokens {
		t.Errorf("threads have used %d and %d, the session %d and %d", input, output, whole.InputTokens, whole.OutputTokens)
	}
}

// TestThreadsCost: each thread says what it has cost, where its models have a price,
// and these come to what the session has.
func TestThreadsCost(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		agent := func(more object) api.Agent {
			body := object{"model": "claude-opus-4-5"} // at 5 dollars for a million tokens
			maps.Copy(body, more)
			return ok[api.Agent](b, b.key, "POST", "/v1/agents", body)
		}
		c := &troupe{brain: b, env: b.environment(), one: agent(object{"name": "one"})}
		c.chief = agent(object{"name": "chief", "multiagent": object{"type": "coordinator", "agents": []string{c.one.ID}}})
		c.session = b.session(c.chief.ID, c.env.ID, atLength("@one "))
		c.idle()
		whole := ok[api.Session](b, b.key, "GET", c.path(""), nil).Usage.ListCost
		threads, sum := c.threads(""), 0
		for _, thread := range threads {
			cost := thread.Usage.ListCost
			cents, err := strconv.Atoi(cost.Amount)
			if err != nil || cents < 2 || cost.Currency != whole.Currency {
				t.Errorf("thread %s has cost %+v; it has read 5,000 tokens", thread.ID, cost)
			}
			sum += cents
		}
		if of, _ := strconv.Atoi(whole.Amount); len(threads) != 2 || sum > of || sum <= of-len(threads) {
			t.Errorf("%d threads have cost %d cents, the session %+v", len(threads), sum, whole)
		}
	})
}

// TestRosterByParts: a roster in its newer form is kept and shown in that form, and its
// agents and its advisor are called on as those of the other.
func TestRosterByParts(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		off := object{"type": "disabled"}
		create := func(roster object) answer {
			roster["type"] = "multiagent_20261001"
			return b.do(b.key, "POST", "/v1/agents", object{"name": "chief", "model": "test-model", "multiagent": roster})
		}
		subagents := func(agents ...any) object { return object{"type": "enabled", "predefined_agents": agents} }
		one := b.named("one", api.PolicyAlwaysAllow)
		for field, roster := range map[string]object{
			"multiagent.workflows.type":                      {"workflows": object{"type": "enabled"}},
			"multiagent.subagents.inline_agents.type":        {"subagents": object{"type": "enabled", "inline_agents": object{"type": "enabled"}}},
			"multiagent.subagents.predefined_agents":         {"subagents": subagents()},
			"multiagent.subagents.predefined_agents[0].id":   {"subagents": subagents("agent_none")},
			"multiagent.subagents.predefined_agents[1]":      {"subagents": subagents(one.ID, one.ID)},
			"multiagent.subagents.predefined_agents[0].type": {"subagents": subagents(object{"type": "advisor", "model": "m"})},
			"multiagent.subagents.type":                      {"subagents": object{"type": "on"}},
			"multiagent.advisor.model":                       {"advisor": object{"type": "enabled"}},
		} {
			if a := create(roster); a.status != http.StatusBadRequest || !strings.HasPrefix(a.failure().Message, field+":") {
				t.Errorf("%s: %d %s", field, a.status, a.body)
			}
		}
		made := create(object{"advisor": object{"type": "enabled", "model": "wise-model"}, "subagents": subagents(one.ID, object{"type": "self"}), "workflows": off})
		if made.status != http.StatusOK {
			t.Fatalf("%d %s", made.status, made.body)
		}
		var chief api.Agent
		must(t, json.Unmarshal(made.body, &chief))
		want := fmt.Sprintf(`{"type":"multiagent_20261001","advisor":{"type":"enabled","model":"wise-model"},"subagents":{"type":"enabled","inline_agents":{"type":"disabled"},"predefined_agents":[{"id":%q,"type":"agent","version":1},{"id":%q,"type":"agent","version":1}]},"workflows":{"type":"disabled"}}`, one.ID, chief.ID)
		if string(chief.Multiagent) != want {
			t.Errorf("the roster is\n%s, want\n%s", chief.Multiagent, want)
		}
		if a := create(object{}); a.status != http.StatusOK || !strings.Contains(string(a.body), `"subagents":{"type":"disabled"}`) {
			t.Errorf("a roster without parts: %d %s", a.status, a.body)
		}
		c := &troupe{brain: b, env: b.environment(), one: one, chief: chief}
		c.session = b.session(chief.ID, c.env.ID, "@one hello\n@anthropic.advisor hello")
		c.idle()
		var names []string
		for _, thread := range c.threads("")[1:] {
			names = append(names, string(thread.Agent))
		}
		if len(names) != 2 || !strings.Contains(names[0], one.ID) || names[1] != `{"model":"wise-model","type":"advisor"}` {
			t.Errorf("the threads are of %s", names)
		}
		var held api.Multiagent
		must(t, json.Unmarshal(c.session.Agent.Multiagent, &held))
		if len(held.Agents) != 3 || !strings.Contains(string(held.Agents[0]), `"name":"one"`) || !strings.Contains(string(c.session.Agent.Multiagent), `"inline_agents"`) {
			t.Errorf("the session's roster is %s", c.session.Agent.Multiagent)
		}
	})
}

// TestThreadsGoOn: a thread is gone on in by its id, custom tools of threads are
// answered, and agents that do not exist are told of.
func TestThreadsGoOn(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		c := b.troupe("@one tool ask {\"what\":\"else\"}")
		asked := c.idle()
		one := c.threads("")[1].ID
		posted := find(c.log(""), asked[0])
		if posted.Type != api.EventAgentCustomToolUse || *posted.SessionThreadID != one {
			t.Fatalf("the custom call is %+v", posted)
		}
		result := c.send(object{"type": "user.custom_tool_result", "custom_tool_use_id": asked[0], "content": []object{{"type": "text", "text": "nothing"}}})[0]
		if *result.SessionThreadID != one {
			t.Errorf("the result went to %v", *result.SessionThreadID)
		}
		b.eventually("it has spoken", func() bool { c.idle(); return count(c.log(""), api.EventThreadMessageReceived) == 1 })

		c.send(message("@" + one + " $ true\n@nobody hello\ntool list_agents"))
		b.eventually("it asks again", func() bool { return len(c.idle()) == 1 })
		if threads := c.threads(""); len(threads) != 2 {
			t.Errorf("there are %d threads", len(threads))
		}
		if got := count(c.log(one), api.EventThreadMessageReceived); got != 2 {
			t.Errorf("the thread has got %d messages", got)
		}
		var answers []string
		for _, e := range c.log("") {
			if e.Type == api.EventAgentToolResult {
				answers = append(answers, said(e))
			}
		}
		for i, want := range []string{"Sent to one", "Sent to one", "There is no agent \"nobody\". The agents are:\none", "Agents:\n- one"} {
			if !strings.HasPrefix(answers[i], want) {
				t.Errorf("answer %d is %q, want %q", i, answers[i], want)
			}
		}
		if !strings.Contains(answers[3], one+" of one") || !strings.Contains(answers[3], api.AdvisorName) {
			t.Errorf("the list is %q", answers[3])
		}
	})
}

// TestAdvisor: an advisor is a thread without tools.
func TestAdvisor(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		c := b.troupe("@" + api.AdvisorName + " what now?")
		b.eventually("it has spoken", func() bool { c.idle(); return count(c.log(""), api.EventThreadMessageReceived) == 1 })
		thread := c.threads("")[1]
		if string(thread.Agent) != `{"model":"wise-model","type":"advisor"}` {
			t.Errorf("the advisor is %s", thread.Agent)
		}
		created := c.log("")[slices.Index(typesOf(c.log("")), "session.thread_created")]
		if created.AgentName != api.AdvisorName || *created.SessionThreadID != thread.ID {
			t.Errorf("created %+v", created)
		}
	})
}

// TestInterruptOfOneThread leaves the others alone; one without a thread stops all.
func TestInterruptOfOneThread(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		c := b.troupe("@one $ echo first\n&\n@two $ echo second")
		asked := c.idle()
		one, two := c.threads("")[1].ID, c.threads("")[2].ID
		c.send(object{"type": "user.interrupt", "session_thread_id": one})
		b.eventually("one waits no more", func() bool { return slices.Equal(c.idle(), asked[1:]) })
		for threadID, want := range map[string]int{one: 1, two: 0, "": 1} {
			if got := count(c.log(threadID), api.EventUserInterrupt); got != want {
				t.Errorf("%d interrupts in the log of %q, want %d", got, threadID, want)
			}
		}
		if a := b.do(c.key, "POST", c.path("/events"), object{"events": []object{{"type": "user.interrupt", "session_thread_id": "sthr_none"}}}); a.status != http.StatusBadRequest || !strings.Contains(a.failure().Message, "events[0].session_thread_id") {
			t.Errorf("an unknown thread is answered %d %s", a.status, a.body)
		}
		c.send(object{"type": "user.interrupt"})
		b.eventually("nothing waits", func() bool { return len(c.idle()) == 0 })
		log := c.log("")
		if got := count(log, api.EventUserInterrupt); got != 2 {
			t.Errorf("%d interrupts in the session's log", got)
		}
		if got := count(log, api.EventThreadMessageReceived); got != 0 {
			t.Errorf("the coordinator was told %d things by threads that were stopped", got)
		}
		if a := b.do(c.key, "POST", c.path("/events"), object{"events": []object{{"type": "user.tool_confirmation", "tool_use_id": asked[1], "result": "allow"}}}); a.status != http.StatusBadRequest {
			t.Errorf("a confirmation of a void call is answered %d", a.status)
		}
	})
}

// TestArchivedThreads are over: their calls are void and nothing reaches them.
func TestArchivedThreads(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		c := b.troupe("@one $ echo first")
		c.idle()
		threads := c.threads("")
		primary, one := threads[0].ID, threads[1].ID
		if a := b.do(c.key, "POST", c.path("/threads/"+primary+"/archive"), nil); a.status != http.StatusBadRequest {
			t.Errorf("archiving the primary thread is answered %d", a.status)
		}
		stream := c.streamThread(one)
		archived := ok[api.Thread](b, c.key, "POST", c.path("/threads/"+one+"/archive"), nil)
		if archived.ArchivedAt == nil || archived.Status != api.SessionTerminated {
			t.Errorf("archived %+v", archived)
		}
		again := ok[api.Thread](b, c.key, "POST", c.path("/threads/"+one+"/archive"), nil)
		if !again.ArchivedAt.Equal(*archived.ArchivedAt) {
			t.Error("archiving it again changes it")
		}
		if last := c.log(one)[len(c.log(one))-1]; last.Type != api.EventThreadStatusTerminated {
			t.Errorf("its log ends with %s", last.Type)
		}
		if end := stream.types(); end[len(end)-1] != "session.thread_status_terminated" {
			t.Errorf("its stream was %v", end)
		}
		if reason := b.awaitIdle(c.session.ID); reason.Type != api.StopEndTurn {
			t.Errorf("the session waits: %+v", reason)
		}
		c.send(message("@" + one + " hello"))
		b.eventually("it was refused", func() bool {
			c.idle()
			return strings.Contains(fmt.Sprint(c.log("")), "There is no thread")
		})
		if found := c.threads("?statuses[]=terminated"); len(found) != 1 || found[0].ID != one {
			t.Errorf("terminated are %+v", found)
		}
		if found := c.threads("?statuses[]=idle"); len(found) != 1 || found[0].ID != primary {
			t.Errorf("idle are %+v", found)
		}
	})
}

// TestThreadPages: threads come page by page, as they were made.
func TestThreadPages(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		c := b.troupe("@one rest\n@one rest\n@one rest")
		b.eventually("all have spoken", func() bool { c.idle(); return count(c.log(""), api.EventThreadMessageReceived) == 3 })
		var seen []string
		path := c.path("/threads?limit=1")
		for next := ""; ; {
			page := ok[api.Page[api.Thread]](b, c.key, "GET", path+next, nil)
			seen = append(seen, page.Data[0].ID)
			if page.NextPage == nil {
				break
			}
			next = "&page=" + *page.NextPage
		}
		var all []string
		for _, thread := range c.threads("") {
			all = append(all, thread.ID)
		}
		if len(all) != 4 || !slices.Equal(seen, all) {
			t.Errorf("page by page %v, at once %v", seen, all)
		}
		for _, one := range all {
			if got := ok[api.Thread](b, c.key, "GET", c.path("/threads/"+one), nil); got.ID != one {
				t.Errorf("%s is %s", one, got.ID)
			}
		}
		if a := b.do(c.key, "GET", c.path("/threads/sthr_none"), nil); a.status != http.StatusNotFound {
			t.Errorf("an unknown thread is answered %d", a.status)
		}
		primary := ok[api.Page[api.Event]](b, c.key, "GET", c.path("/threads/"+all[0]+"/events"), nil)
		if !slices.Equal(typesOf(primary.Data), typesOf(c.log(""))) {
			t.Error("the primary thread's log is not the session's")
		}
		// A thread is of its session only, and its id is not that of a session.
		other := b.session(c.one.ID, c.env.ID)
		for _, path := range []string{"/v1/sessions/" + other.ID + "/threads/" + all[1], "/v1/sessions/" + other.ID + "/threads/" + all[1] + "/events", "/v1/sessions/" + all[1] + "/events"} {
			if a := b.do(c.key, "GET", path, nil); a.status != http.StatusNotFound {
				t.Errorf("%s is answered %d", path, a.status)
			}
		}
	})
}

// streamThread opens the stream of a thread.
func (c *troupe) streamThread(id string) *stream {
	c.t.Helper()
	return c.streamOf(c.key, c.path("/threads/"+id+"/stream"), "")
}

// types reads a stream to its end.
func (s *stream) types() (types []string) {
	s.t.Helper()
	for {
		f, err := s.frame()
		if err != nil {
			return types
		}
		if f.event != "ping" {
			types = append(types, f.event)
		}
	}
}

// TestDeletedThreads: the streams of threads end with their session.
func TestDeletedThreads(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		c := b.troupe("@one $ true")
		c.idle()
		stream := c.streamThread(c.threads("")[1].ID)
		ok[object](b, c.key, "DELETE", c.path(""), nil)
		if types := stream.types(); !slices.Equal(types, []string{"session.deleted"}) {
			t.Errorf("the stream was %v", types)
		}
	})
}

// TestRosters: who may be on a roster, and as what.
func TestRosters(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		member, chief := b.named("member", api.PolicyAlwaysAllow), b.coordinator()
		archived := b.named("archived", api.PolicyAlwaysAllow)
		ok[api.Agent](b, b.key, "POST", "/v1/agents/"+archived.ID+"/archive", nil)
		many := []any{}
		for range 21 {
			many = append(many, object{"type": "self"})
		}
		custom := []object{{"type": "custom", "name": "send_to_agent", "description": "d", "input_schema": object{"type": "object"}}}
		for what, c := range map[string]struct {
			field  string
			roster []any
			tools  []object
		}{
			"nobody":              {field: "multiagent.agents", roster: []any{}},
			"more than 20":        {field: "multiagent.agents", roster: many},
			"the same twice":      {field: "multiagent.agents[1]", roster: []any{member.ID, object{"type": "agent", "id": member.ID, "version": 1}}},
			"self twice":          {field: "multiagent.agents[1]", roster: []any{object{"type": "self"}, object{"type": "self"}}},
			"an unknown agent":    {field: "multiagent.agents[0].id", roster: []any{"agent_none"}},
			"an unknown version":  {field: "multiagent.agents[0].id", roster: []any{object{"type": "agent", "id": member.ID, "version": 7}}},
			"an archived agent":   {field: "multiagent.agents[0]", roster: []any{archived.ID}},
			"a coordinator":       {field: "multiagent.agents[0]", roster: []any{chief.ID}},
			"a tool's name taken": {field: "tools[0].name", roster: []any{member.ID}, tools: custom},
		} {
			body := object{"name": "n", "model": "m", "multiagent": object{"type": "coordinator", "agents": c.roster}}
			if c.tools != nil {
				body["tools"] = c.tools
			}
			if a := b.do(b.key, "POST", "/v1/agents", body); a.status != http.StatusBadRequest || !strings.HasPrefix(a.failure().Message, c.field+":") {
				t.Errorf("%s on a roster: %d %s", what, a.status, a.body)
			}
		}
		made := b.coordinator(member.ID, object{"type": "self"})
		ok[api.Agent](b, b.key, "POST", "/v1/agents/"+member.ID, object{"system": "changed"})
		wantRoster(t, made, member.ID, 1, made.ID, 1)
		// Who was pinned stays so; the coordinator itself is there as it now is.
		changed := ok[api.Agent](b, b.key, "POST", "/v1/agents/"+made.ID, object{"system": "changed"})
		wantRoster(t, changed, member.ID, 1, made.ID, 2)
		same := ok[api.Agent](b, b.key, "POST", "/v1/agents/"+made.ID, object{"multiagent": object{"type": "coordinator", "agents": []any{object{"type": "agent", "id": member.ID, "version": 1}, object{"type": "self"}}}})
		if same.Version != 2 {
			t.Errorf("the same roster again makes version %d", same.Version)
		}
		renewed := ok[api.Agent](b, b.key, "POST", "/v1/agents/"+made.ID, object{"multiagent": object{"type": "coordinator", "agents": []any{member.ID, object{"type": "self"}}}})
		wantRoster(t, renewed, member.ID, 2, made.ID, 3)

		// A session has the roster in full; itself, with the session's overrides.
		session := ok[api.Session](b, b.key, "POST", "/v1/sessions", object{
			"agent": object{"type": "agent_with_overrides", "id": made.ID, "system": "overridden"}, "environment_id": b.environment().ID,
		})
		var held api.Multiagent
		must(t, json.Unmarshal(session.Agent.Multiagent, &held))
		for i, want := range []string{"changed", "overridden"} {
			var full api.ThreadAgent
			must(t, json.Unmarshal(held.Agents[i], &full))
			if full.System == nil || *full.System != want || len(full.Tools) == 0 {
				t.Errorf("the session's roster has %s", held.Agents[i])
			}
		}
		ok[api.Agent](b, b.key, "POST", "/v1/agents/"+member.ID+"/archive", nil)
		if a := b.do(b.key, "POST", "/v1/sessions", object{"agent": made.ID, "environment_id": session.EnvironmentID}); a.status != http.StatusBadRequest {
			t.Errorf("a session with an archived agent on the roster is answered %d", a.status)
		}
		if cleared := ok[api.Agent](b, b.key, "POST", "/v1/agents/"+made.ID, object{"multiagent": nil}); string(cleared.Multiagent) != "null" {
			t.Errorf("a roster that was cleared is %s", cleared.Multiagent)
		}
	})
}

// wantRoster wants a roster of ids and versions.
func wantRoster(t *testing.T, a api.Agent, want ...any) {
	t.Helper()
	var held api.Multiagent
	must(t, json.Unmarshal(a.Multiagent, &held))
	var got []any
	for _, raw := range held.Agents {
		var ref api.RosterReference
		must(t, json.Unmarshal(raw, &ref))
		got = append(got, ref.ID, int(ref.Version))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the roster is %v, want %v", got, want)
	}
}

// TestManyThreads: no more than 25 are at work at once.
func TestManyThreads(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		script := strings.TrimSuffix(strings.Repeat("@one $ true\n&\n", session.MaxThreads+1), "&\n")
		c := b.troupe(script)
		asked := c.idle()
		if threads := c.threads("?limit=100"); len(threads) != session.MaxThreads+1 || len(asked) != session.MaxThreads {
			t.Errorf("%d threads, of which %d wait", len(threads), len(asked))
		}
		if got := strings.Count(fmt.Sprint(c.log("")), "threads are at work"); got != 1 {
			t.Errorf("%d calls were told that it is too many", got)
		}
		// Whoever rests makes room.
		c.send(object{"type": "user.interrupt", "session_thread_id": c.threads("")[1].ID})
		b.eventually("it rests", func() bool { return len(c.idle()) == session.MaxThreads-1 })
		c.send(message("@one $ true"))
		b.eventually("another is at work", func() bool { return len(c.idle()) == session.MaxThreads })
	})
}
