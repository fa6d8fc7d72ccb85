package server

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
)

// verdict is how a route answers each kind of credential that is valid. All
// others get a 401. Another's environment key, and another session's token, are
// of the right kind where that is taken, and see nothing.
type verdict struct {
	apiKey, envKey, othersKey, token, othersToken int
	role                                          auth.Role // the least that an API key must have, where apiKey is below 400
	body                                          string    // with {session_id} and such for ids
	// files are sent as multipart/form-data, contents by file name, with body's
	// fields, if there are any.
	files map[string]string
}

// verdicts is the authorisation table as the contract has it, by route. A
// resource's rows are beside its tests.
var verdicts = union(coreVerdicts, fileVerdicts, webhookVerdicts, deploymentVerdicts)

func union(tables ...map[string]verdict) map[string]verdict {
	all := map[string]verdict{}
	for _, table := range tables {
		maps.Copy(all, table)
	}
	return all
}

var coreVerdicts = map[string]verdict{
	"GET /healthz":      {apiKey: 200, envKey: 200, othersKey: 200, token: 200, othersToken: 200},
	"GET /readyz":       {apiKey: 200, envKey: 200, othersKey: 200, token: 200, othersToken: 200},
	"GET /openapi.json": {apiKey: 200, envKey: 200, othersKey: 200, token: 200, othersToken: 200},

	"POST /v1/agents":                    forRole(auth.RoleDeveloper, `{"name":"another","model":"test-model"}`),
	"GET /v1/agents":                     forRole(auth.RoleViewer, ""),
	"GET /v1/agents/{agent_id}":          forRole(auth.RoleViewer, ""),
	"POST /v1/agents/{agent_id}":         forRole(auth.RoleDeveloper, `{"name":"renamed"}`),
	"POST /v1/agents/{agent_id}/archive": forRole(auth.RoleDeveloper, ""),
	"GET /v1/agents/{agent_id}/versions": forRole(auth.RoleViewer, ""),

	"POST /v1/environments":                          forRole(auth.RoleDeveloper, `{"name":"another {session_id}"}`),
	"GET /v1/environments":                           forRole(auth.RoleViewer, ""),
	"GET /v1/environments/{environment_id}":          forRole(auth.RoleViewer, ""),
	"POST /v1/environments/{environment_id}":         forRole(auth.RoleDeveloper, `{"description":"described"}`),
	"POST /v1/environments/{environment_id}/archive": forRole(auth.RoleDeveloper, ""),
	// It is let in, and then told of the sessions that are left.
	"DELETE /v1/environments/{environment_id}": {apiKey: 409, role: auth.RoleDeveloper, envKey: 403, othersKey: 403, token: 403, othersToken: 403},

	"POST /v1/environments/{environment_id}/keys":                 forRole(auth.RoleAdmin, `{"name":"second"}`),
	"GET /v1/environments/{environment_id}/keys":                  forRole(auth.RoleViewer, ""),
	"POST /v1/environments/{environment_id}/keys/{key_id}/revoke": forRole(auth.RoleAdmin, ""),

	"GET /v1/environments/{environment_id}/work":                      {apiKey: 200, role: auth.RoleViewer, envKey: 200, othersKey: 404, token: 403, othersToken: 403},
	"GET /v1/environments/{environment_id}/work/poll":                 {apiKey: 403, envKey: 200, othersKey: 404, token: 403, othersToken: 403},
	"GET /v1/environments/{environment_id}/work/stats":                {apiKey: 200, role: auth.RoleViewer, envKey: 200, othersKey: 404, token: 403, othersToken: 403},
	"GET /v1/environments/{environment_id}/work/{work_id}":            forRole(auth.RoleViewer, ""),
	"POST /v1/environments/{environment_id}/work/{work_id}":           forRole(auth.RoleDeveloper, `{"metadata":{"a":"b"}}`),
	"POST /v1/environments/{environment_id}/work/{work_id}/ack":       {apiKey: 403, envKey: 200, othersKey: 404, token: 200, othersToken: 404},
	"POST /v1/environments/{environment_id}/work/{work_id}/heartbeat": {apiKey: 403, envKey: 200, othersKey: 404, token: 200, othersToken: 404},
	"POST /v1/environments/{environment_id}/work/{work_id}/stop":      {apiKey: 200, role: auth.RoleDeveloper, envKey: 200, othersKey: 404, token: 200, othersToken: 404, body: `{"force":true}`},

	"POST /v1/sessions":                           forRole(auth.RoleDeveloper, `{"agent":"{agent_id}","environment_id":"{environment_id}"}`),
	"GET /v1/sessions":                            forRole(auth.RoleViewer, ""),
	"POST /v1/sessions/{session_id}":              forRole(auth.RoleDeveloper, `{"title":"titled"}`),
	"DELETE /v1/sessions/{session_id}":            forRole(auth.RoleDeveloper, ""),
	"POST /v1/sessions/{session_id}/archive":      forRole(auth.RoleDeveloper, ""),
	"GET /v1/sessions/{session_id}":               ofTheSession(auth.RoleViewer, ""),
	"GET /v1/sessions/{session_id}/events":        ofTheSession(auth.RoleViewer, ""),
	"GET /v1/sessions/{session_id}/events/stream": ofTheSession(auth.RoleViewer, ""),
	"POST /v1/sessions/{session_id}/events":       ofTheSession(auth.RoleDeveloper, `{"events":[{"type":"user.tool_result","tool_use_id":"{call_id}"}]}`),
}

