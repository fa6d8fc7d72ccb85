package loop

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/brain/model"
	"hearth/internal/brain/session"
)

// previews tells subscribers of a reply while it is being written. It is for
// one goroutine.
type previews struct {
	ctx      context.Context
	sessions *session.Store
	logID    string
	ids      map[int]string // of the events to come, by block
	pending  string         // text of block not yet sent
	block    int
	sent     time.Time
}

// previewEvery is how often the growth of a text is sent.
const previewEvery = 40 * time.Millisecond

func newPreviews(ctx context.Context, sessions *session.Store, logID string) *previews {
	return &previews{ctx: ctx, sessions: sessions, logID: logID, ids: map[int]string{}}
}

// previewed says as which event a type of block is logged, if it is previewed.
var previewed = map[string]api.EventType{
	model.BlockText:             api.EventAgentMessage,
	model.BlockThinking:         api.EventAgentThinking,
	model.BlockRedactedThinking: api.EventAgentThinking,
}

// on takes a piece of the reply.
func (p *previews) on(d model.Delta) {
	kind, ok := previewed[d.Type]
	if !ok {
		return
	}
	if d.Index != p.block {
		p.flush()
		p.block = d.Index
	}
	if d.Type == model.BlockText {
		p.pending += d.Text
	}
	if p.ids[d.Index] == "" {
		if d.Type == model.BlockText && blank(p.pending) {
			return // it may stay so, and is then not logged
		}
		p.ids[d.Index] = api.NewID(api.PrefixEvent)
		p.sessions.Preview(p.ctx, p.logID, api.StartPreview{Type: api.EventStart, Event: api.PreviewEvent{ID: p.ids[d.Index], Type: kind}})
	}
	// Thinking is announced, not shown: nothing is ever pending of it.
	if time.Since(p.sent) >= previewEvery {
		p.flush()
	}
}

func (p *previews) flush() {
	if p.pending == "" || p.ids[p.block] == "" {
		p.pending = ""
		return
	}
	p.sessions.Preview(p.ctx, p.logID, api.DeltaPreview{
		Type: api.EventDelta, EventID: p.ids[p.block],
		Delta: api.ContentDelta{Type: "content_delta", Content: api.TextBlock(p.pending)},
	})
	p.pending, p.sent = "", time.Now()
}

// completion is what the session logs of a reply.
func completion(reply model.Reply, preview *previews, tools toolset) session.Completion {
	c := session.Completion{Usage: reply.Usage}
	open := false
	for i, b := range reply.Blocks {
		if b.Type != model.BlockToolUse {
			c.Drafts = append(c.Drafts, spoken(b, preview.ids[i])...)
			continue
		}
		drafts := tools.call(b)
		open = open || drafts[0].Call != nil
		c.Drafts = append(c.Drafts, drafts...)
		c.Continue = true // should all calls have been answered already
	}
	switch reply.StopReason {
	case model.StopRefusal:
		c.Stop, c.Continue = api.StopRefusal, false
		if c.StopDetails = reply.Refusal; c.StopDetails == nil {
			c.StopDetails = &api.RefusalDetails{Type: "refusal"}
		}
	case model.StopPauseTurn:
		c.Continue = true
	}
	c.Continue = c.Continue && !open
	return c
}

// spoken is what is logged of a block of text or thinking.
func spoken(b model.Block, id string) []session.Draft {
	kind, ok := previewed[b.Type]
	if !ok {
		return nil
	}
	head := api.EventHead{ID: id, Type: kind}
	if kind == api.EventAgentThinking {
		raw, err := json.Marshal(b)
		if err != nil {
			return nil
		}
		return []session.Draft{{Event: &api.MarkerEvent{EventHead: head}, Private: raw}}
	}
	if blank(b.Text) {
		return nil
	}
	return []session.Draft{{Event: &api.ContentEvent{EventHead: head, Content: []api.Block{api.TextBlock(b.Text)}}}}
}

func blank(text string) bool { return strings.TrimSpace(text) == "" }

// partial is what is logged of a reply that was broken off: its text. Thinking
// without its signature and calls without their end are of no use.
func partial(reply model.Reply, preview *previews) []session.Draft {
	var drafts []session.Draft
	for i, b := range reply.Blocks {
		if b.Type == model.BlockText {
			drafts = append(drafts, spoken(b, preview.ids[i])...)
		}
	}
	return drafts
}

// call is what is logged of a tool call: the call and, for one that must not
// run, its answer.
func (t toolset) call(b model.Block) []session.Draft {
	input := b.Input
	if len(bytes.TrimSpace(input)) == 0 {
		input = json.RawMessage("{}")
	}
	var object map[string]json.RawMessage
	whole := json.Unmarshal(input, &object) == nil && object != nil
	if t.custom[b.Name] && whole {
		return []session.Draft{{
			Event: &api.CustomToolUseEvent{EventHead: api.EventHead{Type: api.EventAgentCustomToolUse}, Name: b.Name, Input: input},
			Call:  &session.Call{Kind: session.CallCustom, Name: b.Name, Permission: api.PermissionAllow},
		}}
	}
	event := &api.ToolUseEvent{EventHead: api.EventHead{ID: api.NewID(api.PrefixEvent), Type: api.EventAgentToolUse}, Name: b.Name, Input: input}
	if act := t.cast[b.Name]; act != nil && whole {
		event.EvaluatedPermission, event.Evaluation = api.PermissionAllow, &api.Evaluation{Type: api.PolicyAlwaysAllow}
		return []session.Draft{{Event: event, Act: func(c session.Cast) (string, bool, error) { return act(c, input) }}}
	}
	policy, known := t.policies[b.Name]
	reason := "There is no tool called " + b.Name + "."
	if !whole {
		known, reason = false, "The call did not run: its input is not a whole JSON object. It may have been cut off for its length."
		event.Input = json.RawMessage("{}")
	}
	if !known {
		event.EvaluatedPermission = api.PermissionDeny
		return []session.Draft{{Event: event}, {Event: refusal(event.ID, reason)}}
	}
	event.EvaluatedPermission, event.Evaluation = evaluate(policy)
	return []session.Draft{{Event: event, Call: &session.Call{Kind: session.CallHands, Name: b.Name, Permission: event.EvaluatedPermission}}}
}

func refusal(callID, reason string) *api.ToolResultEvent {
	failed := true
	return &api.ToolResultEvent{
		EventHead: api.EventHead{Type: api.EventAgentToolResult}, ToolUseID: callID,
		Content: []api.Block{api.TextBlock(reason)}, IsError: &failed,
	}
}

// evaluate is the permission a policy gives a call. There is no judge for the
// auto policy here, so a person is asked.
func evaluate(policy string) (string, *api.Evaluation) {
	switch policy {
	case api.PolicyAlwaysAllow:
		return api.PermissionAllow, &api.Evaluation{Type: policy}
	case api.PolicyAuto:
		return api.PermissionAsk, &api.Evaluation{Type: policy, EvaluatedPermission: &api.AutoPermission{Type: api.PermissionAsk, ReasonCode: "no_judge"}}
	}
	return api.PermissionAsk, &api.Evaluation{Type: api.PolicyAlwaysAsk}
}
