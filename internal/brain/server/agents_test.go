package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"hearth/api"
)

// decoded is any JSON, for comparing.
func decoded(t *testing.T, raw any) any {
	t.Helper()
	text, isText := raw.(string)
	if !isText {
		encoded, err := json.Marshal(raw)
		must(t, err)
		text = string(encoded)
	}
	return parse(t, text)
}

// TestAgentAsAnswered holds every field of an agent, as given, against what is
// answered: all defaults filled in.
func TestAgentAsAnswered(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		made := ok[object](b, b.key, "POST", "/v1/agents", `{"name":"n","description":"","system":"s","metadata":{"k":"v"},
			"model":{"id":"m","effort":"high","inference_geo":"eu"},
			"mcp_servers":[{"type":"url","name":"issues","url":"https://mcp.example.com/mcp"}],
			"skills":[{"type":"anthropic","skill_id":"xlsx"},{"type":"anthropic","skill_id":"docx","version":"3"}],
			"tools":[
				{"type":"custom","name":"ask","description":"d","input_schema":{"type":"object","properties":{"q":{"type":"string"}},"required":["q"],"additionalProperties":false}},
				{"type":"mcp_toolset","mcp_server_name":"issues","configs":[{"name":"list","permission_policy":{"type":"always_allow"}},{"name":"drop","enabled":false}]},
				{"type":"agent_toolset_20260401","default_config":{"permission_policy":{"type":"always_ask"}},"configs":[
					{"name":"bash","type":"bash","enabled":false},
					{"name":"web_search","allowed_domains":["docs.example.com/api"],"user_location":{"type":"approximate","city":"Bonn","country":"DE"}},
					{"name":"web_fetch","blocked_domains":["ads.example.com"],"max_content_tokens":1000,"url_sources":{"user_input":"none",
						"client_tool_results":{"type":"only","tools":[{"type":"tool_reference","name":"ask"}]}}}]}]}`)
		for _, unknowable := range []string{"id", "created_at", "updated_at"} {
			if made[unknowable] == nil {
				t.Errorf("%s is missing", unknowable)
			}
			delete(made, unknowable)
		}
		ask, allow := `{"type":"always_ask"}`, `{"type":"always_allow"}`
		want := decoded(t, `{"type":"agent","version":1,"archived_at":null,"name":"n","description":null,"system":"s","metadata":{"k":"v"},"multiagent":null,
			"execution_identity":{"type":"service_account"},"model":{"id":"m","effort":{"type":"high"},"inference_geo":"eu","speed":"standard"},
			"mcp_servers":[{"type":"url","name":"issues","url":"https://mcp.example.com/mcp"}],
			"skills":[{"type":"anthropic","skill_id":"xlsx","version":"latest"},{"type":"anthropic","skill_id":"docx","version":"3"}],
			"tools":[
				{"type":"custom","name":"ask","description":"d","input_schema":{"type":"object","properties":{"q":{"type":"string"}},"required":["q"],"additionalProperties":false}},
				{"type":"mcp_toolset","mcp_server_name":"issues","default_config":{"enabled":true,"permission_policy":`+ask+`},"configs":[
					{"name":"list","enabled":true,"permission_policy":`+allow+`},{"name":"drop","enabled":false,"permission_policy":`+ask+`}]},
				{"type":"agent_toolset_20260401","default_config":{"enabled":true,"permission_policy":`+ask+`},"configs":[
					{"name":"bash","type":"bash","enabled":false,"permission_policy":`+ask+`},
					{"name":"web_search","type":"web_search","enabled":true,"permission_policy":`+ask+`,"allowed_domains":["docs.example.com/api"],"user_location":{"type":"approximate","city":"Bonn","country":"DE"}},
					{"name":"web_fetch","type":"web_fetch","enabled":true,"permission_policy":`+ask+`,"blocked_domains":["ads.example.com"],"max_content_tokens":1000,"url_sources":{"user_input":{"type":"none"},
						"server_tool_results":null,"client_tool_results":{"type":"only","tools":[{"type":"tool_reference","name":"ask"}]}}}]}]}`)
		if got := decoded(t, made); !reflect.DeepEqual(got, want) {
			t.Errorf("answered\n%s\nwant\n%s", mustJSON(got), mustJSON(want))
		}
	})
}

