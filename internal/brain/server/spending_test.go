package server

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"hearth/api"
)

// budgetForms are the requests with a budget.
var budgetForms = []form{
	{"POST /v1/sessions", `{"agent":"{priced_agent_id}","environment_id":"{environment_id}","budget":{"type":"limit","max_list_cost":{"amount":"100","currency":"USD"}}}`, map[string]string{
		"budget": "object null", "budget.type": "string required choice", "budget.max_list_cost": "object required",
		"budget.max_list_cost.amount": "string required choice", "budget.max_list_cost.currency": "string required choice"}},
	{"POST /v1/sessions/{budgeted_session_id}", `{"budget":{"type":"limit","max_list_cost":{"amount":"200","currency":"USD"}}}`, map[string]string{
		"budget": "object null", "budget.type": "string required choice", "budget.max_list_cost": "object required",
		"budget.max_list_cost.amount": "string required choice", "budget.max_list_cost.currency": "string required choice"}},
}

// addBudget makes an agent whose model has a price, and a session with a budget.
func (s *site) addBudget() {
	s.t.Helper()
	a := s.pricedAgent()
	s.ids["priced_agent_id"], s.ids["budgeted_session_id"] = a.ID, s.budgeted(a.ID, s.env.ID, "100").ID
}

// pricedAgent is an agent with a model at 5 dollars for a million tokens.
func (b *brain) pricedAgent() api.Agent {
	b.t.Helper()
	return ok[api.Agent](b, b.key, "POST", "/v1/agents", object{
		"name": "priced", "model": "claude-opus-4-5", "tools": []object{{"type": api.ToolTypeAgentToolset}},
	})
}

func budget(cents string) object {
	return object{"type": "limit", "max_list_cost": object{"amount": cents, "currency": "USD"}}
}

func (b *brain) budgeted(agentID, environmentID, cents string, texts ...string) api.Session {
	b.t.Helper()
	events := []object{}
	for _, text := range texts {
		events = append(events, message(text))
	}
	return ok[api.Session](b, b.key, "POST", "/v1/sessions", object{
		"agent": agentID, "environment_id": environmentID, "initial_events": events, "budget": budget(cents),
	})
}

// dear is an instruction that costs some cents to read.
const dear = "$ true\n"

func atLength(text string) string { return text + strings.Repeat("x", 20_000) }

// events is a session's log.
func (b *brain) events(sessionID string) []api.Event {
	b.t.Helper()
	return ok[api.Page[api.Event]](b, b.key, "GET", "/v1/sessions/"+sessionID+"/events", nil).Data
}

func count(events []api.Event, kind api.EventType) (n int) {
	for _, e := range events {
		if e.Type == kind {
			n++
		}
	}
	return n
}

// wantCode wants a 400 with an error code.
func (b *brain) wantCode(what string, a answer, code string) {
	b.t.Helper()
	if f := a.failure(); a.status != http.StatusBadRequest || f.Details["error_code"] != code {
		b.t.Errorf("%s: %d %s, want the code %s", what, a.status, a.body, code)
	}
}

// TestBudgetReached follows a session over its budget and on.
func TestBudgetReached(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		env := b.environment()
		s := b.budgeted(b.pricedAgent().ID, env.ID, "1", atLength(dear))
		path := "/v1/sessions/" + s.ID
		if s.Usage.ListCost != (api.Money{Amount: "0", Currency: "USD"}) {
			t.Errorf("a session that has used nothing costs %+v", s.Usage.ListCost)
		}
		// The first request costs more than a cent. That calls wait outranks it.
		stop := b.awaitIdle(s.ID)
		if stop.Type != api.StopRequiresAction {
			t.Fatalf("stopped for %s", stop.Type)
		}
		cost := ok[api.Session](b, b.key, "GET", path, nil).Usage.ListCost.Amount
		if cost != "2" {
			t.Errorf("cost %s cents, want 2: 5,000 tokens and a few at $5 for a million", cost)
		}
		post := func(event object) answer {
			return b.do(b.key, "POST", path+"/events", object{"events": []object{event}})
		}
		refused := post(message("more"))
		b.wantCode("a message", refused, "budget_reached")
		for _, allowed := range []string{"user.tool_confirmation", "user.tool_result", "user.custom_tool_result", "user.interrupt"} {
			if !strings.Contains(refused.failure().Message, allowed) {
				t.Errorf("the refusal does not name %s: %s", allowed, refused.failure().Message)
			}
		}
		if a := post(object{"type": "user.tool_result", "tool_use_id": stop.EventIDs[0]}); a.status != http.StatusOK {
			t.Fatalf("a result: %d %s", a.status, a.body)
		}
		if stop := b.awaitIdle(s.ID); stop.Type != api.StopBudgetReached {
			t.Fatalf("stopped for %s", stop.Type)
		}
		log := b.events(s.ID)
		last := log[len(log)-3:]
		if last[0].Type != api.EventThreadStatusIdle || last[0].StopReason.Type != api.StopBudgetReached || last[1].Type != api.EventSessionUsage ||
			last[1].Usage.ListCost.Amount != cost || last[2].Type != api.EventSessionStatusIdle || count(log, api.EventModelRequestStart) != 1 {
			t.Errorf("the log ends in %s, %s, %s after %d requests", last[0].Type, last[1].Type, last[2].Type, count(log, api.EventModelRequestStart))
		}
		// An interrupt is taken and changes nothing.
		if a := post(object{"type": "user.interrupt"}); a.status != http.StatusOK {
			t.Errorf("an interrupt: %d %s", a.status, a.body)
		}
		for _, cents := range []string{"1", cost} {
			b.wantCode("a budget of "+cents, b.do(b.key, "POST", path, object{"budget": budget(cents)}), "budget_not_raised")
		}
		// A higher one lets the turn go on, to its end.
		raised := ok[api.Session](b, b.key, "POST", path, object{"budget": budget("1000"), "title": "raised"})
		if raised.Status != api.SessionRunning {
			t.Errorf("the session is %s", raised.Status)
		}
		if stop := b.awaitIdle(s.ID); stop.Type != api.StopEndTurn {
			t.Errorf("stopped for %s", stop.Type)
		}
		updates := b.updates(s.ID)
		if len(updates) != 1 || !slices.Equal(updates[0], []string{"budget", "title"}) {
			t.Errorf("session.updated names %v", updates)
		}
		if a := post(message("$ true")); a.status != http.StatusOK {
			t.Errorf("a message: %d %s", a.status, a.body)
		}
	})
}