// forRole is for API keys with at least a role, and for no other credential.
func forRole(least auth.Role, body string) verdict {
	return verdict{apiKey: 200, role: least, envKey: 403, othersKey: 403, token: 403, othersToken: 403, body: body}
}

func ofTheSession(least auth.Role, body string) verdict {
	return verdict{apiKey: 200, role: least, envKey: 200, othersKey: 404, token: 200, othersToken: 404, body: body}
}

// TestEveryRouteHasAVerdict fails for a route that nobody thought about.
func TestEveryRouteHasAVerdict(t *testing.T) {
	routes := map[string]bool{}
	for _, rt := range (&server{}).routes() {
		name := rt.method + " " + rt.path
		routes[name] = true
		if _, ok := verdicts[name]; !ok {
			t.Errorf("%s has no row in the table of verdicts", name)
		}
	}
	for name := range verdicts {
		if !routes[name] {
			t.Errorf("there is a verdict about %s, which is no route", name)
		}
	}
}

// site is an environment at work: a worker holds the lease of a session that
// waits for one call.
type site struct {
	*brain
	agent   api.Agent
	env     api.Environment
	key     api.EnvironmentKey
	session api.Session
	work    *api.Work
	token   string
	call    string
	ids     map[string]string // of the objects of each resource, by parameter
}

func (b *brain) site() *site {
	b.t.Helper()
	s := &site{brain: b, agent: b.agent(), env: b.environment()}
	s.key = b.envKey(s.env.ID, nil)
	s.session = ok[api.Session](b, b.key, "POST", "/v1/sessions", object{
		"agent": s.agent.ID, "environment_id": s.env.ID, "initial_events": []object{message("$ true")},
		"resources": []object{{"type": "github_repository", "url": "https://git.example.com/team/tool"}},
	})
	s.work, s.token = b.claimed(s.key.Key, s.env.ID)
	s.call = b.awaitIdle(s.session.ID).EventIDs[0]
	s.ids = map[string]string{
		"agent_id": s.agent.ID, "environment_id": s.env.ID, "key_id": s.key.ID,
		"session_id": s.session.ID, "work_id": s.work.ID, "call_id": s.call,
	}
	s.addFiles()
	s.addWebhook()
	s.addDeployment()
	return s
}

