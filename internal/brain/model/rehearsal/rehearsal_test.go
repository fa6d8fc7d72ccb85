package rehearsal_test

import (
	"encoding/json"
	"strings"
	"testing"

	"hearth/api"
	"hearth/internal/brain/model"
	"hearth/internal/brain/model/modeltest"
	"hearth/internal/brain/model/rehearsal"
)

func TestSuite(t *testing.T) {
	modeltest.Run(t, func(*testing.T) modeltest.Fixture {
		return modeltest.Fixture{Adapter: rehearsal.New(), Speak: modeltest.User("hello"), Call: modeltest.User("$ ls\n&\nread notes.txt")}
	})
}

// request offers all six tools and one of the application's.
func request(messages ...model.Message) model.Request {
	r := modeltest.User("")
	r.Messages = messages
	for _, name := range []string{api.ToolWrite, api.ToolEdit, api.ToolGlob, api.ToolGrep, "weather"} {
		r.Tools = append(r.Tools, model.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object"}`)})
	}
	return r
}

func user(text string) model.Message {
	return model.Message{Role: model.RoleUser, Content: []model.Block{{Type: model.BlockText, Text: text}}}
}

// play carries a script through, answering each call with answer, and returns
// the calls of each turn and the closing words.
func play(t *testing.T, script string, answer func(call model.Block) (text string, failed bool)) (turns [][]model.Block, closing string) {
	t.Helper()
	messages := []model.Message{user(script)}
	for len(turns) <= 20 {
		reply, _, err := modeltest.Ask(t, rehearsal.New(), request(messages...))
		if err != nil {
			t.Fatal(err)
		}
		if reply.StopReason == model.StopEndTurn {
			return turns, reply.Blocks[0].Text
		}
		turns = append(turns, reply.Blocks)
		results := model.Message{Role: model.RoleUser}
		for _, call := range reply.Blocks {
			text, failed := answer(call)
			raw, err := json.Marshal([]model.Block{{Type: model.BlockText, Text: text}})
			if err != nil {
				t.Fatal(err)
			}
			results.Content = append(results.Content, model.Block{Type: model.BlockToolResult, ToolUseID: call.ID, IsError: failed, Content: raw})
		}
		messages = append(messages, model.Message{Role: model.RoleAssistant, Content: reply.Blocks}, results)
	}
	t.Fatal("the script does not end")
	return nil, ""
}

func well(model.Block) (string, bool) { return "ok", false }

func TestEveryInstruction(t *testing.T) {
	tests := map[string]struct{ tool, input string }{
		"$ echo 'a  b' | wc":             {api.ToolBash, `{"command":"echo 'a  b' | wc"}`},
		"read some dir/notes.txt":        {api.ToolRead, `{"file_path":"some dir/notes.txt"}`},
		"write a.txt hello there":        {api.ToolWrite, `{"content":"hello there\n","file_path":"a.txt"}`},
		"edit a.txt hello => good bye":   {api.ToolEdit, `{"file_path":"a.txt","new_string":"good bye","old_string":"hello"}`},
		"glob **/*.go":                   {api.ToolGlob, `{"pattern":"**/*.go"}`},
		"grep func .*Test":               {api.ToolGrep, `{"pattern":"func .*Test"}`},
		`tool weather {"city":"Bergen"}`: {"weather", `{"city":"Bergen"}`},
		"tool weather":                   {"weather", `{}`},
	}
	for line, want := range tests {
		turns, _ := play(t, line, well)
		if len(turns) != 1 || len(turns[0]) != 1 {
			t.Errorf("%q brought %v, want one call", line, turns)
			continue
		}
		if call := turns[0][0]; call.Name != want.tool || string(call.Input) != want.input {
			t.Errorf("%q brought %s %s, want %s %s", line, call.Name, call.Input, want.tool, want.input)
		}
	}
}

func TestTurnsComeInOrderAndJoinedLinesTogether(t *testing.T) {
	turns, closing := play(t, "Please do this:\n$ one\n\n  $ two\n&\nread three\n&\nglob four\n$ five\n", well)
	var shape []string
	for _, turn := range turns {
		var names []string
		for _, call := range turn {
			names = append(names, call.Name)
		}
		shape = append(shape, strings.Join(names, "+"))
	}
	if got := strings.Join(shape, " "); got != "bash bash+read+glob bash" {
		t.Errorf("turns are %q", got)
	}
	if !strings.Contains(closing, "5 calls") {
		t.Errorf("closing words: %q", closing)
	}
}

func TestFailureIsToldAndTheRestGoesOn(t *testing.T) {
	turns, closing := play(t, "$ one\n$ two\n$ three", func(call model.Block) (string, bool) {
		return "ok", strings.Contains(string(call.Input), "two")
	})
	if len(turns) != 3 || !strings.Contains(closing, "3 calls") || !strings.Contains(closing, "1 of which failed") {
		t.Errorf("%d turns, closing words %q", len(turns), closing)
	}
}

func TestOtherTextIsExplained(t *testing.T) {
	for _, text := range []string{"What is the weather?", "$", "edit a.txt without an arrow", "tool weather {broken", "&"} {
		turns, closing := play(t, text, well)
		if len(turns) != 0 || !strings.Contains(closing, "not a language model") || !strings.Contains(closing, "$ COMMAND") {
			t.Errorf("%q: %d turns, %q", text, len(turns), closing)
		}
	}
}

func TestMissingToolIsTold(t *testing.T) {
	r := modeltest.User("grep x")
	reply, _, err := modeltest.Ask(t, rehearsal.New(), r)
	if err != nil {
		t.Fatal(err)
	}
	if reply.StopReason != model.StopEndTurn || !strings.Contains(reply.Blocks[0].Text, "grep") || !strings.Contains(reply.Blocks[0].Text, "no such tool") {
		t.Errorf("reply: %+v", reply)
	}
}

// TestNextMessageIsANewScript: what came before it counts no more.
func TestNextMessageIsANewScript(t *testing.T) {
	first, _, err := modeltest.Ask(t, rehearsal.New(), request(user("$ one")))
	if err != nil {
		t.Fatal(err)
	}
	answered := model.Message{Role: model.RoleUser, Content: []model.Block{{Type: model.BlockToolResult, ToolUseID: first.Blocks[0].ID}}}
	done := model.Message{Role: model.RoleAssistant, Content: []model.Block{{Type: model.BlockText, Text: "Done."}}}
	again := request(user("$ one"), model.Message{Role: model.RoleAssistant, Content: first.Blocks}, answered, done, user("read two"))
	for range 2 { // and the same conversation brings the same reply
		reply, _, err := modeltest.Ask(t, rehearsal.New(), again)
		if err != nil {
			t.Fatal(err)
		}
		if len(reply.Blocks) != 1 || reply.Blocks[0].Name != api.ToolRead {
			t.Errorf("reply: %+v", reply.Blocks)
		}
	}
}
