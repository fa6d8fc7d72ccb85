package server

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"hearth/api"
)

// TestBadFields makes every mistake with every field of every request.
func TestBadFields(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		for _, f := range forms {
			method, path, _ := strings.Cut(s.fill(f.route), " ")
			before := s.state()
			for _, m := range f.mistakes(t, s.fill(f.body)) {
				a := b.do(b.key, method, path, m.body)
				e := a.failure()
				// An object that is not there is a 404, in the path or in a field.
				found := a.status == 400 && e.Type == api.ErrInvalidRequest && strings.Contains(e.Message, nameOf(m.field))
				if absent := a.status == 404 && e.Type == api.ErrNotFound && m.what == "an unknown word"; !found && !absent {
					t.Errorf("%s with %s as %s: %d %.300s", f.route, m.what, m.field, a.status, a.body)
				}
			}
			if after := s.state(); after != before {
				t.Errorf("bad bodies of %s changed\n%s\nto\n%s", f.route, before, after)
			}
		}
	})
}

// nameOf is how a message names a field at the least: with its last part, or as
// the metadata it is in.
func nameOf(field string) string {
	if strings.HasPrefix(field, "metadata.") {
		return "metadata"
	}
	return strings.TrimSuffix(field[strings.LastIndex(field, ".")+1:], "[0]")
}

// TestBadBodies sends what is no JSON object, or not only one.
func TestBadBodies(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		nest := func(n int) string { return strings.Repeat(`[`, n) + strings.Repeat(`]`, n) }
		for _, f := range forms {
			method, path, _ := strings.Cut(s.fill(f.route), " ")
			valid := s.fill(f.body)
			rest := strings.TrimPrefix(valid, "{")
			before := s.state()
			for what, body := range map[string]string{
				"an array": "[" + valid + "]", "null": "null", "a string": `"x"`, "a number": "7", "a brace": "{", "half": valid[:len(valid)/2], "no JSON": "name=x",
				"garbage after it": valid + "x", "a second object": valid + valid, "a NUL byte in it": "{\x00" + rest, "a key that is not quoted": "{a:1," + rest,
				"bytes that are not UTF-8": "{\"\xff\xfe\":1," + rest, "half a character": "{\"x\":\"\xc3\"," + rest, "a key twice": `{"x":1,"x":2,` + rest,
				"a key twice inside": `{"x":[{"y":1,"y":2}],` + rest, "deep nesting": `{"x":` + nest(300) + "," + rest,
				"very deep nesting": `{"x":` + nest(100_000) + "," + rest, "a NUL in a field nobody knows": `{"x":"a\u0000",` + rest,
			} {
				a := b.do(b.key, method, path, body)
				if e := a.failure(); a.status != 400 || e.Type != api.ErrInvalidRequest || e.Message == "" {
					t.Errorf("%s with %s: %d %.300s", f.route, what, a.status, a.body)
				}
			}
			if after := s.state(); after != before {
				t.Errorf("bad bodies of %s changed\n%s\nto\n%s", f.route, before, after)
			}
		}
	})
}

// TestTooLargeABody: what is over the limit is not read to its end.
func TestTooLargeABody(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		body := slices.Concat([]byte(`{"model":"m","name":"`), bytes.Repeat([]byte("x"), MaxBody), []byte(`"}`))
		a := b.do(b.key, "POST", "/v1/agents", body)
		if e := a.failure(); a.status != http.StatusRequestEntityTooLarge || e.Type != api.ErrTooLarge {
			t.Errorf("%d %.300s", a.status, a.body)
		}
	})
}

// TestEmptyBodies: a body that is needed and not there is missing its fields.
func TestEmptyBodies(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		for route, field := range map[string]string{
			"/v1/agents": "name", "/v1/environments": "name", "/v1/environments/{environment_id}/keys": "name", "/v1/sessions": "agent",
			"/v1/sessions/{session_id}/events": "events", "/v1/environments/{environment_id}/work/{work_id}": "metadata",
		} {
			for _, body := range []any{nil, "", "  \n", "{}"} {
				a := b.do(b.key, "POST", s.fill(route), body)
				if e := a.failure(); a.status != 400 || !strings.HasPrefix(e.Message, field+":") {
					t.Errorf("POST %s with the body %q: %d %s", route, body, a.status, a.body)
				}
			}
		}
	})
}