func mustJSON(v any) []byte {
	raw, _ := json.Marshal(v)
	return raw
}

// fetchWith is an agent whose web_fetch is configured so.
func fetchWith(config string) string {
	return `{"name":"n","model":"m","tools":[{"type":"custom","name":"ask","description":"d","input_schema":{"type":"object"}},
		{"type":"agent_toolset_20260401","configs":[{"name":"web_fetch",` + config + `}]}]}`
}

func searchWith(config string) string {
	return strings.ReplaceAll(fetchWith(config), "web_fetch", "web_search")
}

// TestAgentMistakes: each message names the field.
func TestAgentMistakes(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		const config = "tools[1].configs[0]"
		tool := func(raw string) string { return `{"name":"n","model":"m","tools":[` + raw + `]}` }
		server := `{"type":"url","name":"s","url":"https://example.com"}`
		for _, c := range []struct{ body, field string }{
			{`{"name":"","model":"m"}`, "name"},
			{`{"name":"n","model":{"id":"m","effort":{"type":"extreme"}}}`, "model.effort"},
			{`{"name":"n","model":{"id":"m","inference_geo":"` + strings.Repeat("x", 65) + `"}}`, "model.inference_geo"},
			{`{"name":"n","model":"m","execution_identity":{"type":"aws_role","role_arn":"arn:aws:iam::1:role/r"}}`, "execution_identity"},
			{tool(`{"type":"custom","name":"a b","description":"d","input_schema":{"type":"object"}}`), "tools[0].name"},
			{tool(`{"type":"custom","name":"bash","description":"d","input_schema":{"type":"object"}}`), "tools[0].name"},
			{tool(`{"type":"custom","name":"a","description":"d","input_schema":{"type":"object","properties":[]}}`), "tools[0].input_schema"},
			{tool(`{"type":"custom","name":"a","description":"d","input_schema":{"type":"object","required":[1]}}`), "tools[0].input_schema"},
			{tool(`{"type":"custom","name":"a","description":"d","input_schema":{"type":"object"}},{"type":"custom","name":"a","description":"d","input_schema":{"type":"object"}}`), "tools[1].name"},
			{tool(`{"type":"agent_toolset_20260401"},{"type":"agent_toolset_20260401"}`), "tools[1]"},
			{tool(`{"type":"agent_toolset_20260401","configs":[{"name":"bash","type":"read"}]}`), "tools[0].configs[0].type"},
			{tool(`{"type":"agent_toolset_20260401","configs":[{"name":"bash"},{"name":"bash"}]}`), "tools[0].configs[1].name"},
			{tool(`{"type":"agent_toolset_20260401","configs":[{"name":"bash","permission_policy":{"type":"sometimes"}}]}`), "tools[0].configs[0].permission_policy.type"},
			{tool(`{"type":"agent_toolset_20260401","configs":[{"name":"bash","allowed_domains":["a.example"]}]}`), "tools[0].configs[0].allowed_domains"},
			{tool(`{"type":"mcp_toolset","mcp_server_name":"s"}`), "tools[0].mcp_server_name"},
			{`{"name":"n","model":"m","mcp_servers":[` + server + `]}`, "mcp_servers[0]"},
			{`{"name":"n","model":"m","mcp_servers":[` + server + `,` + server + `],"tools":[{"type":"mcp_toolset","mcp_server_name":"s"}]}`, "mcp_servers[1].name"},
			{`{"name":"n","model":"m","mcp_servers":[` + server + `],"tools":[{"type":"mcp_toolset","mcp_server_name":"s","configs":[{"name":""}]}]}`, "tools[0].configs[0].name"},
			{`{"name":"n","model":"m","mcp_servers":[` + server + `],"tools":[{"type":"mcp_toolset","mcp_server_name":"s","configs":[{"name":"` + strings.Repeat("x", 129) + `"}]}]}`, "tools[0].configs[0].name"},
			{`{"name":"n","model":"m","mcp_servers":[{"type":"url","name":"s","url":"ftp://example.com"}]}`, "mcp_servers[0].url"},
			{fetchWith(`"allowed_domains":[]`), config + ".allowed_domains"},
			{fetchWith(`"allowed_domains":["a.example"],"blocked_domains":["b.example"]`), config},
			{fetchWith(`"allowed_domains":[` + strings.Repeat(`"a.example",`, 64) + `"a.example"]`), config + ".allowed_domains"},
			{fetchWith(`"allowed_domains":["a.example/path"]`), config + ".allowed_domains[0]"},
			{fetchWith(`"max_content_tokens":0`), config + ".max_content_tokens"},
			{fetchWith(`"user_location":{"type":"approximate"}`), config + ".user_location"},
			{fetchWith(`"url_sources":{"user_input":"none","client_tool_results":"none","server_tool_results":{"type":"none"}}`), config + ".url_sources"},
			{fetchWith(`"url_sources":{"user_input":{"type":"only","tools":[]}}`), config + ".url_sources.user_input"},
			{fetchWith(`"url_sources":{"client_tool_results":"some"}`), config + ".url_sources.client_tool_results"},
			{fetchWith(`"url_sources":{"client_tool_results":{"type":"only","tools":[]}}`), config + ".url_sources.client_tool_results.tools"},
			{fetchWith(`"url_sources":{"client_tool_results":{"type":"only","tools":[{"type":"tool_reference","name":"bash"}]}}`), config + ".url_sources.client_tool_results.tools[0].name"},
			{fetchWith(`"url_sources":{"server_tool_results":{"type":"except","tools":[{"type":"tool_reference","name":"ask"}]}}`), config + ".url_sources.server_tool_results.tools[0].name"},
			{fetchWith(`"url_sources":{"client_tool_results":{"type":"only","tools":[{"type":"tool_reference","name":"ask"},{"type":"tool_reference","name":"ask"}]}}`), config + ".url_sources.client_tool_results.tools[1].name"},
			{fetchWith(`"url_sources":{"client_tool_results":{"type":"only","tools":[{"name":"ask"}]}}`), config + ".url_sources.client_tool_results.tools[0].type"},
			{searchWith(`"max_content_tokens":10`), config + ".max_content_tokens"},
			{searchWith(`"url_sources":{}`), config + ".url_sources"},
			{searchWith(`"user_location":{"type":"exact"}`), config + ".user_location.type"},
			{searchWith(`"user_location":{"type":"approximate","country":"de"}`), config + ".user_location.country"},
			{searchWith(`"user_location":{"type":"approximate","city":""}`), config + ".user_location.city"},
		} {
			a := b.do(b.key, "POST", "/v1/agents", c.body)
			if f := a.failure(); a.status != http.StatusBadRequest || !strings.HasPrefix(f.Message, c.field+":") {
				t.Errorf("%s: %d %s, want a message about %s", c.body, a.status, a.body, c.field)
			}
		}
		for _, host := range []string{"example", "https://a.example", "a.example:80", "*.example.com", "10.0.0.1", "localhost", "a.local", "a.internal", "-a.example", "a..example", "bücher.example", "a.example?x", strings.Repeat("a", 64) + ".example", ""} {
			body, err := json.Marshal(host)
			must(t, err)
			a := b.do(b.key, "POST", "/v1/agents", searchWith(`"blocked_domains":["a.example",`+string(body)+`]`))
			if f := a.failure(); a.status != http.StatusBadRequest || !strings.HasPrefix(f.Message, config+".blocked_domains[1]:") {
				t.Errorf("the domain %q: %d %s", host, a.status, a.body)
			}
		}
	})
}