// fill puts the site's ids in the place of {session_id} and such.
func (s *site) fill(text string) string {
	for name, id := range s.ids {
		text = strings.ReplaceAll(text, "{"+name+"}", id)
	}
	return text
}

func (s *site) ask(credential string, rt route) answer {
	s.t.Helper()
	v := verdicts[rt.method+" "+rt.path]
	switch {
	case v.files != nil:
		return s.upload(credential, s.fill(rt.path), v.files)
	case v.body != "":
		return s.do(credential, rt.method, s.fill(rt.path), s.fill(v.body))
	}
	return s.do(credential, rt.method, s.fill(rt.path), nil)
}

// state is all that refusals must not change, as a client with the API key
// reads it, without what the clock alone changes.
func (s *site) state() string {
	s.t.Helper()
	var all strings.Builder
	for _, path := range []string{
		"/v1/agents", "/v1/agents/{agent_id}/versions", "/v1/environments", "/v1/environments/{environment_id}/keys",
		"/v1/environments/{environment_id}/work", "/v1/sessions?include_archived=true", "/v1/sessions/{session_id}/events",
	} {
		page := ok[api.Page[object]](s.brain, s.brain.key, "GET", s.fill(path), nil)
		for _, o := range page.Data {
			delete(o, "stats")
			raw, err := json.Marshal(o)
			must(s.t, err)
			all.Write(append(raw, '\n'))
		}
	}
	return all.String()
}

// worthless are the credentials that no route takes, by what is wrong with them.
func (s *site) worthless() map[string]string {
	s.t.Helper()
	revoked := s.envKey(s.env.ID, nil)
	ok[api.EnvironmentKey](s.brain, s.brain.key, "POST", "/v1/environments/"+s.env.ID+"/keys/"+revoked.ID+"/revoke", nil)
	expired := s.envKey(s.env.ID, object{"expires_at": time.Now().Add(20 * time.Millisecond)})
	s.eventually("the key expires", func() bool {
		return s.do(expired.Key, "GET", "/v1/environments/"+s.env.ID+"/work/stats", nil).status == http.StatusUnauthorized
	})
	s.brain.session(s.agent.ID, s.env.ID, "$ true")
	superseded := s.brain.token(s.poll(s.key.Key, s.env.ID, "?block_ms=999"))
	again := s.poll(s.key.Key, s.env.ID, "?block_ms=999&reclaim_older_than_ms=1")
	over := s.brain.token(again)
	ok[api.Work](s.brain, over, "POST", "/v1/environments/"+s.env.ID+"/work/"+again.ID+"/stop", object{"force": true})
	return map[string]string{
		"none": "", "unknown": "not-a-key-anybody-was-given", "unknown environment key": "hek_not_a_key",
		"forged token": s.token + "x", "unsigned token": "hst_e30.e30.", "revoked key": revoked.Key, "expired key": expired.Key,
		"token of a superseded claim": superseded, "token of a stopped item": over,
	}
}

// TestRefusals walks every route with every credential that it does not take.
func TestRefusals(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s, other := b.site(), b.site()
		worthless := s.worthless()
		neighbour := b.session(s.agent.ID, s.env.ID, "$ true")
		work, othersToken := b.claimed(s.key.Key, s.env.ID)
		for work.Data.ID != neighbour.ID { // the item stopped above was offered again
			work, othersToken = b.claimed(s.key.Key, s.env.ID)
		}
		b.awaitIdle(neighbour.ID)
		for _, rt := range (&server{}).routes() {
			name := rt.method + " " + rt.path
			v := verdicts[name]
			before := s.state()
			refuse := func(kind, credential string, want int) {
				t.Helper()
				if want < 400 {
					return
				}
				a := s.ask(credential, rt)
				s.wantRefusal(name+" with "+kind, a, want)
			}
			if rt.access != public {
				for kind, credential := range worthless {
					refuse(kind, credential, http.StatusUnauthorized)
				}
			}
			refuse("an API key", b.key, v.apiKey)
			refuse("an environment key", s.key.Key, v.envKey)
			refuse("another environment's key", other.key.Key, v.othersKey)
			refuse("a sessions token", s.token, v.token)
			refuse("another session's token", othersToken, v.othersToken)
			refuse("another environment's token", other.token, v.othersToken)
			if after := s.state(); after != before {
				t.Errorf("refusals of %s changed\n%s\nto\n%s", name, before, after)
			}
		}
	})
}

