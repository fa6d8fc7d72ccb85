package session

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"hearth/api"
)

// FuzzInputs: of every text there is an event that can be stored, or a refusal
// that names it.
func FuzzInputs(f *testing.F) {
	for _, text := range []string{
		`{"type":"user.message","content":[{"type":"text","text":"hello"}]}`,
		`{"type":"user.message","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}}]}`,
		`{"type":"user.message","content":[{"type":"document","source":{"type":"url","url":"https://example.com/a.pdf"},"title":"t"}]}`,
		`{"type":"user.message","content":[{"type":"document","source":{"type":"content","content":[{"type":"text","text":"t"}]}}]}`,
		`{"type":"user.interrupt","session_thread_id":null}`,
		`{"type":"user.tool_result","tool_use_id":"sevt_1","is_error":true,"content":[{"type":"text","text":"done\u0000"}]}`,
		`{"type":"user.custom_tool_result","custom_tool_use_id":"sevt_1","content":[]}`,
		`{"type":"user.tool_confirmation","tool_use_id":"sevt_1","result":"deny","deny_message":"no"}`,
		`{"type":"system.message","content":[{"type":"text","text":"note"}]}`,
		`{"type":"user.define_outcome","description":"d"}`,
		`{"type":"agent.message","content":[]}`, `{"type":"session.status_idle"}`, `{"type":7}`, `{"type":"user.message","content":"hello"}`,
		`{"type":"user.message","content":[null]}`, `{"type":"user.message","content":[[]]}`, `null`, `[]`, `7`, `"user.message"`, `{}`, ``, `{"type":"user.message","content":{"type":"text"}}`,
	} {
		f.Add(text, true)
		f.Add(text, false)
	}
	f.Fuzz(func(t *testing.T, text string, client bool) {
		if !json.Valid([]byte(text)) {
			return // which the server has refused before
		}
		from := SenderWorker
		if client {
			from = SenderClient
		}
		inputs, err := parseInputs("events", []json.RawMessage{json.RawMessage(text)}, from)
		if err != nil {
			var wire *api.Error
			if !errors.As(err, &wire) || wire.Status < 400 || wire.Status >= 500 || wire.Status != 403 && !strings.HasPrefix(wire.Message, "events[0]") {
				t.Fatalf("%s: %v", text, err)
			}
			return
		}
		if len(inputs) != 1 {
			t.Fatalf("%s makes %d inputs", text, len(inputs))
		}
		raw, err := json.Marshal(inputs[0].event)
		if err != nil {
			t.Fatalf("%s cannot be stored: %v", text, err)
		}
		var head struct{ Type string }
		if err := json.Unmarshal(raw, &head); err != nil || !strings.HasPrefix(head.Type, "user.") && head.Type != "system.message" {
			t.Fatalf("%s becomes %s", text, raw)
		}
	})
}