// TestAgentUpdateRules: what stays, what is cleared and what makes no version.
func TestAgentUpdateRules(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		made := ok[api.Agent](b, b.key, "POST", "/v1/agents", object{"name": "n", "description": "d", "system": "s",
			"model": object{"id": "m", "effort": "max", "speed": "fast", "inference_geo": "eu"}})
		path := "/v1/agents/" + made.ID
		same := ok[api.Agent](b, b.key, "POST", path, object{"name": "n", "description": "d", "system": "s", "version": 1,
			"model": object{"id": "m", "effort": "max", "speed": "fast", "inference_geo": "eu"}, "tools": nil, "metadata": object{"gone": nil}})
		if same.Version != 1 || !same.UpdatedAt.Equal(made.UpdatedAt) {
			t.Errorf("an update that changes nothing made version %d", same.Version)
		}
		for _, nothing := range []any{"", nil} {
			ok[api.Agent](b, b.key, "POST", path, object{"description": "d", "system": "s"})
			if a := ok[api.Agent](b, b.key, "POST", path, object{"description": nothing, "system": nothing}); a.Description != nil || a.System != nil {
				t.Errorf("%v clears to %v, %v", nothing, a.Description, a.System)
			}
		}
		// A model is replaced as a whole, except for its effort.
		replaced := ok[api.Agent](b, b.key, "POST", path, object{"model": "other"})
		if want := (api.ModelConfig{ID: "other", Speed: "standard", Effort: &api.Effort{Type: "max"}}); !reflect.DeepEqual(replaced.Model, want) {
			t.Errorf("the model is %s", mustJSON(replaced.Model))
		}
		b.wantCode("no model", b.do(b.key, "POST", path, object{"model": nil}), "agent_model_required")
		stale := b.do(b.key, "POST", path, object{"name": "x", "version": 1})
		if stale.status != http.StatusConflict || stale.header.Get("x-should-retry") != "false" || !strings.HasPrefix(stale.failure().Message, "version:") {
			t.Errorf("a stale version: %d %s", stale.status, stale.body)
		}
		ok[api.Agent](b, b.key, "POST", path+"/archive", nil)
		if a := b.do(b.key, "POST", path, object{"name": "x"}); a.status != http.StatusConflict {
			t.Errorf("an archived agent: %d %s", a.status, a.body)
		}
		if again := ok[api.Agent](b, b.key, "POST", path+"/archive", nil); again.ArchivedAt == nil {
			t.Error("archived twice, it is not archived")
		}
		// Versions never change: the first is still what was made.
		first := ok[api.Agent](b, b.key, "GET", path+"?version=1", nil)
		first.ArchivedAt = nil
		if !reflect.DeepEqual(decoded(t, first), decoded(t, made)) {
			t.Errorf("version 1 was %s and is %s", mustJSON(made), mustJSON(first))
		}
	})
}