// TestTooMany holds each list against its limit.
func TestTooMany(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		custom := func(i int) any {
			return object{"type": api.ToolTypeCustom, "name": fmt.Sprint("t", i), "description": "d", "input_schema": object{"type": "object"}}
		}
		pairs := object{}
		for i := range api.MaxMetadataPairs + 1 {
			pairs[fmt.Sprint(i)] = "v"
		}
		list := func(n int, element func(i int) any) []any {
			all := make([]any, n)
			for i := range all {
				all[i] = element(i)
			}
			return all
		}
		said := func(int) any { return message("hello") }
		for _, c := range []struct {
			path, field string
			body        object
		}{
			{"/v1/agents", "metadata", object{"name": "n", "model": "m", "metadata": pairs}},
			{"/v1/agents", "metadata", object{"name": "n", "model": "m", "metadata": object{strings.Repeat("k", 65): "v"}}},
			{"/v1/agents", "metadata", object{"name": "n", "model": "m", "metadata": object{"": "v"}}},
			{"/v1/agents", "tools", object{"name": "n", "model": "m", "tools": list(257, custom)}},
			{"/v1/agents", "mcp_servers", object{"name": "n", "model": "m", "mcp_servers": list(21, func(i int) any {
				return object{"type": "url", "name": fmt.Sprint(i), "url": "https://example.com"}
			})}},
			{"/v1/agents", "skills", object{"name": "n", "model": "m", "skills": list(501, func(int) any { return object{"type": "custom", "skill_id": "s"} })}},
			{"/v1/sessions", "initial_events", object{"agent": s.agent.ID, "environment_id": s.env.ID, "initial_events": list(51, said)}},
			{"/v1/sessions/" + s.session.ID + "/events", "events", object{"events": list(51, said)}},
			{"/v1/sessions/" + s.session.ID + "/events", "events[0].content", object{"events": []any{message(strings.Repeat("x", 8<<20+1))}}},
			{"/v1/sessions/" + s.session.ID, "metadata", object{"metadata": pairs}},
			{"/v1/environments", "metadata", object{"name": "n", "metadata": pairs}},
		} {
			before := s.state()
			a := b.do(b.key, "POST", c.path, c.body)
			if e := a.failure(); a.status != 400 || !strings.HasPrefix(e.Message, c.field) {
				t.Errorf("POST %s with too many %s: %d %.300s", c.path, c.field, a.status, a.body)
			}
			if s.state() != before {
				t.Errorf("POST %s with too many %s changed something", c.path, c.field)
			}
		}
	})
}