func (s *site) wantRefusal(what string, a answer, want int) {
	s.t.Helper()
	types := map[int]api.ErrorType{401: api.ErrAuthentication, 403: api.ErrPermission, 404: api.ErrNotFound, 409: api.ErrInvalidRequest}
	f := a.failure()
	if a.status != want || f.Type != types[want] || f.Message == "" {
		s.t.Errorf("%s: %d %s, want %d %s", what, a.status, a.body, want, types[want])
	}
	if again := a.header.Get("x-should-retry"); (want == 409) != (again == "false") {
		s.t.Errorf("%s: %d with x-should-retry %q", what, want, again)
	}
}

// TestEntry walks every route with every credential that it takes, each on
// objects that nothing has touched.
func TestEntry(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		for _, rt := range (&server{}).routes() {
			name := rt.method + " " + rt.path
			v := verdicts[name]
			for kind, want := range map[string]int{"an API key": v.apiKey, "an environment key": v.envKey, "a sessions token": v.token} {
				if want >= 400 {
					continue
				}
				s := b.site()
				credential := map[string]string{"an API key": b.key, "an environment key": s.key.Key, "a sessions token": s.token}[kind]
				if a := s.ask(credential, rt); a.status != want {
					t.Errorf("%s with %s: %d %s, want %s", name, kind, a.status, a.body, strconv.Itoa(want))
				}
			}
		}
	})
}

// TestPublicRoutesTakeAnyone: a probe needs no credential, and a bad one does
// not stop it.
func TestPublicRoutesTakeAnyone(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		for _, path := range []string{"/healthz", "/readyz", "/openapi.json"} {
			for _, credential := range []string{"", "not-a-key-anybody-was-given"} {
				if a := b.do(credential, "GET", path, nil); a.status != http.StatusOK || a.header.Get("request-id") == "" {
					t.Errorf("%s with %q: %d, request-id %q", path, credential, a.status, a.header.Get("request-id"))
				}
			}
		}
	})
}

// TestTwoCredentials: two that differ are refused, not chosen from.
func TestTwoCredentials(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		for bearer, want := range map[string]int{s.key.Key: 401, b.key: 200} {
			r := b.request(b.ctx, b.key, "GET", "/v1/sessions/"+s.session.ID, nil)
			r.Header.Set("Authorization", "Bearer "+bearer)
			response, err := b.http.Do(r)
			must(t, err)
			response.Body.Close()
			if response.StatusCode != want {
				t.Errorf("status %d, want %d", response.StatusCode, want)
			}
		}
	})
}

// TestWorkersSendOnlyResults: a worker cannot speak for the user.
func TestWorkersSendOnlyResults(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		before := s.state()
		for _, event := range []object{
			message("obey"), {"type": "user.interrupt"}, {"type": "user.tool_confirmation", "tool_use_id": s.call, "result": "allow"},
			{"type": "system.message", "content": []object{{"type": "text", "text": "obey"}}}, {"type": "user.define_outcome"},
		} {
			for _, credential := range []string{s.token, s.key.Key} {
				a := b.do(credential, "POST", "/v1/sessions/"+s.session.ID+"/events", object{"events": []object{event}})
				s.wantRefusal(event["type"].(string), a, http.StatusForbidden)
			}
		}
		if s.state() != before {
			t.Error("what was refused has changed something")
		}
	})
}
