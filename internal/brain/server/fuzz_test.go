package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"hearth/api"
)

// FuzzBody: what checkBody lets through means one thing to every reader, and
// what it refuses is refused with a reason.
func FuzzBody(f *testing.F) {
	for _, form := range forms {
		f.Add([]byte(form.body))
	}
	for _, text := range []string{
		`{"a":"\ud83d\ude00"}`, `{"a":"\ud83d"}`, `{"a":"\\ud83d"}`, `{"a":"\u0000"}`, `{"a":1,"a":2}`, `{"a":{"b":[{"c":1,"c":1}]}}`, "{\"a\":\"\xff\"}", `{"\udc00":1}`,
		`{"a":"\\\ud800\ud800\udc00"}`, `{`, `{}{}`, `{"a":1e999}`, `{"type":"user.tool_result","content":[{"text":"\u0000\ud800"}]}`, strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := &request{Request: httptest.NewRequest("POST", "/", bytes.NewReader(raw))}
		var body json.RawMessage
		err := r.decode(&body)
		if err != nil {
			var wire *api.Error
			if !errors.As(err, &wire) || wire.Status != 400 || wire.Message == "" || !utf8.ValidString(wire.Message) {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		if len(bytes.TrimSpace(raw)) == 0 {
			return
		}
		var once map[string]any
		if err := json.Unmarshal(raw, &once); err != nil {
			t.Fatalf("%q was let through: %v", raw, err)
		}
		// What was read can be written and read again, and is the same: nothing of
		// it was replaced on the way.
		written, err := json.Marshal(once)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkBody(written); err != nil {
			t.Fatalf("%q was let through, and then %q was not: %v", raw, written, err)
		}
		if _, found := findNUL("", once); found {
			t.Fatalf("%q has a NUL character", raw)
		}
		if !strings.Contains(string(raw), "tool_result") && strings.Contains(string(written), "\ufffd") && !strings.Contains(string(raw), "\ufffd") && !strings.Contains(strings.ToLower(string(raw)), `\ufffd`) {
			t.Fatalf("something in %q was no character", raw)
		}
	})
}

// FuzzCursor: a cursor that is let through belongs to the list that was asked
// for, and can be looked for in a database.
func FuzzCursor(f *testing.F) {
	for _, c := range []cursor{{List: "agents", ID: "agent_1"}, {List: "sessions desc", ID: "x", Number: 1 << 60, Backwards: true}, {List: "user_profiles by name asc", ID: "x", Name: []byte("ada")}, {List: "agents", ID: "\x00"}} {
		f.Add(*c.encode())
	}
	for _, text := range []string{"", "x", "e30", "bnVsbA", "W10", "eyJsIjoiYWdlbnRzIiwiaSI6Nn0", "eyJsIjoiYWdlbnRzIiwibiI6MWU5OX0", "%00", "=", "\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p := &params{values: url.Values{"page": {text}}}
		c := p.cursor("agents")
		switch {
		case text == "":
			if p.err != nil {
				t.Fatalf("no cursor: %v", p.err)
			}
		case p.err != nil:
			var wire *api.Error
			if !errors.As(p.err, &wire) || wire.Status != 400 || !strings.HasPrefix(wire.Message, "page: ") || c.ID != "" {
				t.Fatalf("%q: %v, %+v", text, p.err, c)
			}
		case c.List != "agents", !utf8.ValidString(c.ID), strings.ContainsRune(c.ID, 0):
			t.Fatalf("%q is let through as %+v", text, c)
		}
	})
}