// updates are the fields that each session.updated of a log names.
func (b *brain) updates(sessionID string) (fields [][]string) {
	b.t.Helper()
	page := ok[api.Page[map[string]json.RawMessage]](b, b.key, "GET", "/v1/sessions/"+sessionID+"/events?types[]=session.updated", nil)
	for _, e := range page.Data {
		for _, head := range []string{"id", "type", "processed_at"} {
			delete(e, head)
		}
		fields = append(fields, slices.Sorted(maps.Keys(e)))
	}
	return fields
}

// TestBudgetRemoved: without its budget a session takes messages again, and
// never gets another.
func TestBudgetRemoved(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.budgeted(b.pricedAgent().ID, b.environment().ID, "1", atLength("hello "))
		if stop := b.awaitIdle(s.ID); stop.Type != api.StopEndTurn {
			t.Errorf("a turn of one request stopped for %s", stop.Type)
		}
		path := "/v1/sessions/" + s.ID
		say := object{"events": []object{message("hello")}}
		b.wantCode("a message", b.do(b.key, "POST", path+"/events", say), "budget_reached")
		removed := ok[api.Session](b, b.key, "POST", path, object{"budget": nil})
		if string(removed.Budget) != "null" || removed.Status != api.SessionIdle {
			t.Errorf("the session is %s with the budget %s", removed.Status, removed.Budget)
		}
		ok[object](b, b.key, "POST", path+"/events", say)
		b.awaitIdle(s.ID)
		b.wantCode("a budget after one was removed", b.do(b.key, "POST", path, object{"budget": budget("1000")}), "budget_create_only")
		ok[api.Session](b, b.key, "POST", path, object{"budget": nil})
		if updates := b.updates(s.ID); len(updates) != 1 || !slices.Equal(updates[0], []string{"budget"}) {
			t.Errorf("session.updated names %v", updates)
		}
	})
}

// TestBudgetNeedsPrices: a model without a price cannot be held against one.
func TestBudgetNeedsPrices(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		env, priced, unpriced := b.environment(), b.pricedAgent(), b.agent()
		create := func(agent any) answer {
			return b.do(b.key, "POST", "/v1/sessions", object{"agent": agent, "environment_id": env.ID, "budget": budget("100")})
		}
		b.wantCode("an agent without a price", create(unpriced.ID), "model_not_budgetable")
		with := func(model any) object {
			return object{"type": "agent_with_overrides", "id": priced.ID, "model": model}
		}
		b.wantCode("an override without a price", create(with("test-model")), "model_not_budgetable")
		b.wantCode("a speed without a price", create(with(object{"id": "claude-opus-4-5", "speed": "fast"})), "model_not_budgetable")
		for _, model := range []string{"claude-opus-4-5", "claude-opus-4-5-20251101"} {
			if a := create(with(model)); a.status != http.StatusOK {
				t.Errorf("%s: %d %s", model, a.status, a.body)
			}
		}
		s := b.session(unpriced.ID, env.ID, "hello")
		b.wantCode("a budget later", b.do(b.key, "POST", "/v1/sessions/"+s.ID, object{"budget": budget("100")}), "budget_create_only")
		b.awaitIdle(s.ID)
		raw := ok[map[string]json.RawMessage](b, b.key, "GET", "/v1/sessions/"+s.ID, nil)
		var usage map[string]json.RawMessage
		must(t, json.Unmarshal(raw["usage"], &usage))
		if _, known := usage["list_cost"]; known || string(raw["budget"]) != "null" {
			t.Errorf("without a price: usage %s, budget %s", raw["usage"], raw["budget"])
		}
	})
}
