package loop_test

import (
	"encoding/json"
	"strings"
	"testing"

	"hearth/api"
	"hearth/internal/brain/model/rehearsal"
	"hearth/internal/brain/session"
	"hearth/test/fakemodel"
)

// These conversations hold what a model, a tool or a person may well say and
// the Messages API refuses to be told again as it stands. The fake model refuses
// it too, and fails the test when it has to.

func TestBlankTextBeforeACall(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Reply(fakemodel.Text("\n\n"), fakemodel.ToolUse(api.ToolBash, map[string]any{"command": "ls"})), fakemodel.Say("Done."))
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAllow))
		c.send(message("go"))
		c.send(result(c.wantStop(api.StopRequiresAction).EventIDs[0], "files"))
		c.wantStop(api.StopEndTurn)
	})
}

func TestThinkingWithoutText(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Reply(fakemodel.Thinking(""), fakemodel.ToolUse(api.ToolBash, map[string]any{"command": "ls"})), fakemodel.Say("Done."))
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAllow))
		c.send(message("go"))
		c.send(result(c.wantStop(api.StopRequiresAction).EventIDs[0], "files"))
		c.wantStop(api.StopEndTurn)
	})
}

func TestNothingButThinking(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Reply(fakemodel.Thinking("too long")).Stopping("max_tokens"), fakemodel.Say("Done."))
		b.run()
		c := b.talk()
		for range 2 {
			c.send(message("go"))
			c.wantStop(api.StopEndTurn)
		}
	})
}

func TestPauseAfterBlank(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Say("Wait a moment \n").Stopping("pause_turn"), fakemodel.Say("Done."))
		b.run()
		c := b.talk()
		c.send(message("go"))
		c.wantStop(api.StopEndTurn)
	})
}

func TestFailedCallWithAnImage(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Call(api.ToolBash, map[string]any{"command": "ls"}), fakemodel.Say("Done."))
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAllow))
		c.send(message("go"))
		call := c.wantStop(api.StopRequiresAction).EventIDs[0]
		failed := result(call, "see the picture")
		failed["is_error"] = true
		failed["content"] = append(text("see the picture"), map[string]any{"type": "image", "source": map[string]any{"type": "base64", "media_type": "image/png", "data": "QUJD"}})
		c.send(failed)
		c.wantStop(api.StopEndTurn)
		b.request()
		if r := b.request().ToolResults()[call]; !strings.Contains(r.ResultText(), "see the picture") {
			b.t.Errorf("the model was shown %+v", r)
		}
	})
}

// TestBlocksThatNoModelTakes: a block is in every request from then on, so one that
// the model refuses would be the end of the session.
func TestBlocksThatNoModelTakes(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Respond(func(*fakemodel.Request) fakemodel.Turn { return fakemodel.Say("Yes?") })
		b.run()
		c := b.talk()
		for name, block := range map[string]string{
			"image/bmp":          `{"type":"image","source":{"type":"base64","media_type":"image/bmp","data":"QUJD"}}`,
			"no base64":          `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"data:image/png;base64,QUJD"}}`,
			"an image as text":   `{"type":"image","source":{"type":"text","media_type":"text/plain","data":"x"}}`,
			"over http":          `{"type":"image","source":{"type":"url","url":"http://pictures.example/a.png"}}`,
			"a picture as PDF":   `{"type":"document","source":{"type":"base64","media_type":"image/png","data":"QUJD"}}`,
			"HTML":               `{"type":"document","source":{"type":"text","media_type":"text/html","data":"x"}}`,
			"a title of numbers": `{"type":"document","title":7,"source":{"type":"text","media_type":"text/plain","data":"x"}}`,
			"fields of others":   `{"type":"text","text":"hello","title":"x","source":{"type":"url"},"context":"y"}`,
			"more in the source": `{"type":"document","context":null,"source":{"type":"text","media_type":"text/plain","data":"x","url":"y"}}`,
		} {
			if _, err := c.trySend(map[string]any{"type": "user.message", "content": []json.RawMessage{json.RawMessage(block)}}); err != nil {
				if !strings.Contains(err.Error(), "events[0].content[0].") {
					b.t.Errorf("%s: %v", name, err)
				}
				continue // refusing it is as good
			}
			if c.wantStop(api.StopEndTurn); b.t.Failed() {
				b.t.Fatalf("%s was taken, and the model refused it", name)
			}
		}
	})
}