// TestAgentsAreComparedAndSet: of updates at one version, one wins.
func TestAgentsAreComparedAndSet(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		a := b.agent()
		statuses := make([]int, 8)
		var all sync.WaitGroup
		for i := range statuses {
			all.Go(func() {
				statuses[i] = b.do(b.key, "POST", "/v1/agents/"+a.ID, object{"version": 1, "name": fmt.Sprint("name ", i)}).status
			})
		}
		all.Wait()
		slices.Sort(statuses)
		if statuses[0] != http.StatusOK || slices.Min(statuses[1:]) != http.StatusConflict || slices.Max(statuses) != http.StatusConflict {
			t.Errorf("answers %v", statuses)
		}
	})
}

// TestAgentOverrides: what a session's overrides inherit, clear and replace.
func TestAgentOverrides(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		env := b.environment()
		a := ok[api.Agent](b, b.key, "POST", "/v1/agents", `{"name":"n","system":"s","model":{"id":"m","effort":"low"},
			"mcp_servers":[{"type":"url","name":"issues","url":"https://mcp.example.com/mcp"}],"skills":[{"type":"anthropic","skill_id":"xlsx"}],
			"tools":[{"type":"agent_toolset_20260401"},{"type":"mcp_toolset","mcp_server_name":"issues"}]}`)
		create := func(overrides object) answer {
			agent := object{"type": "agent_with_overrides", "id": a.ID}
			maps.Copy(agent, overrides)
			return b.do(b.key, "POST", "/v1/sessions", object{"agent": agent, "environment_id": env.ID})
		}
		own := []object{{"type": "custom", "name": "ask", "description": "d", "input_schema": object{"type": "object"}}}
		for what, c := range map[string]struct {
			overrides object
			changes   func(*api.SessionAgent)
		}{
			"nothing":     {object{}, func(*api.SessionAgent) {}},
			"null system": {object{"system": nil}, func(s *api.SessionAgent) { s.System = nil }},
			"another model": {object{"model": object{"id": "other", "effort": "max"}}, func(s *api.SessionAgent) {
				s.Model = api.ModelConfig{ID: "other", Speed: "standard", Effort: &api.Effort{Type: "low"}}
			}},
			"no skills":         {object{"skills": []object{}}, func(s *api.SessionAgent) { s.Skills = []api.Skill{} }},
			"no skills by null": {object{"skills": nil}, func(s *api.SessionAgent) { s.Skills = []api.Skill{} }},
			"nothing to use": {object{"skills": nil, "tools": nil, "mcp_servers": []object{}}, func(s *api.SessionAgent) {
				s.Skills, s.Tools, s.MCPServers = []api.Skill{}, []api.Tool{}, []api.MCPServer{}
			}},
			"other tools": {object{"tools": own, "mcp_servers": nil}, func(s *api.SessionAgent) {
				s.MCPServers, s.Tools = []api.MCPServer{}, []api.Tool{{Type: "custom", Name: "ask", Description: "d", InputSchema: json.RawMessage(`{"type":"object"}`)}}
			}},
		} {
			answered := create(c.overrides)
			if answered.status != http.StatusOK {
				t.Errorf("%s: %d %s", what, answered.status, answered.body)
				continue
			}
			var got api.Session
			must(t, json.Unmarshal(answered.body, &got))
			want := api.SessionAgent{ID: a.ID, Type: "agent", Version: 1, Name: a.Name, Model: a.Model, System: a.System, Tools: a.Tools,
				MCPServers: a.MCPServers, Skills: a.Skills, Multiagent: a.Multiagent, ExecutionIdentity: a.ExecutionIdentity}
			c.changes(&want)
			if !reflect.DeepEqual(decoded(t, got.Agent), decoded(t, want)) {
				t.Errorf("%s: %s, want %s", what, mustJSON(got.Agent), mustJSON(want))
			}
		}
		for what, c := range map[string]struct {
			overrides object
			field     string
		}{
			"no model":              {object{"model": nil}, "agent.model"},
			"skills without tools":  {object{"tools": []object{}, "mcp_servers": nil}, "agent.tools"},
			"a toolset's server":    {object{"mcp_servers": []object{}}, "agent.tools[1].mcp_server_name"},
			"an unused server":      {object{"tools": own}, "agent.mcp_servers[0]"},
			"too long a system":     {object{"system": strings.Repeat("x", 100_001)}, "agent.system"},
			"a version of nothing":  {object{"version": 0}, "agent.version"},
			"a type of its own":     {object{"type": "agent_with_wings"}, "agent.type"},
			"a tool of no kind":     {object{"tools": []object{{"type": "hammer"}}}, "agent.tools[0].type"},
			"a skill of no id":      {object{"skills": []object{{"type": "custom"}}}, "agent.skills[0]"},
			"a server of no scheme": {object{"mcp_servers": []object{{"type": "url", "name": "issues", "url": "mcp"}}}, "agent.mcp_servers[0].url"},
		} {
			answered := create(c.overrides)
			if f := answered.failure(); answered.status != http.StatusBadRequest || !strings.HasPrefix(f.Message, c.field+":") {
				t.Errorf("%s: %d %s, want a message about %s", what, answered.status, answered.body, c.field)
			}
		}
		b.wantCode("no model", create(object{"model": nil}), "agent_model_required")
		if a := create(object{"version": 7}); a.status != http.StatusNotFound {
			t.Errorf("a version that is not there: %d %s", a.status, a.body)
		}
	})
}

