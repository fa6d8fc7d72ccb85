package conformance

import (
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
)

// member makes an agent that a coordinator can call on.
func (s *site) member(t *testing.T, name, policy string) anthropic.BetaManagedAgentsMultiagentRosterEntryParamsUnion {
	t.Helper()
	agent, err := s.Client.SDK().Beta.Agents.New(t.Context(), anthropic.BetaAgentNewParams{
		Name: name, Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "rehearsal"}, Tools: []anthropic.BetaAgentNewParamsToolUnion{toolset(policy)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return anthropic.BetaManagedAgentsMultiagentRosterEntryParamsUnion{OfString: anthropic.String(agent.ID)}
}

// crew starts a session of a coordinator.
func (s *site) crew(t *testing.T, message string, roster ...anthropic.BetaManagedAgentsMultiagentRosterEntryParamsUnion) *chat {
	t.Helper()
	sdk := s.Client.SDK()
	agent, err := sdk.Beta.Agents.New(t.Context(), anthropic.BetaAgentNewParams{
		Name: t.Name(), Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "rehearsal"},
		Tools: []anthropic.BetaAgentNewParamsToolUnion{toolset(api.PolicyAlwaysAllow)},
		Multiagent: anthropic.BetaManagedAgentsMultiagentParamsUnion{OfCoordinator: &anthropic.BetaManagedAgentsMultiagentCoordinatorParams{
			Type: anthropic.BetaManagedAgentsMultiagentCoordinatorParamsTypeCoordinator, Agents: roster,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	session, err := sdk.Beta.Sessions.New(t.Context(), anthropic.BetaSessionNewParams{
		Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(agent.ID)}, EnvironmentID: s.environmentID,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &chat{t, sdk, session.ID}
	c.say(message)
	return c
}

// twoAgents has two agents at work in one sandbox, which a worker that follows
// only the session serves both. Official workers, which the script of --on-work
// starts too, run one call at a time; with ours the two wait for each other,
// which is well only when they run together.
func twoAgents(t *testing.T, s *site) {
	dir := "crew-" + strings.NewReplacer(" ", "-", "/", "-").Replace(t.Name())
	left, right := "$ mkdir -p DIR && touch DIR/left", "$ mkdir -p DIR && touch DIR/right"
	if strings.Contains(t.Name(), "hearth") && !strings.Contains(t.Name(), "on-work") {
		left += "; until [ -e DIR/right ]; do sleep 0.02; done"
		right += "; until [ -e DIR/left ]; do sleep 0.02; done"
	}
	script := strings.ReplaceAll("@left "+left+"; echo left is done\n&\n@right "+right+"; echo right is done", "DIR", dir)
	c := s.crew(t, script, s.member(t, "left", api.PolicyAlwaysAllow), s.member(t, "right", api.PolicyAlwaysAllow))
	log := c.end(1)
	texts, failed := c.results(log)
	all := strings.Join(texts, "\n")
	for _, want := range []string{"Sent to left", "Sent to right", "left is done", "right is done"} {
		if !strings.Contains(all, want) {
			t.Errorf("no result says %q:\n%s", want, c.story())
		}
	}
	for i := range failed {
		if failed[i] {
			t.Errorf("a call failed: %s", texts[i])
		}
	}
	said := map[string]bool{}
	for _, e := range log {
		if e.Type == api.EventThreadMessageReceived {
			said[e.FromAgentName] = true
		}
	}
	if !said["left"] || !said["right"] {
		t.Errorf("only %v have spoken\n%s", said, c.story())
	}
	// What they have left is there for the coordinator: the sandbox is one.
	c.say("$ ls " + dir)
	texts, _ = c.results(c.end(2))
	if last := texts[len(texts)-1]; !strings.Contains(last, "left") || !strings.Contains(last, "right") {
		t.Errorf("in the sandbox is %q", last)
	}
}

// agentThatAsks: what an agent called on may do is asked for, and allowed, on
// the session's stream.
func agentThatAsks(t *testing.T, s *site) {
	c := s.crew(t, "@careful $ echo it was allowed", s.member(t, "careful", api.PolicyAlwaysAsk))
	call := c.await("a call that asks", func(e api.Event) bool {
		return e.Type == api.EventAgentToolUse && e.EvaluatedPermission == api.PermissionAsk
	})
	if call.SessionThreadID == nil {
		t.Error("the call does not say whose it is")
	}
	c.send(anthropic.BetaManagedAgentsEventParamsUnion{OfUserToolConfirmation: &anthropic.BetaManagedAgentsUserToolConfirmationEventParams{
		Type: anthropic.BetaManagedAgentsUserToolConfirmationEventParamsTypeUserToolConfirmation, ToolUseID: call.ID, Result: "allow",
	}})
	texts, _ := c.results(c.end(1))
	if !strings.Contains(strings.Join(texts, "\n"), "it was allowed") {
		t.Errorf("the call brought %q", texts)
	}
}
