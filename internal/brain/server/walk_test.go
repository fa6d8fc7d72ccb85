package server

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/test/fakemodel"
)

// verdict is how a route answers each kind of credential that is valid. All
// others get a 401. Another's environment key, and another session's token, are
// of the right kind where that is taken, and see nothing.
type verdict struct {
	apiKey, envKey, othersKey, token, othersToken int
	role                                          auth.Role // the least that an API key must have; "" where none is taken
	operator                                      bool      // of the default workspace only
	body                                          string    // with {session_id} and such for ids
	// files are sent as multipart/form-data, contents by file name, with body's
	// fields, if there are any.
	files map[string]string
}

// verdicts is the authorisation table as the contract has it, by route. A
// resource's rows are beside its tests.
var verdicts = union(coreVerdicts, fileVerdicts, memoryVerdicts, threadVerdicts, workspaceVerdicts, vaultVerdicts, tunnelVerdicts, profileVerdicts, dreamVerdicts, skillVerdicts, modelVerdicts, webhookVerdicts, deploymentVerdicts)

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
	"HEAD /healthz":     {apiKey: 200, envKey: 200, othersKey: 200, token: 200, othersToken: 200},
	"HEAD /readyz":      {apiKey: 200, envKey: 200, othersKey: 200, token: 200, othersToken: 200},
	"GET /openapi.json": {apiKey: 200, envKey: 200, othersKey: 200, token: 200, othersToken: 200},

	"POST /v1/agents":                    forRole(auth.RoleDeveloper, `{"name":"another","model":"test-model"}`),
	"GET /v1/agents":                     forRole(auth.RoleViewer, ""),
	"GET /v1/agents/{agent_id}":          forRole(auth.RoleViewer, ""),
	"POST /v1/agents/{agent_id}":         forRole(auth.RoleDeveloper, `{"name":"renamed"}`),
	"POST /v1/agents/{agent_id}/archive": forRole(auth.RoleDeveloper, ""),
	"GET /v1/agents/{agent_id}/versions": forRole(auth.RoleViewer, ""),

	"POST /v1/environments":                          forRole(auth.RoleDeveloper, `{"name":"another {unique}"}`),
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
	s := &site{brain: b, agent: b.coordinator(), env: b.environment()}
	s.key = b.envKey(s.env.ID, nil)
	memories := b.memories()
	skillIDs := s.addSkill()
	s.session = ok[api.Session](b, b.key, "POST", "/v1/sessions", object{
		"agent": s.agentWith(skillIDs), "environment_id": s.env.ID, "initial_events": []object{message("@coordinator rest\n$ true")},
		"resources": []object{{"type": "github_repository", "url": "https://git.example.com/team/tool"}, {"type": "memory_store", "memory_store_id": memories["memory_store_id"]}},
	})
	s.work, s.token = b.claimed(s.key.Key, s.env.ID)
	s.call = b.awaitIdle(s.session.ID).EventIDs[0]
	s.ids = map[string]string{
		"agent_id": s.agent.ID, "environment_id": s.env.ID, "key_id": s.key.ID,
		"session_id": s.session.ID, "work_id": s.work.ID, "call_id": s.call,
	}
	maps.Copy(s.ids, memories)
	s.addFiles()
	maps.Copy(s.ids, skillIDs)
	s.ids["model_id"] = fakemodel.Models[0]
	s.addThreads()
	s.addBudget()
	s.addWorkspaces()
	s.addVault()
	s.addTunnel()
	s.addProfile()
	s.addDream()
	s.addWebhook()
	s.addDeployment()
	return s
}

// unique is a name that nothing has, of the characters that any name may have.
func unique() string { return strings.ReplaceAll(api.NewID("name"), "_", "-") }

// fill puts the site's ids in the place of {session_id} and such.
func (s *site) fill(text string) string {
	for name, id := range s.ids {
		text = strings.ReplaceAll(text, "{"+name+"}", id)
	}
	return text
}

func (s *site) ask(credential string, rt route) answer {
	s.t.Helper()
	return s.askWith(verdicts[rt.method+" "+rt.path], credential, rt)
}