// TestRandomUpdatesLoseNothing updates agents and sessions, two fields at a time
// and by several clients at once, and wants every field to be as its last
// update left it.
func TestRandomUpdatesLoseNothing(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		a := b.agent()
		s := b.session(a.ID, b.environment().ID)
		custom := func(name string) []object {
			return []object{{"type": "custom", "name": name, "description": "d", "input_schema": object{"type": "object"}}}
		}
		for what, target := range map[string]struct {
			path   string
			fields map[string]func(word string) any
		}{
			"agent": {"/v1/agents/" + a.ID, map[string]func(string) any{
				"name": func(w string) any { return w }, "description": func(w string) any { return w }, "system": func(w string) any { return w },
				"model":    func(w string) any { return object{"id": w, "effort": "low", "speed": "standard"} },
				"metadata": func(w string) any { return object{"k": w, w: nil} }, "tools": func(w string) any { return custom(w) },
				"skills": func(w string) any { return []object{{"type": "anthropic", "skill_id": w, "version": "1"}} },
			}},
			"session": {"/v1/sessions/" + s.ID, map[string]func(string) any{
				"title": func(w string) any { return w }, "metadata": func(w string) any { return object{"k": w} },
				"agent": func(w string) any { return object{"tools": custom(w)} },
			}},
		} {
			names := slices.Sorted(maps.Keys(target.fields))
			var clients sync.WaitGroup
			var mu sync.Mutex
			last := map[string][]string{} // words sent for a field in the last round
			for round := range 6 {
				seed := rand.Uint64()
				random := rand.New(rand.NewPCG(seed, uint64(round)))
				// Each client has fields of its own, so that what is left is known.
				random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
				for client := range 3 {
					body := object{}
					for i := client; i < len(names); i += 3 {
						if random.IntN(4) > 0 {
							word := fmt.Sprintf("w%d-%d", round, random.IntN(1000))
							body[names[i]] = target.fields[names[i]](word)
							mu.Lock()
							last[names[i]] = append(last[names[i]], word)
							mu.Unlock()
						}
					}
					clients.Go(func() {
						if answered := b.do(b.key, "POST", target.path, body); answered.status != http.StatusOK {
							t.Errorf("%s: %d %s", what, answered.status, answered.body)
						}
					})
				}
				clients.Wait()
				now := string(mustJSON(ok[object](b, b.key, "GET", target.path, nil)))
				for field, words := range last {
					if word := words[len(words)-1]; !strings.Contains(now, `"`+word+`"`) {
						t.Errorf("%s after round %d (seed %d): %s should hold %s: %s", what, round, seed, field, word, now)
					}
				}
			}
		}
	})
}

