package loop_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/session"
	"hearth/test/fakemodel"
)

func TestPlainReply(t *testing.T) {
	each(t, func(b *brain) {
		gate := fakemodel.NewGate()
		b.model.Play(fakemodel.Say("Good day to you.").HoldAfter(2, gate))
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAllow))
		c.send(message("hello"))
		begun := c.previewed(func(p preview) bool { return p.Type == api.EventStart })
		grown := c.previewed(func(p preview) bool { return p.Type == api.EventDelta })
		gate.Open()
		c.wantStop(api.StopEndTurn)

		want := []api.EventType{
			api.EventUserMessage, api.EventSessionStatusRunning, api.EventThreadStatusRunning,
			api.EventModelRequestStart, api.EventAgentMessage, api.EventModelRequestEnd,
			api.EventThreadStatusIdle, api.EventSessionUsage, api.EventSessionStatusIdle,
		}
		if !slices.Equal(c.types(), want) {
			b.t.Errorf("events are\n%v, want\n%v", c.types(), want)
		}
		if c.said() != "Good day to you." {
			b.t.Errorf("the agent said %q", c.said())
		}
		id := c.of(api.EventAgentMessage)[0].ID
		if begun.Event.ID != id || begun.Event.Type != api.EventAgentMessage || grown.EventID != id || !strings.HasPrefix(c.said(), grown.Delta.Content.Text) {
			b.t.Errorf("previews %+v and %+v do not announce event %s", begun, grown, id)
		}
		r := b.request()
		if r.LastText() != "hello" || r.Model != "test-model" {
			b.t.Errorf("model %q was asked %q", r.Model, r.LastText())
		}
		if system := r.System[0].Text; !strings.Contains(system, "/workspace") || !strings.Contains(system, "Speak plainly.") {
			b.t.Errorf("system prompt: %q", system)
		}
		if !slices.Equal(r.ToolNames(), []string{"bash", "read", "write", "edit", "glob", "grep"}) {
			b.t.Errorf("tools offered: %v", r.ToolNames())
		}
		end := c.of(api.EventModelRequestEnd)[0]
		if end.ModelRequestStartID != c.of(api.EventModelRequestStart)[0].ID || end.ModelUsage.InputTokens != int64(r.Usage().Input) || end.ModelUsage.OutputTokens == 0 {
			b.t.Errorf("span ended with %+v, charged %+v", end.ModelUsage, r.Usage())
		}
		if usage := c.of(api.EventSessionUsage)[0].Usage; usage.InputTokens != end.ModelUsage.InputTokens || usage.OutputTokens != end.ModelUsage.OutputTokens {
			b.t.Errorf("session usage %+v after one request of %+v", usage, end.ModelUsage)
		}
	})
}

// TestTheModelIsToldOfItsMemories: where they are, what for, and what it may do.
func TestTheModelIsToldOfItsMemories(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Say("Good day."))
		b.run()
		raws := []json.RawMessage{}
		instructions := "Ask before you change who.md."
		for _, r := range []api.MemoryResource{
			{Name: "Team notes", Description: "Who knows what.", MountPath: "/mnt/memory/team-notes", Access: api.MemoryReadWrite, Instructions: &instructions},
			{Name: "Rules", MountPath: "/mnt/memory/rules", Access: api.MemoryReadOnly},
		} {
			r.Type = api.ResourceMemory
			raw, err := json.Marshal(r)
			if err != nil {
				b.t.Fatal(err)
			}
			raws = append(raws, raw)
		}
		c := b.talkWith(raws, builtIn(api.PolicyAlwaysAllow))
		c.send(message("hello"))
		c.wantStop(api.StopEndTurn)
		var lines []string
		for line := range strings.Lines(b.request().System[0].Text) {
			if strings.HasPrefix(line, "- /mnt/memory/") {
				lines = append(lines, line)
			}
		}
		if len(lines) != 2 {
			b.t.Fatalf("of its memories the model is told %q", lines)
		}
		for i, want := range [][]string{{"/mnt/memory/team-notes", `"Team notes"`, "keep there", "Who knows what.", instructions}, {"/mnt/memory/rules", `"Rules"`, "not kept"}} {
			for _, part := range want {
				if !strings.Contains(lines[i], part) {
					b.t.Errorf("%q lacks %q", lines[i], part)
				}
			}
		}
	})
}

