package server

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// form is a request that is well as it stands, and what its fields may hold.
type form struct {
	route string // with {session_id} and such for ids
	body  string
	// fields says of each field which JSON types it takes, and its rules:
	// "required", "max N" characters, "choice" of known words, "whole" numbers.
	fields map[string]string
}

// forms is every request with a body. A resource's are beside its tests.
var forms = slices.Concat(coreForms, memoryForms, threadForms, budgetForms, workspaceForms, vaultForms, tunnelForms, profileForms, dreamForms, webhookForms, deploymentForms)

var coreForms = []form{
	{"POST /v1/agents", `{"name":"n","model":{"id":"m","effort":"low","speed":"fast"},"description":"d","system":"s","metadata":{"k":"v"},
		"skills":[{"type":"anthropic","skill_id":"xlsx"}],"mcp_servers":[{"type":"url","name":"s","url":"https://example.com"}],
		"tools":[{"type":"custom","name":"ask","description":"d","input_schema":{"type":"object"}},{"type":"mcp_toolset","mcp_server_name":"s"},
			{"type":"agent_toolset_20260401","default_config":{"enabled":true,"permission_policy":{"type":"always_ask"}},"configs":[{"name":"bash","enabled":false}]}]}`,
		map[string]string{
			"name": "string required max 256", "model": "string object required", "model.id": "string required max 256", "model.effort": "string object null choice",
			"model.speed": "string null choice", "description": "string null max 2048", "system": "string null max 100000", "metadata": "object null",
			"metadata.k": "string null max 512", "skills": "array null", "skills[0].type": "string required choice", "skills[0].skill_id": "string required",
			"mcp_servers[0].url": "string required max 2048", "mcp_servers[0].name": "string required max 255", "mcp_servers[0].type": "string required choice",
			"tools": "array null", "tools[0].type": "string required choice", "tools[0].name": "string required max 128", "tools[0].description": "string required",
			"tools[0].input_schema": "object required", "tools[1].mcp_server_name": "string required choice",
			"tools[2].default_config": "object null", "tools[2].default_config.enabled": "boolean null", "tools[2].default_config.permission_policy.type": "string choice",
			"tools[2].configs": "array null", "tools[2].configs[0].name": "string required choice", "tools[2].configs[0].enabled": "boolean null",
		}},
	{"POST /v1/agents/{agent_id}", `{"name":"n","description":"d","version":1,"metadata":{"k":"v"}}`, map[string]string{
		"name": "string max 256", "description": "string null max 2048", "version": "number null whole", "metadata": "object null", "metadata.k": "string null max 512"}},
	{"POST /v1/environments", `{"name":"n","description":"d","scope":"account","metadata":{"k":"v"},"config":{"type":"cloud","packages":{"pip":["numpy"]},
		"networking":{"type":"limited","allowed_hosts":["example.com"],"allow_mcp_servers":true}}}`, map[string]string{
		"name": "string required max 256", "description": "string null max 2048", "scope": "string null choice", "metadata": "object null", "metadata.k": "string null max 512",
		"config": "object null", "config.type": "string required choice", "config.networking": "object null", "config.networking.type": "string required choice",
		"config.networking.allowed_hosts": "array null", "config.networking.allow_mcp_servers": "boolean null", "config.packages": "object null", "config.packages.pip": "array null"}},
	{"POST /v1/environments/{environment_id}", `{"name":"n","description":"d","scope":"account","metadata":{"k":"v"},"config":{"type":"self_hosted"}}`, map[string]string{
		"name": "string null max 256", "description": "string null max 2048", "scope": "string null choice", "metadata": "object null", "metadata.k": "string null max 512",
		"config": "object null", "config.type": "string required choice"}},
	{"POST /v1/environments/{environment_id}/keys", `{"name":"n","expires_at":"2999-01-01T00:00:00Z"}`, map[string]string{
		"name": "string required max 256", "expires_at": "string null choice"}},
	{"POST /v1/environments/{environment_id}/work/{work_id}", `{"metadata":{"k":"v"}}`, map[string]string{
		"metadata": "object required", "metadata.k": "string null max 512"}},
	{"POST /v1/environments/{environment_id}/work/{work_id}/stop", `{"force":true}`, map[string]string{"force": "boolean null"}},
	{"POST /v1/sessions", `{"agent":{"type":"agent_with_overrides","id":"{agent_id}","version":1,"system":"s"},"environment_id":"{environment_id}","title":"t",
		"metadata":{"k":"v"},"initial_events":[{"type":"user.message","content":[{"type":"text","text":"hello"}]}]}`, map[string]string{
		"agent": "object string required", "agent.id": "string required", "agent.type": "string required choice", "agent.version": "number whole null", "agent.system": "string null max 100000",
		"environment_id": "string required", "title": "string null max 512", "metadata": "object null", "metadata.k": "string max 512 null", "initial_events": "array null",
		"initial_events[0]": "object", "initial_events[0].type": "string required choice", "initial_events[0].content": "array required",
		"initial_events[0].content[0].type": "string required choice", "initial_events[0].content[0].text": "string required"}},
	{"POST /v1/sessions/{session_id}", `{"title":"t","metadata":{"k":"v"}}`, map[string]string{
		"title": "string null max 512", "metadata": "object null", "metadata.k": "string null max 512"}},
	{"POST /v1/sessions/{session_id}/resources", `{"type":"file","file_id":"{file_id}","mount_path":"there"}`, map[string]string{
		"type": "string required choice", "file_id": "string required", "mount_path": "string null max 1000"}},
	{"POST /v1/sessions/{session_id}/events", `{"events":[{"type":"user.message","content":[{"type":"text","text":"hello"},
		{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}}]}]}`, map[string]string{
		"events": "array required", "events[0]": "object", "events[0].type": "string required choice", "events[0].content": "array required",
		"events[0].content[0]": "object", "events[0].content[0].type": "string required choice", "events[0].content[0].text": "string required",
		"events[0].content[1].source": "object required", "events[0].content[1].source.type": "string required choice",
		"events[0].content[1].source.data": "string required", "events[0].content[1].source.media_type": "string required"}},
	{"POST /v1/sessions/{session_id}/events", `{"events":[{"type":"user.tool_result","tool_use_id":"{call_id}","is_error":false,"content":[{"type":"text","text":"done"}]}]}`, map[string]string{
		"events[0].tool_use_id": "string required choice", "events[0].is_error": "boolean null", "events[0].content": "array null",
		"events[0].content[0].type": "string required choice"}},
	{"POST /v1/sessions/{session_id}/events", `{"events":[{"type":"user.custom_tool_result","custom_tool_use_id":"{call_id}"}]}`, map[string]string{
		"events[0].custom_tool_use_id": "string required choice"}},
	{"POST /v1/sessions/{session_id}/events", `{"events":[{"type":"user.tool_confirmation","tool_use_id":"{call_id}","result":"deny","deny_message":"no"}]}`, map[string]string{
		"events[0].tool_use_id": "string required choice", "events[0].result": "string required choice", "events[0].deny_message": "string null"}},
	{"POST /v1/sessions/{session_id}/events", `{"events":[{"type":"user.interrupt","session_thread_id":null}]}`, map[string]string{
		"events[0].session_thread_id": "string null choice"}},
}