// TestSessionUpdateRules: what may change when, and what the log says of it.
func TestSessionUpdateRules(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		env := b.environment()
		s := ok[api.Session](b, b.key, "POST", "/v1/sessions", object{"agent": b.agent().ID, "environment_id": env.ID, "title": "t", "metadata": object{"a": "1"}})
		path := "/v1/sessions/" + s.ID
		server := object{"type": "url", "name": "issues", "url": "https://mcp.example.com"}
		toolset := object{"type": "mcp_toolset", "mcp_server_name": "issues"}
		for _, body := range []object{
			{"title": "t"}, // nothing
			{"title": "u"}, {"title": nil}, {"metadata": object{"b": "2"}}, {"metadata": object{"a": nil, "b": nil}},
			{"agent": object{"tools": []object{toolset}, "mcp_servers": []object{server}}},
			{"agent": object{"tools": []object{toolset}}}, // nothing
			{"agent": object{"tools": []object{}, "mcp_servers": nil}, "title": "v"},
		} {
			ok[api.Session](b, b.key, "POST", path, body)
		}
		log := ok[api.Page[object]](b, b.key, "GET", path+"/events?types[]=session.updated", nil).Data
		var said []object
		for _, e := range log {
			delete(e, "id")
			delete(e, "processed_at")
			delete(e, "type")
			if agent, changed := e["agent"].(object); changed {
				e["agent"] = len(agent["tools"].([]any))
			}
			said = append(said, e)
		}
		want := []object{{"title": "u"}, {"title": nil}, {"metadata": object{"a": "1", "b": "2"}}, {}, {"agent": 1}, {"agent": 0, "title": "v"}}
		if !reflect.DeepEqual(decoded(t, said), decoded(t, want)) {
			t.Errorf("the log says %s, want %s", mustJSON(said), mustJSON(want))
		}
		for what, c := range map[string]struct {
			body  object
			field string
		}{
			"a server without a toolset": {object{"agent": object{"mcp_servers": []object{server}}}, "agent.mcp_servers[0]"},
			"a toolset without a server": {object{"agent": object{"tools": []object{toolset}}}, "agent.tools[0].mcp_server_name"},
			"a tool of no kind":          {object{"agent": object{"tools": []object{{"type": "hammer"}}}}, "agent.tools[0].type"},
			"too long a title":           {object{"title": strings.Repeat("x", 513)}, "title"},
		} {
			a := b.do(b.key, "POST", path, c.body)
			if f := a.failure(); a.status != http.StatusBadRequest || !strings.HasPrefix(f.Message, c.field+":") {
				t.Errorf("%s: %d %s, want a message about %s", what, a.status, a.body, c.field)
			}
		}
		ok[api.Session](b, b.key, "POST", path+"/archive", nil)
		if a := b.do(b.key, "POST", path, object{"title": "x"}); a.status != http.StatusConflict {
			t.Errorf("an archived session: %d %s", a.status, a.body)
		}
		over := ok[api.Session](b, b.key, "GET", path, nil)
		if again := ok[api.Session](b, b.key, "GET", path, nil); again.Stats != over.Stats {
			t.Errorf("the times of a session that is over go on: %+v, %+v", over.Stats, again.Stats)
		}
	})
}