// TestToolsEndToEnd carries thinking and parallel calls, answered one after the
// other, through to the end of the turn.
func TestToolsEndToEnd(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(
			fakemodel.Reply(
				fakemodel.Thinking("look first"), fakemodel.RedactedThinking("hidden"), fakemodel.Text("Looking."),
				fakemodel.ToolUse(api.ToolBash, map[string]any{"command": "ls"}), fakemodel.ToolUse(api.ToolRead, map[string]any{"file_path": "a"}),
			),
			fakemodel.Say("Done."),
		)
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAllow))
		c.send(message("go"))
		open := c.wantStop(api.StopRequiresAction).EventIDs
		calls := c.of(api.EventAgentToolUse)
		if len(calls) != 2 || !slices.Equal(open, []string{calls[0].ID, calls[1].ID}) || calls[0].EvaluatedPermission != api.PermissionAllow {
			b.t.Fatalf("calls %+v, waiting for %v", calls, open)
		}
		if string(calls[0].Input) != `{"command":"ls"}` || len(c.of(api.EventAgentThinking)) != 2 {
			b.t.Errorf("input %s, events %v", calls[0].Input, c.types())
		}
		c.send(result(open[1], "second"))
		if left := c.wantStop(api.StopRequiresAction).EventIDs; !slices.Equal(left, open[:1]) {
			b.t.Errorf("waiting for %v, want %v", left, open[:1])
		}
		failed := result(open[0], "first")
		failed["is_error"] = true
		c.send(failed)
		c.wantStop(api.StopEndTurn)
		if c.said() != "Looking.|Done." {
			b.t.Errorf("the agent said %q", c.said())
		}
		b.request()
		second := b.request()
		results := second.ToolResults()
		if first := results[open[0]]; !first.IsError || first.ResultText() != "first" || results[open[1]].IsError || results[open[1]].ResultText() != "second" {
			b.t.Errorf("results sent to the model: %+v", results)
		}
		if reply := second.Messages[1].Content; reply[0].Thinking != "look first" || reply[1].Type != "redacted_thinking" || reply[2].Text != "Looking." {
			b.t.Errorf("the model's own reply came back as %+v", reply)
		}
	})
}

func TestCustomTool(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Call("weather", map[string]any{"city": "Bergen"}), fakemodel.Say("Rain."))
		b.run()
		c := b.talk(api.Tool{Type: api.ToolTypeCustom, Name: "weather", Description: "tells the weather", InputSchema: []byte(`{"type":"object","properties":{"city":{"type":"string"}}}`)})
		c.send(message("weather?"))
		open := c.wantStop(api.StopRequiresAction).EventIDs
		call := c.of(api.EventAgentCustomToolUse)[0]
		if call.Name != "weather" || string(call.Input) != `{"city":"Bergen"}` || !slices.Equal(open, []string{call.ID}) {
			b.t.Errorf("call %+v, waiting for %v", call, open)
		}
		c.send(map[string]any{"type": "user.custom_tool_result", "custom_tool_use_id": call.ID, "content": text("rain")})
		c.wantStop(api.StopEndTurn)
		first, second := b.request(), b.request()
		if !slices.Equal(first.ToolNames(), []string{"weather"}) || second.ToolResults()[call.ID].ResultText() != "rain" {
			b.t.Errorf("tools %v, results %+v", first.ToolNames(), second.ToolResults())
		}
	})
}

