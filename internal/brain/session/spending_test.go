package session

import (
	"encoding/json"
	"errors"
	"testing"

	"hearth/api"
)

func limit(cents string) json.RawMessage {
	return json.RawMessage(`{"type":"limit","max_list_cost":{"amount":"` + cents + `","currency":"USD"}}`)
}

// budgeted is a session that stops at so many cents, and thinks already.
func (b *bench) budgeted(t *testing.T, cents string) (id string, run *Run) {
	t.Helper()
	s, err := b.store.Create(b.ctx, CreateParams{
		WorkspaceID: workspace, EnvironmentID: environment, EnvironmentType: api.EnvironmentSelfHosted, Budget: limit(cents),
		Agent:         api.SessionAgent{ID: "agent_test", Type: "agent", Version: 1, Name: "tester", Model: testModel},
		InitialEvents: []json.RawMessage{json.RawMessage(`{"type":"user.message","content":[{"type":"text","text":"go"}]}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	run = b.claim(t)
	if _, _, err := run.BeginRequest(b.ctx); err != nil {
		t.Fatal(err)
	}
	return s.ID, run
}

// tokens of input at the test's prices: ten are a cent.
func tokens(n int64) api.ModelUsage { return api.ModelUsage{InputTokens: n} }

// wantEnd wants the log to end in an idle status for a reason.
func (b *bench) wantEnd(t *testing.T, id, reason string) {
	t.Helper()
	log := b.log(t, id)
	last := decodeEvent(t, log[len(log)-1].JSON)
	if last.Type != api.EventSessionStatusIdle || last.StopReason.Type != reason {
		t.Fatalf("the log ends in %s", log[len(log)-1].JSON)
	}
}

// TestBudgetHoldsATurn: what waits behind the last request that the budget
// allowed goes on waiting, past an interrupt, until the budget is raised.
func TestBudgetHoldsATurn(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		id, run := b.budgeted(t, "10")
		queued := b.send(t, id, SenderClient, message("and then"))[0]
		if err := run.CompleteRequest(b.ctx, Completion{Usage: tokens(100)}); err != nil {
			t.Fatal(err)
		}
		next := b.claim(t)
		if _, _, err := next.BeginRequest(b.ctx); !errors.Is(err, ErrBudgetReached) {
			t.Fatalf("the next request: %v", err)
		}
		b.wantEnd(t, id, api.StopBudgetReached)
		if err := next.CompleteRequest(b.ctx, Completion{}); !errors.Is(err, ErrStale) {
			t.Errorf("the run that was ended can write: %v", err)
		}
		before := len(b.log(t, id))
		b.send(t, id, SenderClient, interrupt())
		if run, err := b.store.Claim(b.ctx); run != nil || err != nil {
			t.Fatalf("the interrupt has work done: %+v, %v", run, err)
		}
		if log := b.log(t, id); len(log) != before+1 || log[len(log)-1].Type != api.EventUserInterrupt {
			t.Errorf("the interrupt brought %d events", len(log)-before)
		}
		s, err := b.store.Update(b.ctx, workspace, id, UpdateParams{Budget: api.Optional[json.RawMessage]{Set: true, Value: limit("11")}})
		if err != nil || s.Status != api.SessionRunning {
			t.Fatalf("raised: %s, %v", s.Status, err)
		}
		_, taken, err := b.claim(t).BeginRequest(b.ctx)
		if err != nil || len(taken) != 1 || taken[0].ID != queued {
			t.Errorf("took %+v: %v", taken, err)
		}
	})
}

// TestBudgetCountsWhatFailed: what a provider has counted of a request that
// failed or was interrupted is spent.
func TestBudgetCountsWhatFailed(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		id, run := b.budgeted(t, "10")
		failure := api.SessionError{Type: api.SessionErrorUnknown, RetryStatus: api.RetryStatus{Type: api.RetryRetrying}}
		if err := run.FailRequest(b.ctx, failure, tokens(60), b.clock.now()); err != nil {
			t.Fatal(err)
		}
		again := b.claim(t)
		if _, _, err := again.BeginRequest(b.ctx); err != nil {
			t.Fatal(err)
		}
		b.send(t, id, SenderClient, interrupt())
		if err := again.ApplyInterrupt(b.ctx, nil, tokens(40)); err != nil {
			t.Fatal(err)
		}
		s, err := b.store.Get(b.ctx, workspace, id)
		if err != nil || s.Usage.ListCost.Amount != "10" || s.Usage.InputTokens != 100 {
			t.Errorf("%+v, %v", s.Usage, err)
		}
		if _, err := b.trySend(t, id, SenderClient, message("go on")); status(t, err) != 400 {
			t.Errorf("a message past the budget: %v", err)
		}
	})
}

// TestUsageByKind: what models count by kind is kept by kind.
func TestUsageByKind(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		id, run := b.budgeted(t, "1000")
		used := api.ModelUsage{InputTokens: 1, OutputTokens: 2, CacheReadInputTokens: 30, CacheCreationInputTokens: 100, CacheWrite1h: 40, WebSearches: 3, WebFetches: 4}
		if err := run.CompleteRequest(b.ctx, Completion{Usage: used}); err != nil {
			t.Fatal(err)
		}
		s, err := b.store.Get(b.ctx, workspace, id)
		if err != nil {
			t.Fatal(err)
		}
		s.Usage.ActiveSeconds = 0
		// In cents: 0.1 + 1 + 30 × 0.01 + 40 × 0.2 + 60 × 0.125.
		want := api.SessionUsage{
			InputTokens: 1, OutputTokens: 2, CacheReadInputTokens: 30, CacheCreation: api.CacheCreation{Ephemeral1h: 40, Ephemeral5m: 60},
			ListCost: dollars("16"), ServerToolUse: api.ServerToolUse{WebFetchRequests: 4, WebSearchRequests: 3},
		}
		if s.Usage != want {
			t.Errorf("%+v, want %+v", s.Usage, want)
		}
	})
}

// TestBudgetHoldsEachThread: the budget is one for all threads. It holds each
// where that stands, and lets each go on when it is raised.
func TestBudgetHoldsEachThread(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		s, err := b.store.Create(b.ctx, CreateParams{
			WorkspaceID: workspace, EnvironmentID: environment, EnvironmentType: api.EnvironmentSelfHosted, Budget: limit("10"),
			Agent:         api.SessionAgent{ID: "agent_test", Type: "agent", Version: 1, Name: "tester", Model: testModel, Multiagent: json.RawMessage(roster)},
			InitialEvents: []json.RawMessage{json.RawMessage(`{"type":"user.message","content":[{"type":"text","text":"go"}]}`)},
		})
		if err != nil {
			t.Fatal(err)
		}
		run := b.claim(t)
		if _, _, err := run.BeginRequest(b.ctx); err != nil {
			t.Fatal(err)
		}
		send := Draft{
			Event: &api.ToolUseEvent{EventHead: api.EventHead{ID: api.NewID(api.PrefixEvent), Type: api.EventAgentToolUse}, Name: api.ToolSendToAgent, Input: json.RawMessage("{}")},
			Act: func(c Cast) (string, bool, error) {
				members, err := c.Members()
				if err != nil {
					return "", false, err
				}
				_, err = c.Start(members[0], "go too")
				return "sent", false, err
			},
		}
		if err := run.CompleteRequest(b.ctx, Completion{Drafts: []Draft{send}, Usage: tokens(100), Continue: true}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, _, err := b.claim(t).BeginRequest(b.ctx); !errors.Is(err, ErrBudgetReached) {
				t.Fatalf("a request past the budget: %v", err)
			}
		}
		b.wantEnd(t, s.ID, api.StopBudgetReached)
		raised := api.Optional[json.RawMessage]{Set: true, Value: limit("20")}
		if _, err := b.store.Update(b.ctx, workspace, s.ID, UpdateParams{Budget: raised}); err != nil {
			t.Fatal(err)
		}
		thought := map[string]bool{}
		for len(thought) < 2 {
			run := b.claim(t)
			if _, _, err := run.BeginRequest(b.ctx); err != nil {
				t.Fatal(err)
			}
			thought[run.ThreadID] = true
			if err := run.CompleteRequest(b.ctx, Completion{Usage: tokens(10)}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
