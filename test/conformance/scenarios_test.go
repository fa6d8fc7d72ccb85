package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api"
	"hearth/test/run"
)

// scenarios are what every kind of worker must be good for, with the official
// Go SDK as the application.
var scenarios = []struct {
	name string
	run  func(t *testing.T, s *site)
}{
	{"all six tools", sixTools},
	{"parallel calls", parallelCalls},
	{"a custom tool", customTool},
	{"always ask", alwaysAsk},
	{"an interrupt", interrupt},
	{"two turns", twoTurns},
	{"two agents at once", twoAgents},
	{"an agent that asks", agentThatAsks},
}

// chat is a session driven by the application.
type chat struct {
	t   *testing.T
	sdk *anthropic.Client
	id  string
}

// toolset is the built-in toolset under one permission policy.
func toolset(policy string) anthropic.BetaAgentNewParamsToolUnion {
	set := &anthropic.BetaManagedAgentsAgentToolset20260401Params{Type: anthropic.BetaManagedAgentsAgentToolset20260401ParamsTypeAgentToolset20260401}
	if policy == api.PolicyAlwaysAsk {
		set.DefaultConfig.PermissionPolicy = anthropic.BetaManagedAgentsAgentToolsetDefaultConfigParamsPermissionPolicyUnion{OfAlwaysAsk: &anthropic.BetaManagedAgentsAlwaysAskPolicyParam{Type: anthropic.BetaManagedAgentsAlwaysAskPolicyTypeAlwaysAsk}}
	}
	return anthropic.BetaAgentNewParamsToolUnion{OfAgentToolset20260401: set}
}

// start makes an agent and a session that begins with a message.
func (s *site) start(t *testing.T, message string, tools ...anthropic.BetaAgentNewParamsToolUnion) *chat {
	t.Helper()
	if len(tools) == 0 {
		tools = append(tools, toolset(api.PolicyAlwaysAllow))
	}
	c := s.open(t, tools, nil)
	c.say(message)
	return c
}

// open makes an agent and a session that waits for its first message.
func (s *site) open(t *testing.T, tools []anthropic.BetaAgentNewParamsToolUnion, resources []anthropic.BetaSessionNewParamsResourceUnion) *chat {
	t.Helper()
	sdk := s.Client.SDK()
	agent, err := sdk.Beta.Agents.New(t.Context(), anthropic.BetaAgentNewParams{
		Name: t.Name(), Model: anthropic.BetaManagedAgentsModelConfigParams{ID: "rehearsal"}, Tools: tools,
	})
	if err != nil {
		t.Fatal(err)
	}
	session, err := sdk.Beta.Sessions.New(t.Context(), anthropic.BetaSessionNewParams{
		Agent:         anthropic.BetaSessionNewParamsAgentUnion{OfString: anthropic.String(agent.ID)},
		EnvironmentID: s.environmentID,
		Resources:     resources,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &chat{t, sdk, session.ID}
}

func (c *chat) send(event anthropic.BetaManagedAgentsEventParamsUnion) {
	c.t.Helper()
	_, err := c.sdk.Beta.Sessions.Events.Send(c.t.Context(), c.id, anthropic.BetaSessionEventSendParams{Events: []anthropic.BetaManagedAgentsEventParamsUnion{event}})
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *chat) say(text string) {
	c.t.Helper()
	c.send(anthropic.BetaManagedAgentsEventParamsUnion{OfUserMessage: &anthropic.BetaManagedAgentsUserMessageEventParams{
		Type:    anthropic.BetaManagedAgentsUserMessageEventParamsTypeUserMessage,
		Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{Type: anthropic.BetaManagedAgentsTextBlockTypeText, Text: text}}},
	}})
}

// log is every event there is, by the SDK's pager.
func (c *chat) log() []api.Event {
	c.t.Helper()
	var events []api.Event
	pager := c.sdk.Beta.Sessions.Events.ListAutoPaging(c.t.Context(), c.id, anthropic.BetaSessionEventListParams{Limit: anthropic.Int(50)})
	for pager.Next() {
		var e api.Event
		if err := json.Unmarshal([]byte(pager.Current().RawJSON()), &e); err != nil {
			c.t.Fatal(err)
		}
		events = append(events, e)
	}
	if err := pager.Err(); err != nil {
		c.t.Fatal(err)
	}
	return events
}