func TestConfirmation(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(
			fakemodel.Reply(fakemodel.ToolUse(api.ToolBash, map[string]any{"command": "one"}), fakemodel.ToolUse(api.ToolBash, map[string]any{"command": "two"})),
			fakemodel.Say("As you wish."),
		)
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAsk))
		c.send(message("go"))
		open := c.wantStop(api.StopRequiresAction).EventIDs
		for _, call := range c.of(api.EventAgentToolUse) {
			if call.EvaluatedPermission != api.PermissionAsk {
				b.t.Errorf("call evaluated as %q", call.EvaluatedPermission)
			}
		}
		if _, err := c.trySend(result(open[0], "too early")); err == nil {
			b.t.Error("a call was answered before it was confirmed")
		}
		confirm := func(id, how string) map[string]any {
			return map[string]any{"type": "user.tool_confirmation", "tool_use_id": id, "result": how}
		}
		denial := confirm(open[1], "deny")
		denial["deny_message"] = "not on a Friday"
		c.send(denial)
		c.wantStop(api.StopRequiresAction)
		c.send(confirm(open[0], "allow"))
		c.send(result(open[0], "done one"))
		c.wantStop(api.StopEndTurn)
		b.request()
		results := b.request().ToolResults()
		if results[open[0]].ResultText() != "done one" || !results[open[1]].IsError || !strings.Contains(results[open[1]].ResultText(), "not on a Friday") {
			b.t.Errorf("results sent to the model: %+v", results)
		}
	})
}

// TestPolicies: a tool that is switched off is not offered and is refused when
// called all the same, as is one that does not exist; auto asks a person.
func TestPolicies(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(
			fakemodel.Reply(fakemodel.ToolUse(api.ToolGrep, map[string]any{"pattern": "x"}), fakemodel.ToolUse("teleport", map[string]any{})),
			fakemodel.Call(api.ToolBash, map[string]any{"command": "ls"}),
		)
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAllow,
			api.ToolConfig{Name: api.ToolGrep, Enabled: false, PermissionPolicy: api.PermissionPolicy{Type: api.PolicyAlwaysAllow}},
			api.ToolConfig{Name: api.ToolBash, Enabled: true, PermissionPolicy: api.PermissionPolicy{Type: api.PolicyAuto}},
		))
		c.send(message("go"))
		open := c.wantStop(api.StopRequiresAction).EventIDs
		calls := c.of(api.EventAgentToolUse)
		var permissions []string
		for _, call := range calls {
			permissions = append(permissions, call.EvaluatedPermission)
		}
		if !slices.Equal(permissions, []string{api.PermissionDeny, api.PermissionDeny, api.PermissionAsk}) || !slices.Equal(open, []string{calls[2].ID}) {
			b.t.Errorf("permissions %v, waiting for %v", permissions, open)
		}
		first, second := b.request(), b.request()
		if slices.Contains(first.ToolNames(), api.ToolGrep) || !slices.Contains(first.ToolNames(), api.ToolBash) {
			b.t.Errorf("tools offered: %v", first.ToolNames())
		}
		for _, call := range calls[:2] {
			if r := second.ToolResults()[call.ID]; !r.IsError || !strings.Contains(r.ResultText(), call.Name) {
				b.t.Errorf("the refused call of %s was answered with %+v", call.Name, r)
			}
		}
	})
}

func TestInterruptWhileStreaming(t *testing.T) {
	each(t, func(b *brain) {
		gate := fakemodel.NewGate()
		b.model.Play(fakemodel.Say("one two three four").HoldAfter(2, gate), fakemodel.Say("Fine."))
		b.run()
		c := b.talk()
		c.send(message("count"))
		c.previewed(func(p preview) bool { return p.Type == api.EventDelta })
		c.send(interrupt())
		b.await("the model request to be dropped", gate.Gone())
		c.wantStop(api.StopEndTurn)
		partial := c.said()
		if partial == "" || partial == "one two three four" || !strings.HasPrefix("one two three four", partial) {
			b.t.Errorf("kept of the reply: %q", partial)
		}
		if len(c.of(api.EventUserInterrupt)) != 1 || len(c.of(api.EventModelRequestEnd)) != 1 {
			b.t.Errorf("events: %v", c.types())
		}
		c.send(message("stop it"))
		c.wantStop(api.StopEndTurn)
		b.request()
		if second := b.request(); second.LastText() != "stop it" || second.Messages[1].Content[0].Text != partial {
			b.t.Errorf("the model was shown %+v", second.Messages)
		}
	})
}