// TestResultsThatNoModelTakes: the same of the results of searches.
func TestResultsThatNoModelTakes(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Call("ask", map[string]any{}), fakemodel.Say("Done."))
		b.run()
		c := b.talk(api.Tool{Type: api.ToolTypeCustom, Name: "ask", Description: "asks", InputSchema: json.RawMessage(`{"type":"object"}`)})
		c.send(message("go"))
		call := c.wantStop(api.StopRequiresAction).EventIDs[0]
		answer := func(block string) map[string]any {
			return map[string]any{"type": "user.custom_tool_result", "custom_tool_use_id": call, "content": []json.RawMessage{json.RawMessage(block)}}
		}
		for _, block := range []string{
			`{"type":"search_result"}`,
			`{"type":"search_result","source":"s","title":null,"content":[{"type":"text","text":"x"}]}`,
			`{"type":"search_result","source":"s","title":"t","content":[]}`,
			`{"type":"search_result","source":"s","title":"t","content":[{"type":"image","text":"x"}]}`,
			`{"type":"search_result","source":{"type":"url"},"title":"t","content":[{"type":"text","text":"x"}]}`,
		} {
			if _, err := c.trySend(answer(block)); err == nil || !strings.Contains(err.Error(), "events[0].content[0].") {
				b.t.Errorf("%s: %v", block, err)
			}
		}
		c.send(answer(`{"type":"search_result","source":"s","title":"t","content":[{"type":"text","text":"x"}],"citations":{"enabled":false}}`))
		c.wantStop(api.StopEndTurn)
	})
}

func TestBlankMessage(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Respond(func(*fakemodel.Request) fakemodel.Turn { return fakemodel.Say("Yes?") })
		b.run()
		c := b.talk()
		if _, err := c.trySend(message(" \n")); err != nil {
			return // refusing it is as good
		}
		c.wantStop(api.StopEndTurn)
	})
}

// TestCallCutOff: a call whose input the model had no room to finish must not
// run with another input than it was writing.
func TestCallCutOff(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(
			fakemodel.Reply(fakemodel.ToolUse(api.ToolWrite, json.RawMessage(`{"file_path":"a.txt","content":"half of`))).Stopping("max_tokens"),
			fakemodel.Say("Once more, shorter."),
		)
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAllow))
		c.send(message("go"))
		c.wantStop(api.StopEndTurn)
	})
}

func TestRefusalDetailsAreKept(t *testing.T) {
	each(t, func(b *brain) {
		b.model.Play(fakemodel.Say("I cannot.").Refusing("cyber", "not this"))
		b.run()
		c := b.talk()
		c.send(message("go"))
		c.wantStop(api.StopRefusal)
		events, _, err := b.sessions.Events(b.ctx, c.id, eventsOf(api.EventSessionStatusIdle))
		if err != nil {
			b.t.Fatal(err)
		}
		if idle := string(events[0].JSON); !strings.Contains(idle, `"category":"cyber"`) || !strings.Contains(idle, `"explanation":"not this"`) {
			b.t.Errorf("idle event: %s", idle)
		}
	})
}

func eventsOf(kind api.EventType) session.EventFilter {
	return session.EventFilter{Types: []api.EventType{kind}, Limit: 10}
}

// TestRehearsalHearsThePerson and not the system message that accompanies them.
func TestRehearsalHearsThePerson(t *testing.T) {
	each(t, func(b *brain) {
		b.cfg.Adapter = rehearsal.New()
		b.run()
		c := b.talk(builtIn(api.PolicyAlwaysAllow))
		c.send(message("$ ls"), map[string]any{"type": "system.message", "content": text("It is Friday.")})
		c.send(result(c.wantStop(api.StopRequiresAction).EventIDs[0], "files"), map[string]any{"type": "system.message", "content": text("It is Saturday.")})
		c.wantStop(api.StopEndTurn)
		if !strings.Contains(c.said(), "1 call") {
			b.t.Errorf("the agent said %q", c.said())
		}
	})
}
