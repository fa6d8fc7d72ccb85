package api

import (
	"testing"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
)

// TestThreads has a coordinator call on an agent of its roster.
func TestThreads(t *testing.T) {
	each(t, func(t *testing.T, s *server) {
		agents, sessions := s.SDK.Beta.Agents, s.SDK.Beta.Sessions
		helper, err := agents.New(t.Context(), anthropic.BetaAgentNewParams{Name: "helper", Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "claude-opus-4-5"}})
		must(t, err)
		chief, err := agents.New(t.Context(), anthropic.BetaAgentNewParams{
			Name: "chief", Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "claude-opus-4-5"},
			Multiagent: anthropic.BetaManagedAgentsMultiagentParamsUnion{OfCoordinator: &anthropic.BetaManagedAgentsMultiagentCoordinatorParams{
				Type: anthropic.BetaManagedAgentsMultiagentCoordinatorParamsTypeCoordinator,
				Agents: []anthropic.BetaManagedAgentsMultiagentRosterEntryParamsUnion{
					{OfString: anthropic.String(helper.ID)},
					{OfBetaManagedAgentsMultiagentSelfs: &anthropic.BetaManagedAgentsMultiagentSelfParams{Type: anthropic.BetaManagedAgentsMultiagentSelfParamsTypeSelf}},
					{OfBetaManagedAgentsAdvisors: &anthropic.BetaManagedAgentsAdvisorParams{Type: anthropic.BetaManagedAgentsAdvisorParamsTypeAdvisor, Model: "claude-opus-4-5"}},
				},
			}},
		})
		must(t, err)
		if roster := chief.Multiagent.AsCoordinator().Agents; len(roster) != 3 || roster[0].AsAgent().Version != 1 || roster[1].AsAgent().ID != chief.ID || roster[2].AsAdvisor().Model != "claude-opus-4-5" {
			t.Errorf("the roster is %s", chief.Multiagent.RawJSON())
		}
		where, err := s.SDK.Beta.Environments.New(t.Context(), anthropic.BetaEnvironmentNewParams{
			Name: t.Name(), Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfSelfHosted: &anthropic.BetaSelfHostedConfigParams{}},
		})
		must(t, err)
		session, err := sessions.New(t.Context(), anthropic.BetaSessionNewParams{
			Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(chief.ID)}, EnvironmentID: where.ID,
			InitialEvents: []anthropic.BetaSessionNewParamsInitialEventUnion{{OfUserMessage: &anthropic.BetaManagedAgentsUserMessageEventParams{
				Type:    anthropic.BetaManagedAgentsUserMessageEventParamsTypeUserMessage,
				Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{Type: anthropic.BetaManagedAgentsTextBlockTypeText, Text: "@helper say what you are"}}},
			}}},
		})
		must(t, err)
		if member := session.Agent.Multiagent.AsCoordinator().Agents[0].AsAgent(); member.Name != "helper" {
			t.Errorf("the session's roster is %s", session.Agent.Multiagent.RawJSON())
		}
		s.awaitIdle(session.ID)

		var threads []anthropic.BetaManagedAgentsSessionThread
		list := sessions.Threads.ListAutoPaging(t.Context(), session.ID, anthropic.BetaSessionThreadListParams{Limit: anthropic.Int(1)})
		for list.Next() {
			threads = append(threads, list.Current())
		}
		must(t, list.Err())
		if len(threads) != 2 || threads[1].ParentThreadID != threads[0].ID || threads[1].Agent.AsAgent().Name != "helper" {
			t.Fatalf("threads are %+v", threads)
		}
		one, err := sessions.Threads.Get(t.Context(), threads[1].ID, anthropic.BetaSessionThreadGetParams{SessionID: session.ID})
		must(t, err)
		if one.Status != anthropic.BetaManagedAgentsSessionThreadStatusIdle || one.Usage.InputTokens == 0 {
			t.Errorf("the thread is %s", one.RawJSON())
		}
		var types []string
		events := sessions.Threads.Events.ListAutoPaging(t.Context(), one.ID, anthropic.BetaSessionThreadEventListParams{SessionID: session.ID, Limit: anthropic.Int(2)})
		for events.Next() {
			types = append(types, events.Current().Type)
		}
		must(t, events.Err())
		if len(types) < 5 || types[0] != string(api.EventThreadMessageReceived) {
			t.Errorf("the thread's events are %v", types)
		}
		stream := sessions.Threads.Events.StreamEvents(t.Context(), one.ID, anthropic.BetaSessionThreadEventStreamParams{SessionID: session.ID})
		defer stream.Close()
		must(t, stream.Err())
		archived, err := sessions.Threads.Archive(t.Context(), one.ID, anthropic.BetaSessionThreadArchiveParams{SessionID: session.ID})
		must(t, err)
		if archived.ArchivedAt.IsZero() || archived.Status != anthropic.BetaManagedAgentsSessionThreadStatusTerminated {
			t.Errorf("archived is %s", archived.RawJSON())
		}
		if !stream.Next() || stream.Current().AsSessionThreadStatusTerminated().SessionThreadID != one.ID {
			t.Errorf("the stream brought %s: %v", stream.Current().RawJSON(), stream.Err())
		}
		s.typeScript("threads.mjs", "HEARTH_AGENT="+chief.ID, "HEARTH_ENVIRONMENT="+where.ID)
	})
}

// awaitIdle waits until a session's turn has ended.
func (s *server) awaitIdle(sessionID string) {
	s.t.Helper()
	events := s.SDK.Beta.Sessions.Events
	stream := events.StreamEvents(s.t.Context(), sessionID, anthropic.BetaSessionEventStreamParams{})
	defer stream.Close()
	for {
		last, err := events.List(s.t.Context(), sessionID, anthropic.BetaSessionEventListParams{Limit: anthropic.Int(1), Order: anthropic.BetaSessionEventListParamsOrderDesc})
		must(s.t, err)
		if len(last.Data) == 1 && last.Data[0].Type == string(api.EventSessionStatusIdle) {
			return
		}
		if !stream.Next() {
			s.t.Fatalf("session %s does not become idle: %v", sessionID, stream.Err())
		}
	}
}