func TestInterruptWhileWaiting(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Call(api.ToolBash, map[string]any{"command": "sleep 1000"}), fakemodel.Say("Stopped."))
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAllow))
		c.send(message("go"))
		call := c.wantStop(api.StopRequiresAction).EventIDs[0]
		c.send(interrupt(), message("never mind"))
		// It goes idle twice: for the interrupt, and after the new turn.
		c.next("the new turn's end", func(e api.Event) bool { return e.Type == api.EventSessionStatusIdle && c.said() != "" })
		if _, err := c.trySend(result(call, "late")); err == nil {
			b.t.Error("an interrupted call still took a result")
		}
		b.request()
		second := b.request()
		if r := second.ToolResults()[call]; !r.IsError || !strings.Contains(r.ResultText(), "interrupted") || second.LastText() != "never mind" {
			b.t.Errorf("the model was shown %+v and %q", r, second.LastText())
		}
	})
}

func TestInterruptBetweenTries(t *testing.T) {
	each(t, func(b *brain) {
		b.cfg.Backoff = time.Hour
		b.model.Play(fakemodel.Fail(529, "busy"))
		b.run()
		c := b.talk()
		c.send(message("hello"))
		c.next("a reschedule", func(e api.Event) bool { return e.Type == api.EventSessionStatusRescheduled })
		c.send(interrupt())
		c.wantStop(api.StopEndTurn)
	})
}

// TestMessageQueuedMidTurn: it is taken up in the same turn, after the reply
// that was being written.
func TestMessageQueuedMidTurn(t *testing.T) {
	each(t, func(b *brain) {
		gate := fakemodel.NewGate()
		b.model.Play(fakemodel.Say("First answer.").HoldAfter(1, gate), fakemodel.Say("Second answer."))
		b.run()
		c := b.talk()
		c.send(message("first"))
		b.await("the first reply", gate.Reached())
		c.send(message("second"))
		gate.Open()
		c.wantStop(api.StopEndTurn)
		if c.said() != "First answer.|Second answer." || len(c.of(api.EventUserMessage)) != 2 {
			b.t.Errorf("the agent said %q; events %v", c.said(), c.types())
		}
		b.request()
		if second := b.request(); second.LastText() != "second" || len(second.Messages) != 3 {
			b.t.Errorf("the model was shown %+v", second.Messages)
		}
	})
}

func TestMessageWaitsForOpenCalls(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Call(api.ToolBash, map[string]any{"command": "ls"}), fakemodel.Say("Both seen."))
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAllow))
		c.send(message("go"))
		call := c.wantStop(api.StopRequiresAction).EventIDs[0]
		c.send(message("one more thing"))
		c.send(result(call, "files"))
		c.wantStop(api.StopEndTurn)
		b.request()
		if second := b.request(); second.ToolResults()[call].ResultText() != "files" || second.LastText() != "one more thing" {
			b.t.Errorf("the model was shown %+v", second.Messages)
		}
	})
}

func TestRetriesThenSuccess(t *testing.T) {
	each(t, func(b *brain) {
		whole := fakemodel.Say("At last.")
		b.model.Play(fakemodel.Fail(529, "busy"), fakemodel.Fail(429, "slow down"), whole.CutAfter(1), whole.ErrorAfter(1, "overloaded_error", "busy"), whole)
		b.run()
		c := b.talk()
		c.send(message("hello"))
		c.wantStop(api.StopEndTurn)
		var kinds []string
		for _, e := range c.of(api.EventSessionError) {
			kinds = append(kinds, e.Error.Type)
			if e.Error.RetryStatus.Type != api.RetryRetrying {
				b.t.Errorf("retry status %s of %s", e.Error.RetryStatus.Type, e.Error.Type)
			}
		}
		want := []string{api.SessionErrorModelOverloaded, api.SessionErrorModelRateLimited, api.SessionErrorModelRequestFailed, api.SessionErrorModelOverloaded}
		if !slices.Equal(kinds, want) {
			b.t.Errorf("errors %v, want %v", kinds, want)
		}
		if n := len(c.of(api.EventSessionStatusRescheduled)); n != len(want) || c.said() != "At last." {
			b.t.Errorf("rescheduled %d times; the agent said %q", n, c.said())
		}
		if starts, ends := len(c.of(api.EventModelRequestStart)), len(c.of(api.EventModelRequestEnd)); starts != 5 || ends != 5 {
			b.t.Errorf("%d requests started, %d ended, want 5", starts, ends)
		}
	})
}

