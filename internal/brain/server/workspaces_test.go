package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
)

var workspaceVerdicts = map[string]verdict{
	"POST /v1/workspaces":                        forOperator(`{"name":"{unique}"}`),
	"GET /v1/workspaces":                         forRole(auth.RoleAdmin, ""),
	"GET /v1/workspaces/{workspace_id}":          forRole(auth.RoleAdmin, ""),
	"POST /v1/workspaces/{workspace_id}":         forOperator(`{"name":"{unique}"}`),
	"POST /v1/workspaces/{workspace_id}/archive": forOperator(""),
	"POST /v1/api_keys":                          forRole(auth.RoleAdmin, `{"name":"another","role":"admin"}`),
	"GET /v1/api_keys":                           forRole(auth.RoleAdmin, ""),
	"GET /v1/api_keys/{api_key_id}":              forRole(auth.RoleAdmin, ""),
	"POST /v1/api_keys/{api_key_id}/revoke":      forRole(auth.RoleAdmin, ""),
}

// forOperator is for admins of the default workspace, and nobody else.
func forOperator(body string) verdict {
	v := forRole(auth.RoleAdmin, body)
	v.operator = true
	return v
}

var workspaceForms = []form{
	{"POST /v1/workspaces", `{"name":"n"}`, map[string]string{"name": "string required max 40"}},
	{"POST /v1/workspaces/{workspace_id}", `{"name":"n"}`, map[string]string{"name": "string required max 40"}},
	{"POST /v1/api_keys", `{"name":"n","role":"viewer","expires_at":"2100-01-01T00:00:00Z"}`, map[string]string{
		"name": "string required max 256", "role": "string required choice", "expires_at": "string null choice"}},
}

// addWorkspaces makes an API key, and for the operator another workspace; the site
// of anybody else has its own.
func (s *site) addWorkspaces() {
	s.t.Helper()
	s.ids["api_key_id"] = s.apiKey(auth.RoleViewer, nil).ID
	a := s.do(s.brain.key, "POST", "/v1/workspaces", object{"name": api.NewID("team")})
	if a.status == http.StatusForbidden {
		s.ids["workspace_id"] = ok[api.Page[api.Workspace]](s.brain, s.brain.key, "GET", "/v1/workspaces", nil).Data[0].ID
		return
	}
	s.ids["workspace_id"] = decode[api.Workspace](s.brain, a).ID
}

// apiKey makes an API key in the workspace of the brain's own.
func (b *brain) apiKey(role auth.Role, more object) api.APIKey {
	b.t.Helper()
	body := object{"name": "test", "role": role}
	for k, v := range more {
		body[k] = v
	}
	k := ok[api.APIKey](b, b.key, "POST", "/v1/api_keys", body)
	b.keepSecret(k.Key)
	return k
}

// workspace makes a workspace, and is the brain as an admin of it sees it.
func (b *brain) workspace(name string) (*brain, string) {
	b.t.Helper()
	w := ok[api.Workspace](b, b.key, "POST", "/v1/workspaces", object{"name": name})
	r := b.request(b.ctx, b.key, "POST", "/v1/api_keys", object{"name": "admin of " + name, "role": auth.RoleAdmin})
	r.Header.Set(auth.HeaderWorkspace, w.ID)
	k := decode[api.APIKey](b, b.send(r))
	b.keepSecret(k.Key)
	return b.as(k.Key), w.ID
}

// signOnGrants are what groups may do in the default workspace.
var signOnGrants = []auth.Grant{
	{Role: auth.RoleViewer, WorkspaceID: auth.DefaultWorkspace, Groups: []string{"viewers"}},
	{Role: auth.RoleDeveloper, WorkspaceID: auth.DefaultWorkspace, Groups: []string{"developers"}},
	{Role: auth.RoleAdmin, WorkspaceID: auth.DefaultWorkspace, Groups: []string{"ops", "admins"}},
}