// TestBadPathsAndParameters sends ids that no object has, and parameters that
// mean nothing.
func TestBadPathsAndParameters(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		for _, rt := range (&server{}).routes() {
			credential := b.key
			v := verdicts[rt.method+" "+rt.path]
			if v.role == "" {
				credential = s.key.Key
			}
			for _, name := range parameters(rt.path) {
				for id, want := range map[string]int{"a%00b": 400, "%ff": 400, "no-such-id": 404, "%27%20OR%201=1--": 404, strings.Repeat("x", 4000): 404} {
					elsewhere := rt
					elsewhere.path = strings.Replace(rt.path, "{"+name+"}", id, 1)
					a := s.askWith(v, credential, elsewhere)
					if e := a.failure(); a.status != want || want == 400 && !strings.HasPrefix(e.Message, name+":") {
						t.Errorf("%s %s with %s as %s: %d %.300s", rt.method, rt.path, id, name, a.status, a.body)
					}
				}
			}
		}
		for path, parameters := range map[string][]string{
			"/v1/agents":            {"limit=0", "limit=101", "limit=x", "limit=1e3", "limit=99999999999999999999", "page=x", "page=%00", "page=%ff", "include_archived=maybe", "created_at[gte]=monday", "created_at[lte]=2026-13-01T00:00:00Z"},
			"/v1/agents/{agent_id}": {"version=0", "version=x", "version=99999999999999999999"},
			"/v1/memory_stores":     {"limit=0", "page=x", "created_at[gte]=x", "created_at[lte]=x", "include_archived=1"},
			"/v1/memory_stores/{memory_store_id}/memories":        {"limit=0", "page=x", "depth=2", "path_prefix=x", "view=x"},
			"/v1/memory_stores/{memory_store_id}/memory_versions": {"limit=0", "page=x", "operation=x", "created_at[gte]=x", "created_at[lte]=x", "view=x", "memory_id=%00"},
			"/v1/environments":                                           {"limit=-1", "page=e30", "include_archived=1", "limit=%00"},
			"/v1/sessions":                                               {"limit=0", "page=eyJsIjoiYWdlbnRzIn0", "order=up", "statuses[]=asleep", "created_at[gt]=x", "created_at[lt]=x", "agent_id=%00", "agent_id=%ff", "agent_version=1", "agent_id=a&agent_version=0", "include_archived=maybe"},
			"/v1/sessions/{session_id}/events":                           {"limit=0", "limit=1001", "order=up", "created_at[gte]=x", "created_at[lt]=9999-12-31T23:59:59-10:00", "types[]=%00", "page=x"},
			"/v1/sessions/{session_id}/events/stream":                    {"event_deltas[]=user.message", "event_deltas[]=%00"},
			"/v1/environments/{environment_id}/work":                     {"limit=0", "page=x"},
			"/v1/environments/{environment_id}/work/poll":                {"block_ms=0", "block_ms=1000", "block_ms=x", "reclaim_older_than_ms=0", "reclaim_older_than_ms=3600001"},
			"/v1/environments/{environment_id}/work/{work_id}/heartbeat": {"desired_ttl_seconds=0", "desired_ttl_seconds=x", "desired_ttl_seconds=86401", "expected_last_heartbeat=%00", "expected_last_heartbeat=%ff"},
		} {
			method, credential := "GET", b.key
			if strings.HasSuffix(path, "/heartbeat") {
				method = "POST"
			}
			if strings.HasSuffix(path, "/heartbeat") || strings.HasSuffix(path, "/poll") {
				credential = s.key.Key
			}
			for _, p := range parameters {
				name := strings.Split(p[strings.LastIndex(p, "&")+1:], "=")[0]
				a := b.do(credential, method, s.fill(path)+"?"+p, nil)
				if e := a.failure(); a.status != 400 || e.Type != api.ErrInvalidRequest || !strings.HasPrefix(e.Message, name+":") {
					t.Errorf("%s %s?%s: %d %.300s", method, path, p, a.status, a.body)
				}
			}
		}
	})
}

// TestHeadersNoDatabaseCanHold: a header may hold bytes that are not text.
func TestHeadersNoDatabaseCanHold(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		for name, path := range map[string]string{
			"Last-Event-ID": "/v1/sessions/{session_id}/events/stream", "Anthropic-Worker-ID": "/v1/environments/{environment_id}/work/poll",
		} {
			r := b.request(b.ctx, s.key.Key, "GET", s.fill(path), nil)
			r.Header.Set(name, "\xff\xfe")
			response, err := b.http.Do(r)
			must(t, err)
			response.Body.Close()
			if response.StatusCode != 400 {
				t.Errorf("%s that is not UTF-8: %d", name, response.StatusCode)
			}
		}
	})
}