// askWith asks with the body of a verdict.
func (s *site) askWith(v verdict, credential string, rt route) answer {
	s.t.Helper()
	s.ids["unique"] = unique()
	switch {
	case v.files != nil:
		files := map[string]string{}
		for name, content := range v.files {
			files[s.fill(name)] = s.fill(content)
		}
		return s.upload(credential, s.fill(rt.path), files)
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
		"/v1/memory_stores?include_archived=true", "/v1/memory_stores/{memory_store_id}/memories?view=full", "/v1/memory_stores/{memory_store_id}/memory_versions?view=full",
		"/v1/skills", "/v1/skills/{skill_id}/versions",
		"/v1/sessions/{session_id}/threads", "/v1/sessions/{session_id}/threads/{thread_id}/events",
		"/v1/workspaces", "/v1/api_keys",
		"/v1/vaults", "/v1/vaults/{vault_id}/credentials",
		"/v1/tunnels?include_archived=true", "/v1/tunnels/{tunnel_id}/certificates?include_archived=true", "/v1/user_profiles", "/v1/dreams?include_archived=true",
	} {
		page := ok[api.Page[object]](s.brain, s.brain.key, "GET", s.fill(path), nil)
		for _, o := range page.Data {
			delete(o, "stats")
			delete(o, "last_used_at")
			raw, err := json.Marshal(o)
			must(s.t, err)
			all.Write(append(raw, '\n'))
		}
	}
	return all.String()
}

// wantState checks that the state is the one of before.
func (s *site) wantState(who, before string) {
	s.t.Helper()
	was, is := slices.Collect(strings.Lines(before)), slices.Collect(strings.Lines(s.state()))
	if slices.Equal(was, is) {
		return
	}
	without := func(lines, others []string) []string {
		return slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return slices.Contains(others, line) })
	}
	s.t.Errorf("%s changed\n%s\nto\n%s", who, without(was, is), without(is, was))
}

// worthless are the credentials that no route takes, by what is wrong with them.
func (s *site) worthless() map[string]string {
	s.t.Helper()
	revoked := s.envKey(s.env.ID, nil)
	ok[api.EnvironmentKey](s.brain, s.brain.key, "POST", "/v1/environments/"+s.env.ID+"/keys/"+revoked.ID+"/revoke", nil)
	soon := func() object { return object{"expires_at": time.Now().Add(100 * time.Millisecond)} }
	expired, expiredAPI, revokedAPI := s.envKey(s.env.ID, soon()), s.apiKey(auth.RoleAdmin, soon()), s.apiKey(auth.RoleAdmin, nil)
	ok[api.APIKey](s.brain, s.brain.key, "POST", "/v1/api_keys/"+revokedAPI.ID+"/revoke", nil)
	s.eventually("the keys expire", func() bool {
		return s.do(expired.Key, "GET", "/v1/environments/"+s.env.ID+"/work/stats", nil).status == http.StatusUnauthorized &&
			s.do(expiredAPI.Key, "GET", "/v1/agents", nil).status == http.StatusUnauthorized
	})
	s.brain.session(s.agent.ID, s.env.ID, "$ true")
	superseded := s.brain.token(s.poll(s.key.Key, s.env.ID, "?block_ms=999"))
	again := s.poll(s.key.Key, s.env.ID, "?block_ms=999&reclaim_older_than_ms=1")
	over := s.brain.token(again)
	ok[api.Work](s.brain, over, "POST", "/v1/environments/"+s.env.ID+"/work/"+again.ID+"/stop", object{"force": true})
	closed, closedID := s.workspace("closed")
	there := closed.site()
	s.grant(closedID)
	ok[api.Workspace](s.brain, s.brain.key, "POST", "/v1/workspaces/"+closedID+"/archive", nil)
	return map[string]string{
		"none": "", "unknown": "not-a-key-anybody-was-given", "unknown environment key": "hek_not_a_key",
		"forged token": s.token + "x", "unsigned token": "hst_e30.e30.", "revoked key": revoked.Key, "expired key": expired.Key,
		"revoked API key": revokedAPI.Key, "expired API key": expiredAPI.Key,
		"token of a superseded claim": superseded, "token of a stopped item": over, "expired token": expiredToken(s.t, s.token),
		"API key of an archived workspace": closed.key, "environment key of an archived workspace": there.key.Key,
		"token of an archived workspace": there.token, "person of an archived workspace": s.person(closedID, auth.RoleAdmin),
		"person whose token has expired":      s.issuer.Token(object{"exp": time.Now().Add(-time.Minute).Unix(), "groups": "admins"}),
		"person with another service's token": s.issuer.Token(object{"aud": "another", "groups": "admins"}),
		"person who signed on by themselves":  s.issuer.Sign(jwt.SigningMethodHS256, s.issuer.KeyID(), s.issuer.PublicKey(), s.issuer.Claims(object{"groups": "admins"})),
	}
}