// grant gives each role in a workspace to a group of its own.
func (b *brain) grant(workspaceID string) {
	for _, role := range roleOrder {
		b.signOn.Grants = append(b.signOn.Grants[:len(b.signOn.Grants):len(b.signOn.Grants)], auth.Grant{Role: role, WorkspaceID: workspaceID, Groups: []string{workspaceID + " " + string(role)}})
	}
}

// person is the token of somebody with a role by that grant.
func (b *brain) person(workspaceID string, role auth.Role) string {
	b.t.Helper()
	token := b.issuer.Token(object{"groups": []string{"everybody", workspaceID + " " + string(role)}, "sub": "a-" + string(role)})
	b.keepSecret(token)
	return token
}

// in makes a request about a workspace.
func (b *brain) in(workspaceID, credential, method, path string, body any) answer {
	b.t.Helper()
	r := b.request(b.ctx, credential, method, path, body)
	r.Header.Set(auth.HeaderWorkspace, workspaceID)
	return b.send(r)
}

func TestWorkspaces(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		team, id := b.workspace("team")
		if w := ok[api.Workspace](b, b.key, "GET", "/v1/workspaces/"+id, nil); w.Name != "team" || w.ArchivedAt != nil {
			t.Errorf("made %+v", w)
		}
		if a := b.do(b.key, "POST", "/v1/workspaces", object{"name": "team"}); a.status != http.StatusConflict || a.header.Get("x-should-retry") != "false" {
			t.Errorf("the same name again: %d %s", a.status, a.body)
		}
		if w := ok[api.Workspace](b, b.key, "POST", "/v1/workspaces/"+id, object{"name": "crew"}); w.Name != "crew" {
			t.Errorf("renamed to %+v", w)
		}
		all := ok[api.Page[api.Workspace]](b, b.key, "GET", "/v1/workspaces?limit=1", nil)
		if len(all.Data) != 1 || all.NextPage == nil || all.Data[0].ID != "wrkspc_default" {
			t.Fatalf("the first page: %+v", all)
		}
		if rest := ok[api.Page[api.Workspace]](b, b.key, "GET", "/v1/workspaces?limit=1&page="+*all.NextPage, nil); len(rest.Data) != 1 || rest.Data[0].ID != id || rest.NextPage != nil {
			t.Errorf("the second page: %+v", rest)
		}
		if own := ok[api.Page[api.Workspace]](team, team.key, "GET", "/v1/workspaces", nil); len(own.Data) != 1 || own.Data[0].ID != id {
			t.Errorf("its admin sees %+v", own)
		}
		if a := b.do(b.key, "POST", "/v1/workspaces/wrkspc_default/archive", nil); a.status != http.StatusBadRequest {
			t.Errorf("the default one is archived: %d %s", a.status, a.body)
		}
	})
}

// TestAnArchivedWorkspace lets nobody in, and nothing new begins in it; the
// operator sees what is left.
func TestAnArchivedWorkspace(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		team, id := b.workspace("team")
		s := team.site()
		stream := b.request(b.ctx, team.key, "GET", "/v1/sessions/"+s.session.ID+"/events/stream", nil)
		watching, err := b.http.Do(stream)
		must(t, err)
		defer watching.Body.Close()
		first := ok[api.Workspace](b, b.key, "POST", "/v1/workspaces/"+id+"/archive", nil)
		if again := ok[api.Workspace](b, b.key, "POST", "/v1/workspaces/"+id+"/archive", nil); again.ArchivedAt == nil || !again.ArchivedAt.Equal(*first.ArchivedAt) {
			t.Errorf("archived again: %+v, first %+v", again, first)
		}
		for what, a := range map[string]answer{
			"its key": b.do(team.key, "GET", "/v1/agents", nil), "its worker": b.do(s.key.Key, "GET", "/v1/environments/"+s.env.ID+"/work/poll", nil),
			"its session's token": b.do(s.token, "GET", "/v1/sessions/"+s.session.ID, nil),
		} {
			if a.status != http.StatusUnauthorized || !strings.Contains(a.failure().Message, "archived") {
				t.Errorf("%s: %d %s", what, a.status, a.body)
			}
		}
		buffer := make([]byte, 4096)
		for err == nil { // the stream ends, for nobody reads on
			_, err = watching.Body.Read(buffer)
		}
		if a := b.in(id, b.key, "GET", "/v1/sessions/"+s.session.ID, nil); a.status != http.StatusOK {
			t.Errorf("the operator sees %d %s", a.status, a.body)
		}
		for path, body := range map[string]object{
			"/v1/api_keys": {"name": "n", "role": "viewer"}, "/v1/sessions": {"agent": s.agent.ID, "environment_id": s.env.ID}, "/v1/workspaces/" + id: {"name": "n"},
		} {
			if a := b.in(id, b.key, "POST", path, body); a.status != http.StatusBadRequest || !strings.Contains(a.failure().Message, "archived") {
				t.Errorf("POST %s: %d %s", path, a.status, a.body)
			}
		}
		if list := ok[api.Page[api.Workspace]](b, b.key, "GET", "/v1/workspaces", nil); len(list.Data) != 1 {
			t.Errorf("the list has %+v", list.Data)
		}
		if list := ok[api.Page[api.Workspace]](b, b.key, "GET", "/v1/workspaces?include_archived=true", nil); len(list.Data) != 2 {
			t.Errorf("the whole list has %+v", list.Data)
		}
		b.workspace("team") // its name is free again
	})
}