// mistake is a body with one thing wrong.
type mistake struct {
	what, field string
	body        []byte
}

// samples is a value of each JSON type.
var samples = map[string]any{"string": "x", "number": 7, "boolean": true, "array": []any{7}, "object": object{"x": 7}, "null": nil}

// mistakes makes every mistake that can be made with the form's fields.
func (f form) mistakes(t *testing.T, valid string) []mistake {
	t.Helper()
	var all []mistake
	add := func(what, field string, change func(parent any, key any)) {
		body := parse(t, valid)
		parent, key := locate(body, field)
		change(parent, key)
		raw, err := json.Marshal(body)
		must(t, err)
		all = append(all, mistake{what, field, raw})
	}
	to := func(v any) func(any, any) { return func(parent, key any) { set(parent, key, v) } }
	for field, rules := range f.fields {
		words := strings.Fields(rules)
		for kind, sample := range samples {
			if !slices.Contains(words, kind) && !(kind == "null" && !slices.Contains(words, "required")) {
				add("a "+kind, field, to(sample))
			}
		}
		for i, word := range words {
			switch word {
			case "required":
				add("nothing", field, func(parent, key any) { delete(parent.(object), key.(string)) })
			case "choice":
				add("an unknown word", field, to("no-such-word"))
			case "max":
				n, err := strconv.Atoi(words[i+1])
				must(t, err)
				add("too long a text", field, to(strings.Repeat("é", n+1)))
			case "whole":
				for _, n := range []string{"1e400", "99999999999999999999", "1.5", "-1"} {
					add(n, field, to(json.Number(n)))
				}
			case "string":
				add("a NUL character", field, to("a\x00b"))
			case "object":
				add("a key with a NUL character", field, to(object{"a\x00b": "x"}))
			}
		}
	}
	return all
}

func parse(t *testing.T, raw string) any {
	t.Helper()
	var v any
	must(t, json.Unmarshal([]byte(raw), &v))
	return v
}

// locate finds what holds a field, and the field's key in it.
func locate(v any, field string) (parent, key any) {
	for i, step := range strings.Split(strings.NewReplacer("[", ".", "]", "").Replace(field), ".") {
		if i > 0 {
			v = get(v, key)
		}
		key = step
		if n, err := strconv.Atoi(step); err == nil {
			key = n
		}
	}
	return v, key
}

func get(parent, key any) any {
	if i, isIndex := key.(int); isIndex {
		return parent.([]any)[i]
	}
	return parent.(object)[key.(string)]
}

func set(parent, key, v any) {
	if i, isIndex := key.(int); isIndex {
		parent.([]any)[i] = v
		return
	}
	parent.(object)[key.(string)] = v
}