func TestRetriesAreExhausted(t *testing.T) {
	each(t, func(b *brain) {
		b.cfg.MaxAttempts = 3
		b.model.Play(fakemodel.Fail(500, "oops"), fakemodel.Fail(500, "oops"), fakemodel.Fail(500, "oops"), fakemodel.Say("Back again."))
		b.run()
		c := b.talk()
		c.send(message("hello"))
		c.wantStop(api.StopRetriesExhausted)
		var statuses []string
		for _, e := range c.of(api.EventSessionError) {
			statuses = append(statuses, e.Error.RetryStatus.Type)
		}
		if !slices.Equal(statuses, []string{api.RetryRetrying, api.RetryRetrying, api.RetryExhausted}) {
			b.t.Errorf("retry statuses %v", statuses)
		}
		c.send(message("and now?"))
		c.wantStop(api.StopEndTurn)
		if c.said() != "Back again." {
			b.t.Errorf("the agent said %q", c.said())
		}
	})
}

func TestRefusedCredentialIsNotRetried(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Fail(401, "invalid x-api-key"))
		b.run()
		c := b.talk()
		c.send(message("hello"))
		c.wantStop(api.StopRetriesExhausted)
		errs := c.of(api.EventSessionError)
		if len(errs) != 1 || errs[0].Error.RetryStatus.Type != api.RetryExhausted || !strings.Contains(errs[0].Error.Message, "credential") {
			b.t.Errorf("errors: %+v", errs)
		}
	})
}

func TestStopReasonsOfTheModel(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(
			fakemodel.Say("Cut").Stopping("max_tokens"),
			fakemodel.Say("Wait.").Stopping("pause_turn"), fakemodel.Say("Here."),
			fakemodel.Say("I cannot.").Refusing("cyber", "not this"),
		)
		b.run()
		c := b.talk()
		for _, want := range []string{api.StopEndTurn, api.StopEndTurn, api.StopRefusal} {
			c.send(message("go"))
			c.wantStop(want)
		}
		if c.said() != "Cut|Wait.|Here.|I cannot." {
			b.t.Errorf("the agent said %q", c.said())
		}
	})
}

// TestShutdownHandsOver: a loop that ends lets go of its request at once, and
// another makes it anew.
func TestShutdownHandsOver(t *testing.T) {
	each(t, func(b *brain) {
		gate := fakemodel.NewGate()
		b.model.Play(fakemodel.Say("Never finished.").HoldAfter(1, gate), fakemodel.Say("Finished."))
		stop := b.run()
		c := b.talk()
		c.send(message("hello"))
		b.await("the first request", gate.Reached())
		stop()
		b.await("the first request to be dropped", gate.Gone())
		b.run()
		c.wantStop(api.StopEndTurn)
		if c.said() != "Finished." {
			b.t.Errorf("the agent said %q", c.said())
		}
		if starts, ends := len(c.of(api.EventModelRequestStart)), len(c.of(api.EventModelRequestEnd)); starts != 2 || ends != 2 {
			b.t.Errorf("%d requests started, %d ended, want 2", starts, ends)
		}
	})
}