// TestTheWorkspaceOfARequest is the credential's own; only the operator may name
// another.
func TestTheWorkspaceOfARequest(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		team, id := b.workspace("team")
		s, _ := team.site(), b.site()
		mine := ok[api.Agent](b, b.key, "POST", "/v1/agents", object{"name": "mine", "model": "m"})
		for what, c := range map[string]struct {
			credential, workspace, path string
			want                        int
		}{
			"the operator there":          {b.key, id, "/v1/agents/" + s.agent.ID, 200},
			"the operator at home":        {b.key, "wrkspc_default", "/v1/agents/" + mine.ID, 200},
			"the operator elsewhere":      {b.key, id, "/v1/agents/" + mine.ID, 404},
			"the operator nowhere":        {b.key, "wrkspc_none", "/v1/agents", 404},
			"the operator with a riddle":  {b.key, "\xff\xfe", "/v1/agents", 404},
			"an admin at home":            {team.key, id, "/v1/agents/" + s.agent.ID, 200},
			"an admin elsewhere":          {team.key, "wrkspc_default", "/v1/agents/" + mine.ID, 404},
			"a worker at home":            {s.key.Key, id, "/v1/environments/" + s.env.ID + "/work/stats", 200},
			"a worker elsewhere":          {s.key.Key, "wrkspc_default", "/v1/environments/" + s.env.ID + "/work/stats", 404},
			"a session's token at home":   {s.token, id, "/v1/sessions/" + s.session.ID, 200},
			"a session's token elsewhere": {s.token, "wrkspc_default", "/v1/sessions/" + s.session.ID, 404},
		} {
			a := b.in(c.workspace, c.credential, "GET", c.path, nil)
			if a.status != c.want {
				t.Errorf("%s: %d %s, want %d", what, a.status, a.body, c.want)
			}
			if got := a.header.Get(auth.HeaderWorkspace); c.want == 200 && got != c.workspace {
				t.Errorf("%s: the answer is about %q", what, got)
			}
		}
	})
}