// expiredToken is a sessions token a day later.
func expiredToken(t *testing.T, token string) string {
	t.Helper()
	claims := jwt.MapClaims{}
	_, _, err := jwt.NewParser().ParseUnverified(strings.TrimPrefix(token, "hst_"), claims)
	must(t, err)
	claims["exp"] = time.Now().Add(-time.Second).Unix()
	late, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(signingKey))
	must(t, err)
	return "hst_" + late
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
		before := s.state()
		for _, rt := range (&server{}).routes() {
			name := rt.method + " " + rt.path
			v := verdicts[name]
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
		}
		s.wantState("refusals", before)
	})
}

// roleOrder is the roles, each with all that those before it may do.
var roleOrder = []auth.Role{auth.RoleViewer, auth.RoleDeveloper, auth.RoleAdmin}

// admits tells whether an API key with a role, or a person, is let in.
func (v verdict) admits(role auth.Role) bool {
	return v.role != "" && !v.operator && slices.Index(roleOrder, role) >= slices.Index(roleOrder, v.role)
}

// TestRoles walks every route with API keys and people of every role, in a
// workspace that is not the default one. Who is let in reads what there is,
// changes what is not there, and makes what can be made.
func TestRoles(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		team, teamID := b.workspace("team")
		b.grant(teamID)
		s := team.site()
		credentials := map[auth.Role]map[string]string{}
		for _, role := range roleOrder {
			credentials[role] = map[string]string{"an API key": s.apiKey(role, nil).Key, "a person": b.person(teamID, role)}
		}
		walk := func(making bool) {
			for _, rt := range (&server{}).routes() {
				if rt.access == public || making != (rt.method == "POST" && !strings.Contains(rt.path, "{")) {
					continue
				}
				v := verdicts[rt.method+" "+rt.path]
				for _, role := range roleOrder {
					for kind, credential := range credentials[role] {
						what := rt.method + " " + rt.path + " with " + kind + " of the role " + string(role)
						s.ids["unique"] = unique()
						where, wants := s, []int{v.apiKey}
						switch {
						case !v.admits(role):
							s.wantRefusal(what, s.ask(credential, rt), http.StatusForbidden)
							continue
						case !making && rt.method != "GET":
							where, wants = s.with(nil), []int{http.StatusNotFound, http.StatusBadRequest}
						}
						if a := where.ask(credential, rt); !slices.Contains(wants, a.status) {
							t.Errorf("%s: %d %s, want %d", what, a.status, a.body, wants)
						}
					}
				}
			}
		}
		before := s.state()
		walk(false)
		s.wantState("roles that may not, and ids of nothing,", before)
		walk(true)
	})
}

// with is the site with other ids; nil for ids of nothing.
func (s *site) with(ids map[string]string) *site {
	other := *s
	other.ids = ids
	if ids == nil {
		other.ids = map[string]string{}
		for name := range s.ids {
			other.ids[name] = "absent"
		}
	}
	return &other
}