// await follows the stream, and the log before it, until an event is wanted.
func (c *chat) await(what string, wanted func(api.Event) bool) api.Event {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), run.Patience)
	defer cancel()
	stream := c.sdk.Beta.Sessions.Events.StreamEvents(ctx, c.id, anthropic.BetaSessionEventStreamParams{})
	defer stream.Close()
	for _, e := range c.log() {
		if wanted(e) {
			return e
		}
	}
	for stream.Next() {
		var e api.Event
		if err := json.Unmarshal([]byte(stream.Current().RawJSON()), &e); err != nil {
			c.t.Fatal(err)
		}
		if wanted(e) {
			return e
		}
	}
	c.t.Fatalf("never happened: %s (%v)\n%s", what, stream.Err(), c.story())
	return api.Event{}
}

func (c *chat) story() string {
	var lines []string
	for _, e := range c.log() {
		line := fmt.Sprintf("%s %s", e.Type, e.Name)
		for _, b := range e.Content {
			line += fmt.Sprintf(" %.100q", b.Text)
		}
		if e.StopReason != nil {
			line += " " + e.StopReason.Type
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// end waits for the nth end of a turn and returns the log, whose last event it is.
func (c *chat) end(n int) []api.Event {
	c.t.Helper()
	ends := map[string]bool{}
	last := c.await("the end of the turn", func(e api.Event) bool {
		if e.Type == api.EventSessionStatusIdle && e.StopReason.Type != api.StopRequiresAction {
			ends[e.ID] = true
		}
		return len(ends) == n
	})
	if last.StopReason.Type != api.StopEndTurn {
		c.t.Fatalf("the turn ended with %s\n%s", last.StopReason.Type, c.story())
	}
	log := c.log()
	if log[len(log)-1].ID != last.ID {
		c.t.Errorf("the end of the turn is not the last event\n%s", c.story())
	}
	return log
}

// results are the texts of tool results, in the order of their calls; each call
// must have exactly one.
func (c *chat) results(log []api.Event) (texts []string, failed []bool) {
	c.t.Helper()
	answers := map[string][]api.Event{}
	for _, e := range log {
		if id := e.ToolUseID + e.CustomToolUseID; strings.HasSuffix(string(e.Type), "tool_result") {
			answers[id] = append(answers[id], e)
		}
	}
	for _, e := range log {
		if e.Type != api.EventAgentToolUse && e.Type != api.EventAgentCustomToolUse {
			continue
		}
		if len(answers[e.ID]) != 1 {
			c.t.Errorf("call %s of %s has %d results", e.ID, e.Name, len(answers[e.ID]))
			continue
		}
		text := ""
		for _, b := range answers[e.ID][0].Content {
			text += b.Text
		}
		texts = append(texts, text)
		isError := answers[e.ID][0].IsError
		failed = append(failed, isError != nil && *isError)
	}
	return texts, failed
}

func (c *chat) expect(log []api.Event, wants ...string) {
	c.t.Helper()
	texts, _ := c.results(log)
	if len(texts) != len(wants) {
		c.t.Fatalf("%d results, want %d\n%s", len(texts), len(wants), c.story())
	}
	for i, want := range wants {
		if !strings.Contains(texts[i], want) {
			c.t.Errorf("result %d is %.200q, want %q in it", i, texts[i], want)
		}
	}
}

func sixTools(t *testing.T, s *site) {
	dir := strings.NewReplacer(" ", "-", "/", "-").Replace(t.Name())
	c := s.start(t, strings.ReplaceAll(`write DIR/a.txt hello brain
read DIR/a.txt
edit DIR/a.txt brain => hands
grep "hello hands" DIR
glob DIR/*.txt
$ cd DIR && export WHO=me && cat a.txt
$ echo "$WHO in $(basename "$PWD")"; exit_code() { return 3; }; exit_code`, "DIR", dir))
	wants := []string{"", "hello brain", "", "", "a.txt", "hello hands", "me in " + dir}
	if strings.Contains(t.Name(), "TypeScript") && !nodeGlobs() {
		t.Log("this Node has no fs.glob, which the official glob tool needs (Node 22 has): its result is not looked at")
		wants[4] = ""
	}
	c.expect(c.end(1), wants...)
}

func parallelCalls(t *testing.T, s *site) {
	c := s.start(t, "$ echo one\n&\n$ echo two\n&\n$ echo three\n$ echo four")
	log := c.end(1)
	c.expect(log, "one", "two", "three", "four")
	requests := 0
	for _, e := range log {
		if e.Type == api.EventModelRequestStart {
			requests++
		}
	}
	if requests != 3 {
		t.Errorf("%d model requests, want 3: the parallel turn, the next, the last word", requests)
	}
}

func customTool(t *testing.T, s *site) {
	weather := anthropic.BetaAgentNewParamsToolUnion{OfCustom: &anthropic.BetaManagedAgentsCustomToolParams{
		Type: anthropic.BetaManagedAgentsCustomToolParamsTypeCustom, Name: "weather", Description: "Says the weather.",
		InputSchema: anthropic.BetaManagedAgentsCustomToolInputSchemaParam{Properties: map[string]any{}},
	}}
	c := s.start(t, "$ echo before\ntool weather {\"city\":\"Bern\"}\n$ echo after", toolset(api.PolicyAlwaysAllow), weather)
	call := c.await("the custom call", func(e api.Event) bool { return e.Type == api.EventAgentCustomToolUse })
	c.send(anthropic.BetaManagedAgentsEventParamsUnion{OfUserCustomToolResult: &anthropic.BetaManagedAgentsUserCustomToolResultEventParams{
		Type: anthropic.BetaManagedAgentsUserCustomToolResultEventParamsTypeUserCustomToolResult, CustomToolUseID: call.ID,
		Content: []anthropic.BetaManagedAgentsUserCustomToolResultEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{Type: anthropic.BetaManagedAgentsTextBlockTypeText, Text: "sunny"}}},
	}})
	c.expect(c.end(1), "before", "sunny", "after")
}

func alwaysAsk(t *testing.T, s *site) {
	c := s.start(t, "$ echo allowed\n$ echo denied", toolset(api.PolicyAlwaysAsk))
	answer := func(result anthropic.BetaManagedAgentsUserToolConfirmationEventParamsResult, seen map[string]bool) string {
		call := c.await("a call that asks", func(e api.Event) bool {
			return e.Type == api.EventAgentToolUse && e.EvaluatedPermission == api.PermissionAsk && !seen[e.ID]
		})
		c.send(anthropic.BetaManagedAgentsEventParamsUnion{OfUserToolConfirmation: &anthropic.BetaManagedAgentsUserToolConfirmationEventParams{
			Type: anthropic.BetaManagedAgentsUserToolConfirmationEventParamsTypeUserToolConfirmation, ToolUseID: call.ID, Result: result,
		}})
		return call.ID
	}
	first := answer("allow", nil)
	answer("deny", map[string]bool{first: true})
	log := c.end(1)
	c.expect(log, "allowed", "denied this call")
	if _, failed := c.results(log); failed[0] || !failed[1] {
		t.Errorf("failed: %v", failed)
	}
}

func interrupt(t *testing.T, s *site) {
	c := s.start(t, "$ sleep 3; echo never\n$ echo never either")
	c.await("the call", func(e api.Event) bool { return e.Type == api.EventAgentToolUse })
	c.send(anthropic.BetaManagedAgentsEventParamsUnion{OfUserInterrupt: &anthropic.BetaManagedAgentsUserInterruptEventParams{Type: anthropic.BetaManagedAgentsUserInterruptEventParamsTypeUserInterrupt}})
	c.expect(c.end(1), "user interrupted")
	// Whatever the worker made of it, it is there for the next turn.
	c.say("$ echo on it goes")
	c.expect(c.end(2), "user interrupted", "on it goes")
}

func twoTurns(t *testing.T, s *site) {
	c := s.start(t, "$ echo one >count")
	c.end(1)
	c.say("$ cat count")
	log := c.end(2)
	texts, _ := c.results(log)
	if len(texts) != 2 || !strings.Contains(texts[1], "one") {
		t.Errorf("results %q\n%s", texts, c.story())
	}
}
