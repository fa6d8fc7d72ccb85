// Package rehearsal plays a model: it does what the user's message spells out,
// line by line, and nothing else, so that the whole platform can be tried and
// tested without a model. The same conversation always brings the same reply.
package rehearsal

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"hearth/api"
	"hearth/internal/brain/model"
)

// Adapter implements model.Adapter. It has no state: where it stands in a
// script it reads off the conversation.
type Adapter struct{}

// New makes an adapter.
func New() Adapter { return Adapter{} }

// Name implements model.Adapter.
func (Adapter) Name() string { return "rehearsal" }

const explanation = `I am not a language model. I am the rehearsal that stands in for one until a model is configured: I follow instructions, one on each line, and nothing else.

  $ COMMAND                 run a command with bash
  read PATH                 read a file
  write PATH TEXT           write a file
  edit PATH OLD => NEW      replace text in a file
  glob PATTERN              find files by name
  grep PATTERN              find lines in files
  tool NAME {JSON}          call a custom tool
  @NAME MESSAGE             send a message to an agent; \n begins a new line of it
  &                         join the lines before and after into one parallel turn`

// Stream implements model.Adapter.
func (Adapter) Stream(ctx context.Context, r model.Request, on func(model.Delta)) (model.Reply, error) {
	if err := ctx.Err(); err != nil {
		return model.Reply{}, model.Failure(0, "interrupted", 0)
	}
	script, done := position(r.Messages)
	turns := parse(script)
	said := reports(r.Messages)
	switch {
	case done < len(turns):
		return call(r, on, turns[done], done), nil
	case said != "":
		return say(r, on, said), nil
	case len(turns) == 0:
		return say(r, on, explanation), nil
	}
	return say(r, on, summary(r.Messages, len(turns))), nil
}

// position finds the last message a person wrote, and how many of its turns
// have been played: one for each reply with calls since.
func position(messages []model.Message) (script string, done int) {
	for i := len(messages) - 1; i >= 0; i-- {
		m := messages[i]
		if m.Role == model.RoleUser {
			if text := lastText(m); text != "" {
				return text, done
			}
		} else if hasCall(m) {
			done++
		}
	}
	return "", 0
}

// reports is what agents have said since this model last spoke.
func reports(messages []model.Message) string {
	var said []string
	for i := len(messages) - 1; i >= 0 && messages[i].Role == model.RoleUser; i-- {
		for _, b := range messages[i].Content {
			if text, ok := strings.CutPrefix(b.Text, model.ReportStart); ok {
				name, words, _ := strings.Cut(strings.TrimSuffix(text, model.ReportEnd), ">\n")
				name, _, _ = strings.Cut(name, " (")
				said = append(said, name+" says: "+words)
			}
		}
	}
	return strings.Join(said, "\n")
}

// lastText is what a person wrote in a message, which is not what the
// application or another agent added to it. Messages queued one after the other come as one; the
// last of them counts.
func lastText(m model.Message) string {
	for i := len(m.Content) - 1; i >= 0; i-- {
		if b := m.Content[i]; b.Type == model.BlockText && strings.TrimSpace(b.Text) != "" && !strings.HasPrefix(b.Text, model.SystemStart) && !strings.HasPrefix(b.Text, model.ReportStart) {
			return b.Text
		}
	}
	return ""
}

func hasCall(m model.Message) bool {
	for _, b := range m.Content {
		if b.Type == model.BlockToolUse {
			return true
		}
	}
	return false
}

// instruction is one call a line asks for.
type instruction struct {
	tool  string
	input map[string]any
}

// parse reads a script: its turns, each of one or more calls.
func parse(script string) [][]instruction {
	var turns [][]instruction
	join := false
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if line == "&" {
			join = len(turns) > 0
			continue
		}
		in, ok := parseLine(line)
		switch {
		case !ok:
			continue
		case join:
			turns[len(turns)-1] = append(turns[len(turns)-1], in)
		default:
			turns = append(turns, []instruction{in})
		}
		join = false
	}
	return turns
}