// TestOtherWorkspaces walks every route with the admins of other workspaces, the
// default one's among them. For each, nothing of this workspace exists: not
// where the path names it, not below an object of their own, not where the body
// names it, and not in any list.
func TestOtherWorkspaces(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		team, _ := b.workspace("team")
		rival, rivalID := b.workspace("rival")
		b.grant(rivalID)
		s, theirs, operators := team.site(), rival.site(), b.site()
		before := s.state()
		for kind, outsider := range map[string]struct {
			credential string
			own        *site
			operator   bool
		}{
			"another workspace's admin":   {rival.key, theirs, false},
			"a person admin of another":   {b.person(rivalID, auth.RoleAdmin), theirs, false},
			"the default one's admin":     {b.key, operators, true},
			"the default one's developer": {operators.apiKey(auth.RoleDeveloper, nil).Key, operators, false},
		} {
			for _, rt := range (&server{}).routes() {
				v := verdicts[rt.method+" "+rt.path]
				if rt.access == public || outsider.operator && strings.HasPrefix(rt.path, "/v1/workspaces") || strings.HasPrefix(rt.path, "/v1/models") {
					continue // which are the operator's, or everybody's
				}
				what := rt.method + " " + rt.path + " with " + kind
				want := http.StatusNotFound
				if !outsider.operator && v.operator || v.role == "" || kind == "the default one's developer" && !v.admits(auth.RoleDeveloper) {
					want = http.StatusForbidden
				}
				refused := func(how string, ids map[string]string, wants ...int) {
					t.Helper()
					if a := s.with(ids).ask(outsider.credential, rt); !slices.Contains(wants, a.status) {
						t.Errorf("%s %s: %d %s, want %d", what, how, a.status, a.body, wants)
					}
				}
				names := parameters(rt.path)
				for n := range names {
					refused("below "+strconv.Itoa(n)+" of their own", mixed(s.ids, outsider.own.ids, names[:n]), want)
				}
				if named := parameters(v.body); slices.ContainsFunc(named, func(name string) bool { return name != "unique" }) {
					refused("in the body", mixed(s.ids, outsider.own.ids, names), want, http.StatusBadRequest)
				}
				if rt.method != "GET" || want == http.StatusForbidden {
					continue
				}
				a := s.with(outsider.own.ids).ask(outsider.credential, rt)
				for name, id := range s.ids {
					if a.status != v.apiKey || strings.Contains(string(a.body), id) {
						t.Errorf("%s of their own: %d, shows the %s of others, or not what is theirs: %s", what, a.status, name, a.body)
					}
				}
			}
		}
		s.wantState("others", before)
	})
}

// parameters are the names in braces, in order.
func parameters(text string) (names []string) {
	for _, found := range parameter.FindAllStringSubmatch(text, -1) {
		names = append(names, found[1])
	}
	return names
}

// mixed is ids, with own ones in the place of those named.
func mixed(ids, own map[string]string, named []string) map[string]string {
	all := maps.Clone(ids)
	for _, name := range named {
		all[name] = own[name]
	}
	return all
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

// TestEntry walks every route with every credential that it takes, API keys with
// the least role; each on objects that nothing has touched, but what only reads,
// makes another or renames.
func TestEntry(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		shared := b.site()
		keys := map[auth.Role]string{"": b.key, auth.RoleViewer: b.apiKey(auth.RoleViewer, nil).Key, auth.RoleDeveloper: b.apiKey(auth.RoleDeveloper, nil).Key, auth.RoleAdmin: b.apiKey(auth.RoleAdmin, nil).Key}
		for _, rt := range (&server{}).routes() {
			name := rt.method + " " + rt.path
			v := verdicts[name]
			for kind, want := range map[string]int{"an API key": v.apiKey, "an environment key": v.envKey, "a sessions token": v.token} {
				if want >= 400 {
					continue
				}
				s := shared
				if spends(rt) {
					s = b.site()
				}
				credential := map[string]string{"an API key": keys[v.role], "an environment key": s.key.Key, "a sessions token": s.token}[kind]
				if a := s.ask(credential, rt); a.status != want {
					t.Errorf("%s with %s: %d %s, want %s", name, kind, a.status, a.body, strconv.Itoa(want))
				}
			}
		}
	})
}

// spends tells whether a route may leave objects as others cannot use them.
func spends(rt route) bool {
	switch {
	case rt.method == "GET":
		return strings.HasSuffix(rt.path, "/work/poll")
	case rt.method == "POST":
		makes, renames := !strings.Contains(rt.path, "{"), strings.HasSuffix(rt.path, "}")
		return !makes && !renames
	}
	return true
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