// TestUnknownRoutesAndMethods: what is not there is a 404, and what cannot be
// done with it a 405 that says what can.
func TestUnknownRoutesAndMethods(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		for _, path := range []string{"/", "/v1", "/v1/", "/v1/agents/", "/v1/nothing", "/v2/agents", "/v1/agents/{agent_id}/nothing", "/v1/sessions/{session_id}/events/stream/x"} {
			a := b.do(b.key, "GET", s.fill(path), nil)
			if e := a.failure(); a.status != 404 || e.Type != api.ErrNotFound || a.header.Get("request-id") == "" {
				t.Errorf("GET %s: %d %s", path, a.status, a.body)
			}
		}
		allowed := map[string][]string{}
		for _, rt := range (&server{}).routes() {
			allowed[rt.path] = append(allowed[rt.path], rt.method)
		}
		for path, methods := range allowed {
			slices.Sort(methods)
			for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "MADE-UP"} {
				if slices.Contains(methods, method) {
					continue
				}
				a := b.do(b.key, method, s.fill(path), nil)
				if e := a.failure(); a.status != 405 || e.Type != api.ErrInvalidRequest || a.header.Get("Allow") != strings.Join(methods, ", ") {
					t.Errorf("%s %s: %d, Allow %q, %s", method, path, a.status, a.header.Get("Allow"), a.body)
				}
			}
		}
	})
}

// TestCompressedBodies: a body that is packed is refused as what it is, not as no JSON.
func TestCompressedBodies(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		for encoding, want := range map[string]int{"gzip": 415, "br": 415, "identity": 200} {
			r := b.request(t.Context(), b.key, "POST", "/v1/agents", object{"name": "packed", "model": "m"})
			r.Header.Set("Content-Encoding", encoding)
			if a := b.send(r); a.status != want || want == 415 && !strings.Contains(a.failure().Message, encoding) {
				t.Errorf("%s: %d %s", encoding, a.status, a.body)
			}
		}
	})
}

// TestResultsKeepWhatProgramsPrint: a NUL in a tool's output is no mistake of
// the worker's, and its session must not wait for ever.
func TestResultsKeepWhatProgramsPrint(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		printed := "a\x00b\x01\u2028\U0010ffff"
		page := ok[api.Page[api.Event]](b, s.token, "POST", "/v1/sessions/"+s.session.ID+"/events", object{"events": []object{
			{"type": "user.tool_result", "tool_use_id": s.call, "content": []object{{"type": "text", "text": printed}}},
		}})
		if got := page.Data[0].Content[0].Text; got != printed {
			t.Errorf("stored %q, sent %q", got, printed)
		}
		if stop := b.awaitIdle(s.session.ID); stop.Type != api.StopEndTurn {
			t.Errorf("the turn ended with %s", stop.Type)
		}
	})
}

// TestNoBodyBreaksTheServer sends bodies with random damage, the same ones each
// time. What they may do is open, but for a 5xx and a broken connection.
func TestNoBodyBreaksTheServer(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		random := rand.New(rand.NewPCG(1, 2))
		pieces := []string{"\x00", `\u0000`, `\ud800`, "\xff", "1e999", "-0", "null", "{", "}", "[", "]", `"`, `\`, ",", ":", `"type"`, "é", "\u2028", strings.Repeat("9", 400)}
		for _, f := range forms {
			method, path, _ := strings.Cut(s.fill(f.route), " ")
			for range 15 {
				body := []byte(s.fill(f.body))
				for range 1 + random.IntN(3) {
					at := random.IntN(len(body))
					to := min(len(body), at+random.IntN(4))
					body = slices.Concat(body[:at], []byte(pieces[random.IntN(len(pieces))]), body[to:])
				}
				if a := b.do(b.key, method, path, body); a.status != 200 && a.failure().Message == "no error" {
					t.Errorf("%s with %q: %d without an error: %s", f.route, body, a.status, a.body)
				}
			}
		}
		for _, path := range []string{"/v1/agents", "/v1/environments", "/v1/sessions", "/v1/sessions/" + s.session.ID + "/events"} {
			ok[api.Page[object]](b, b.key, "GET", path, nil)
		}
	})
}