// TestInitialEvents: all of them or no session.
func TestInitialEvents(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		agent, env := b.agent(), b.environment()
		create := func(events ...object) answer {
			return b.do(b.key, "POST", "/v1/sessions", object{"agent": agent.ID, "environment_id": env.ID, "initial_events": events})
		}
		system := object{"type": "system.message", "content": []object{{"type": "text", "text": "x"}}}
		for what, c := range map[string]struct {
			events []object
			field  string
		}{
			"an outcome":              {[]object{message("a"), {"type": "user.define_outcome", "description": "d", "rubric": object{"type": "text", "content": "c"}}}, "initial_events[1].type"},
			"a system message":        {[]object{message("a"), system}, "initial_events[1].type"},
			"an interrupt":            {[]object{{"type": "user.interrupt"}}, "initial_events[0].type"},
			"a message of nothing":    {[]object{message("a"), {"type": "user.message", "content": []object{}}}, "initial_events[1].content"},
			"a block that is no text": {[]object{{"type": "user.message", "content": []object{{"type": "redacted"}}}}, "initial_events[0].content[0].type"},
			"fifty-one":               {slices.Repeat([]object{message("a")}, 51), "initial_events"},
		} {
			a := create(c.events...)
			if f := a.failure(); a.status != http.StatusBadRequest || !strings.HasPrefix(f.Message, c.field+":") {
				t.Errorf("%s: %d %s, want a message about %s", what, a.status, a.body, c.field)
			}
		}
		if n := len(ok[api.Page[api.Session]](b, b.key, "GET", "/v1/sessions", nil).Data); n != 0 {
			t.Errorf("%d sessions were made", n)
		}
		if a := create(slices.Repeat([]object{message("a")}, 50)...); a.status != http.StatusOK {
			t.Errorf("fifty: %d %s", a.status, a.body)
		}
		if s := ok[api.Session](b, b.key, "POST", "/v1/sessions", object{"agent": agent.ID, "environment_id": env.ID, "initial_events": nil}); s.Status != api.SessionIdle {
			t.Errorf("without events a session is %s", s.Status)
		}
	})
}

// TestSystemMessages: where they may stand, and how many blocks they have.
func TestSystemMessages(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		system := func(blocks int) object {
			return object{"type": "system.message", "content": slices.Repeat([]object{{"type": "text", "text": "x"}}, blocks)}
		}
		send := func(events ...object) answer {
			return b.do(b.key, "POST", "/v1/sessions/"+s.session.ID+"/events", object{"events": events})
		}
		result := object{"type": "user.tool_result", "tool_use_id": s.call}
		for what, c := range map[string]struct {
			events []object
			field  string
		}{
			"alone":                           {[]object{system(1)}, "events[0]"},
			"first":                           {[]object{system(1), message("a")}, "events[0]"},
			"after an interrupt":              {[]object{{"type": "user.interrupt"}, system(1)}, "events[1]"},
			"twice":                           {[]object{message("a"), system(1), system(1)}, "events[1]"},
			"of no block":                     {[]object{result, system(0)}, "events[1].content"},
			"of too many":                     {[]object{result, system(1001)}, "events[1].content"},
			"with a message that has to wait": {[]object{message("a"), system(1)}, "events[1]"},
			"with an image":                   {[]object{result, {"type": "system.message", "content": []object{{"type": "image"}}}}, "events[1].content[0].type"},
		} {
			a := send(c.events...)
			if f := a.failure(); a.status != http.StatusBadRequest || !strings.HasPrefix(f.Message, c.field+":") {
				t.Errorf("%s: %d %s, want a message about %s", what, a.status, a.body, c.field)
			}
		}
		if a := send(result, system(1000)); a.status != http.StatusOK {
			t.Errorf("with a result: %d %s", a.status, a.body)
		}
		b.awaitIdle(s.session.ID)
		if a := send(message("a"), system(1)); a.status != http.StatusOK {
			t.Errorf("with a message: %d %s", a.status, a.body)
		}
	})
}