func TestAPIKeys(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		until := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
		k := b.apiKey(auth.RoleDeveloper, object{"name": "pipeline", "expires_at": until})
		if len(k.Key) < 40 || k.Status != api.KeyActive || k.WorkspaceID != "wrkspc_default" || k.ExpiresAt == nil || !k.ExpiresAt.Equal(until) || k.LastUsedAt != nil ||
			k.CreatedBy == nil || k.CreatedBy.Type != "api_key" || k.PartialKeyHint == nil || !strings.HasSuffix(k.Key, (*k.PartialKeyHint)[len(*k.PartialKeyHint)-4:]) {
			t.Errorf("made %+v", k)
		}
		ok[api.Page[api.Agent]](b, k.Key, "GET", "/v1/agents", nil)
		raw := b.do(b.key, "GET", "/v1/api_keys/"+k.ID, nil)
		if got := decode[api.APIKey](b, raw); got.LastUsedAt == nil || got.Name != "pipeline" || strings.Contains(string(raw.body), k.Key) || strings.Contains(string(raw.body), `"key"`) {
			t.Errorf("read back %s", raw.body)
		}
		list := ok[api.Page[api.APIKey]](b, b.key, "GET", "/v1/api_keys?limit=1", nil)
		if len(list.Data) != 1 || list.Data[0].ID != k.ID || list.Data[0].Key != "" || list.NextPage == nil {
			t.Fatalf("the first page: %+v", list)
		}
		rest := ok[api.Page[api.APIKey]](b, b.key, "GET", "/v1/api_keys?limit=1&page="+*list.NextPage, nil)
		if len(rest.Data) != 1 || rest.Data[0].Role != "admin" || rest.Data[0].CreatedBy != nil || rest.Data[0].PartialKeyHint != nil || rest.NextPage != nil {
			t.Errorf("the second page, with the operator's: %+v", rest)
		}
		first := ok[api.APIKey](b, b.key, "POST", "/v1/api_keys/"+k.ID+"/revoke", nil)
		if again := ok[api.APIKey](b, b.key, "POST", "/v1/api_keys/"+k.ID+"/revoke", nil); again.Status != api.KeyRevoked || !again.RevokedAt.Equal(*first.RevokedAt) {
			t.Errorf("revoked again: %+v, first %+v", again, first)
		}
		if a := b.do(k.Key, "GET", "/v1/agents", nil); a.status != http.StatusUnauthorized {
			t.Errorf("a revoked key: %d %s", a.status, a.body)
		}
		if a := b.do(b.key, "POST", "/v1/api_keys", object{"name": "n", "role": "viewer", "expires_at": "2001-01-01T00:00:00Z"}); a.status != http.StatusBadRequest || !strings.HasPrefix(a.failure().Message, "expires_at:") {
			t.Errorf("a key of the past: %d %s", a.status, a.body)
		}
	})
}

// TestTheLogOfCredentials says who made and revoked which, who was refused, and
// why. That no credential is in it, every test checks.
func TestTheLogOfCredentials(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		_, id := b.workspace("team")
		k := b.apiKey(auth.RoleViewer, object{"name": "reader"})
		s := b.site()
		b.do(k.Key, "POST", "/v1/agents", object{"name": "n", "model": "m"})
		ok[api.APIKey](b, b.key, "POST", "/v1/api_keys/"+k.ID+"/revoke", nil)
		b.do(k.Key, "GET", "/v1/agents", nil)
		ok[api.EnvironmentKey](b, b.key, "POST", "/v1/environments/"+s.env.ID+"/keys/"+s.key.ID+"/revoke", nil)
		b.do(s.key.Key, "GET", "/v1/environments/"+s.env.ID+"/work/poll", nil)
		b.do(b.issuer.Token(object{"sub": "stranger"}), "GET", "/v1/agents", nil)
		ok[api.Workspace](b, b.key, "POST", "/v1/workspaces/"+id+"/archive", nil)
		log := b.log.String()
		for _, want := range []string{
			`msg="workspace created" created=` + id, `msg="workspace archived" archived=` + id,
			`msg="API key created" created=` + k.ID + ` name=reader role=viewer expires=never principal=api_key key=apikey_`, `msg="API key revoked" revoked=` + k.ID,
			`msg="environment key created" created=` + s.key.ID, `msg="environment key revoked" revoked=` + s.key.ID,
			"status=403 took", fmt.Sprintf("principal=api_key key=%s workspace=wrkspc_default", k.ID), `refused="POST /v1/agents is not for the role viewer"`,
			`refused="the API key has been revoked"`, "principal=environment_key key=" + s.key.ID, `refused="the environment key has been revoked"`,
			"principal=person key=stranger", `refused="none of the groups`,
		} {
			if !strings.Contains(log, want) {
				t.Errorf("the log lacks %s", want)
			}
		}
	})
}