// TestCrashIsTakenOver: a server that dies in the middle of a request is
// followed by another once its lease has lapsed, and cannot write any more.
func TestCrashIsTakenOver(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Say("Taken over."))
		c := b.talk()
		c.send(message("hello"))
		dead, err := b.sessions.Claim(b.ctx)
		if err != nil || dead == nil {
			b.t.Fatalf("claim: %v, %v", dead, err)
		}
		if _, _, err := dead.BeginRequest(b.ctx); err != nil {
			b.t.Fatal(err)
		}
		b.run()
		c.wantStop(api.StopEndTurn)
		if err := dead.CompleteRequest(b.ctx, session.Completion{}); !errors.Is(err, session.ErrStale) {
			b.t.Errorf("the dead run could write: %v", err)
		}
		ends := c.of(api.EventModelRequestEnd)
		if c.said() != "Taken over." || len(ends) != 2 || !*ends[0].IsError || *ends[1].IsError {
			b.t.Errorf("the agent said %q; ends %+v", c.said(), ends)
		}
	})
}

// TestLeaseIsKeptWhileTheModelThinks: a request longer than a run's lease is
// not taken over by a second server.
func TestLeaseIsKeptWhileTheModelThinks(t *testing.T) {
	each(t, func(b *brain) {
		gate := fakemodel.NewGate()
		b.model.Play(fakemodel.Say("Slow but sure.").HoldAfter(1, gate))
		b.run()
		b.run()
		c := b.talk()
		c.send(message("hello"))
		b.await("the request", gate.Reached())
		// The lease lasts two seconds; what is waited for here is its end.
		select {
		case <-gate.Gone():
		case <-time.After(2500 * time.Millisecond):
		}
		gate.Open()
		c.wantStop(api.StopEndTurn)
		if n := len(c.of(api.EventModelRequestStart)); n != 1 {
			b.t.Errorf("%d requests were made, want 1", n)
		}
	})
}

func TestPoisonedSessionStopsOnce(t *testing.T) {
	each(t, func(b *brain) {
		b.cfg.Adapter = panicking{}
		b.run()
		c := b.talk()
		c.send(message("hello"))
		c.wantStop(api.StopRetriesExhausted)
		errs := c.of(api.EventSessionError)
		if len(errs) != 1 || errs[0].Error.RetryStatus.Type != api.RetryExhausted || strings.Contains(errs[0].Error.Message, "mistake") {
			b.t.Errorf("errors: %+v", errs)
		}
		due, err := b.sessions.NextDue(b.ctx)
		if err != nil || !due.IsZero() {
			b.t.Errorf("the session is due again at %v (%v)", due, err)
		}
	})
}

// TestManySessionsFewSlots: two loops of two slots each serve many sessions,
// each once.
func TestManySessionsFewSlots(t *testing.T) {
	each(t, func(b *brain) {
		b.cfg.Concurrency = 2
		b.model.Respond(func(r *fakemodel.Request) fakemodel.Turn { return fakemodel.Say("echo " + r.LastText()) })
		var talks []*talk
		for i := range 12 {
			c := b.talk()
			c.send(message(fmt.Sprint(i)))
			talks = append(talks, c)
		}
		b.run()
		b.run()
		for i, c := range talks {
			c.wantStop(api.StopEndTurn)
			if c.said() != fmt.Sprintf("echo %d", i) {
				b.t.Errorf("session %d: the agent said %q", i, c.said())
			}
		}
		if n := len(b.model.Requests()); n != len(talks) {
			b.t.Errorf("%d requests for %d sessions", n, len(talks))
		}
	})
}

// TestSystemMessageReachesTheModel after the message it accompanies.
func TestSystemMessageReachesTheModel(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Say("Understood."))
		b.run()
		c := b.talk()
		c.send(message("hello"), map[string]any{"type": "system.message", "content": text("It is Friday.")})
		c.wantStop(api.StopEndTurn)
		if shown := b.request().LastText(); !strings.HasPrefix(shown, "hello") || !strings.Contains(shown, "It is Friday.") {
			b.t.Errorf("the model was shown %q", shown)
		}
	})
}

// TestIdleLoopEndsAtOnce: waiting for work must not keep a server from ending.
func TestIdleLoopEndsAtOnce(t *testing.T) {
	each(t, func(b *brain) {
		stop := b.run()
		ended := make(chan struct{})
		go func() { stop(); close(ended) }()
		ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
		defer cancel()
		select {
		case <-ended:
		case <-ctx.Done():
			b.t.Fatal("the loop did not end")
		}
	})
}
