package loop

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode"

	"hearth/api"
	"hearth/internal/brain/model"
	"hearth/internal/brain/session"
)

// conversation builds the model's messages from the log. A reply of the model
// is what lies between two starts of requests; the results of its calls follow
// it at once, as the model's protocol demands, whatever the log has in between.
func conversation(log []session.LogEvent) []model.Message {
	b := builder{results: map[string]api.Event{}}
	for _, e := range log {
		switch e.Type {
		case api.EventUserToolResult, api.EventAgentToolResult:
			b.results[e.Event.ToolUseID] = e.Event
		case api.EventUserCustomToolResult:
			b.results[e.Event.CustomToolUseID] = e.Event
		}
	}
	for _, e := range log {
		b.add(e)
	}
	b.answer()
	return b.finish()
}

type builder struct {
	messages []model.Message
	results  map[string]api.Event // by call
	open     []string             // calls of the reply being built
}

func (b *builder) add(e session.LogEvent) {
	switch e.Type {
	case api.EventModelRequestStart:
		b.answer()
	case api.EventUserMessage:
		b.answer()
		b.append(model.RoleUser, orBlank(speech(e.Event.Content))...)
	case api.EventThreadMessageReceived:
		b.answer()
		b.append(model.RoleUser, fromThread(e.Event)...)
	case api.EventSystemMessage:
		b.answer()
		for _, block := range blocks(e.Event.Content) {
			block.Text = model.SystemStart + block.Text + model.SystemEnd
			b.append(model.RoleUser, block)
		}
	case api.EventAgentThinking:
		var thought model.Block
		if json.Unmarshal(e.Private, &thought) == nil && thought.Type != "" {
			b.append(model.RoleAssistant, thought)
		}
	case api.EventAgentMessage:
		b.append(model.RoleAssistant, speech(e.Event.Content)...)
	case api.EventAgentToolUse, api.EventAgentCustomToolUse:
		b.append(model.RoleAssistant, model.Block{Type: model.BlockToolUse, ID: e.ID, Name: e.Event.Name, Input: e.Event.Input})
		b.open = append(b.open, e.ID)
	}
}

// append adds blocks to the last message, or begins one when the role changes.
func (b *builder) append(role string, content ...model.Block) {
	if len(content) == 0 {
		return
	}
	if role == model.RoleUser {
		b.endThought()
	}
	if n := len(b.messages); n > 0 && b.messages[n-1].Role == role {
		b.messages[n-1].Content = append(b.messages[n-1].Content, content...)
		return
	}
	b.messages = append(b.messages, model.Message{Role: role, Content: content})
}

// answer closes a reply: each of its calls gets its result, or, when an
// interrupt came first, word of that.
func (b *builder) answer() {
	for _, id := range b.open {
		result := model.Block{Type: model.BlockToolResult, ToolUseID: id, IsError: true, Content: json.RawMessage(`[{"type":"text","text":"The user interrupted before this call had finished. It may have run in part."}]`)}
		if e, ok := b.results[id]; ok {
			result = model.Block{Type: model.BlockToolResult, ToolUseID: id, IsError: e.IsError != nil && *e.IsError}
			content := blocks(e.Content)
			if result.IsError {
				content = textOnly(content)
			}
			if raw, err := json.Marshal(content); err == nil && len(content) > 0 {
				result.Content = raw
			}
		}
		b.append(model.RoleUser, result)
	}
	b.open = nil
}

// endThought drops thinking that led to nothing from the end of a reply, where
// the model's protocol does not allow it.
func (b *builder) endThought() {
	n := len(b.messages)
	if n == 0 || b.messages[n-1].Role != model.RoleAssistant {
		return
	}
	last := &b.messages[n-1]
	for k := len(last.Content); k > 0; k = len(last.Content) {
		if t := last.Content[k-1].Type; t != model.BlockThinking && t != model.BlockRedactedThinking {
			return
		}
		last.Content = last.Content[:k-1]
	}
	b.messages = b.messages[:n-1]
}

// finish returns the messages. A reply at their end, which the model is to
// continue, must not end in blanks.
func (b *builder) finish() []model.Message {
	b.endThought()
	if n := len(b.messages); n > 0 && b.messages[n-1].Role == model.RoleAssistant {
		content := b.messages[n-1].Content
		if last := &content[len(content)-1]; last.Type == model.BlockText {
			last.Text = strings.TrimRightFunc(last.Text, unicode.IsSpace)
		}
	}
	return b.messages
}

// speech is what was said, without blank texts, which the model's protocol does
// not allow there.
func speech(content []api.Block) []model.Block {
	return slices.DeleteFunc(blocks(content), func(b model.Block) bool {
		return b.Type == model.BlockText && strings.TrimSpace(b.Text) == ""
	})
}

// fromThread is what another thread said. The one that asked is this thread's
// user; what is said to the coordinator names who says it.
func fromThread(e api.Event) []model.Block {
	content := orBlank(speech(e.Content))
	if e.FromAgentName == "" {
		return content
	}
	for i := range content {
		content[i].Text = model.ReportStart + e.FromAgentName + " (" + e.FromSessionThreadID + ")>\n" + content[i].Text + model.ReportEnd
	}
	return content
}

// orBlank stands in for a message of nothing but blanks.
func orBlank(content []model.Block) []model.Block {
	if len(content) == 0 {
		return []model.Block{{Type: model.BlockText, Text: "(a blank message)"}}
	}
	return content
}

// textOnly puts a word in the place of whatever is no text: the result of a call
// that failed may hold nothing else.
func textOnly(content []model.Block) []model.Block {
	for i, b := range content {
		if b.Type != model.BlockText {
			content[i] = model.Block{Type: model.BlockText, Text: "[" + b.Type + " left out]"}
		}
	}
	return content
}

// blocks turns content of events into that of messages. They agree in form,
// except for what a message cannot hold.
func blocks(content []api.Block) []model.Block {
	out := make([]model.Block, 0, len(content))
	for _, c := range content {
		if c.Type == "redacted" {
			c = api.TextBlock("[redacted]")
		}
		out = append(out, model.Block{Type: c.Type, Text: c.Text, Source: c.Source, Title: c.Title, Context: c.Context, Citations: c.Citations, Content: c.Content})
	}
	return out
}