func parseLine(line string) (instruction, bool) {
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	if rest == "" {
		return instruction{}, false
	}
	if to, ok := strings.CutPrefix(word, "@"); ok {
		field := "agent"
		if strings.HasPrefix(to, api.PrefixThread+"_") {
			field = "thread_id"
		}
		return instruction{api.ToolSendToAgent, map[string]any{field: to, "message": strings.ReplaceAll(rest, `\n`, "\n")}}, to != ""
	}
	switch word {
	case "$":
		return instruction{api.ToolBash, map[string]any{"command": rest}}, true
	case api.ToolRead:
		return instruction{word, map[string]any{"file_path": rest}}, true
	case api.ToolWrite:
		path, text, ok := strings.Cut(rest, " ")
		return instruction{word, map[string]any{"file_path": path, "content": text + "\n"}}, ok
	case api.ToolEdit:
		path, change, _ := strings.Cut(rest, " ")
		before, after, ok := strings.Cut(change, " => ")
		return instruction{word, map[string]any{"file_path": path, "old_string": before, "new_string": after}}, ok
	case api.ToolGlob, api.ToolGrep:
		return instruction{word, map[string]any{"pattern": rest}}, true
	case "tool":
		name, raw, _ := strings.Cut(rest, " ")
		input := map[string]any{}
		if raw != "" && json.Unmarshal([]byte(raw), &input) != nil {
			return instruction{}, false
		}
		return instruction{name, input}, true
	}
	return instruction{}, false
}

// call plays one turn. An instruction for a tool the agent lacks is told, not called.
func call(r model.Request, on func(model.Delta), turn []instruction, number int) model.Reply {
	reply := model.Reply{StopReason: model.StopToolUse}
	for i, in := range turn {
		if !offered(r.Tools, in.tool) {
			return say(r, on, fmt.Sprintf("I was told to use %s, but this agent has no such tool.", in.tool))
		}
		raw, err := json.Marshal(in.input)
		if err != nil {
			return say(r, on, "I was given an input I cannot write as JSON.")
		}
		block := model.Block{Type: model.BlockToolUse, ID: fmt.Sprintf("toolu_rehearsal_%d_%d", number, i), Name: in.tool, Input: raw}
		on(model.Delta{Index: i, Type: block.Type})
		reply.Blocks = append(reply.Blocks, block)
		reply.Usage.OutputTokens += tokens(string(raw))
	}
	reply.Usage.InputTokens = inputTokens(r)
	return reply
}

func offered(tools []model.Tool, name string) bool {
	for _, t := range tools {
		if t.Name == name {
			return true
		}
	}
	return false
}

// say replies with text, streamed line by line as a model's would be.
func say(r model.Request, on func(model.Delta), text string) model.Reply {
	on(model.Delta{Type: model.BlockText})
	for line := range strings.Lines(text) {
		on(model.Delta{Type: model.BlockText, Text: line})
	}
	return model.Reply{
		Blocks: []model.Block{{Type: model.BlockText, Text: text}}, StopReason: model.StopEndTurn,
		Usage: api.ModelUsage{InputTokens: inputTokens(r), OutputTokens: tokens(text)},
	}
}

// summary says what the last turns of the conversation brought.
func summary(messages []model.Message, turns int) string {
	calls, failed := 0, 0
	for i := len(messages) - 1; i >= 0 && turns > 0; i-- {
		for _, b := range messages[i].Content {
			switch {
			case b.Type == model.BlockToolUse:
				calls++
			case b.Type == model.BlockToolResult && b.IsError:
				failed++
			}
		}
		if hasCall(messages[i]) {
			turns--
		}
	}
	if failed == 0 {
		return fmt.Sprintf("Done: %d calls, all of them well.", calls)
	}
	return fmt.Sprintf("Done: %d calls, %d of which failed.", calls, failed)
}

// tokens is a rough count, so that usage is seen to be counted.
func tokens(text string) int64 { return int64(len(text)/4 + 1) }

func inputTokens(r model.Request) int64 {
	total := tokens(r.System)
	for _, m := range r.Messages {
		for _, b := range m.Content {
			total += tokens(b.Text) + int64(len(b.Content)/4)
		}
	}
	return total
}
