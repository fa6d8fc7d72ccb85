package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/outbound"
	"hearth/internal/db"
	"hearth/test/fakeoauth"
)

var vaultVerdicts = map[string]verdict{
	"POST /v1/vaults":                                                           forRole(auth.RoleDeveloper, `{"display_name":"another"}`),
	"GET /v1/vaults":                                                            forRole(auth.RoleViewer, ""),
	"GET /v1/vaults/{vault_id}":                                                 forRole(auth.RoleViewer, ""),
	"POST /v1/vaults/{vault_id}":                                                forRole(auth.RoleDeveloper, `{"display_name":"renamed"}`),
	"DELETE /v1/vaults/{vault_id}":                                              forRole(auth.RoleDeveloper, ""),
	"POST /v1/vaults/{vault_id}/archive":                                        forRole(auth.RoleDeveloper, ""),
	"POST /v1/vaults/{vault_id}/credentials":                                    forRole(auth.RoleDeveloper, `{"auth":{"type":"static_bearer","mcp_server_url":"https://another.example.com","token":"t"}}`),
	"GET /v1/vaults/{vault_id}/credentials":                                     forRole(auth.RoleViewer, ""),
	"GET /v1/vaults/{vault_id}/credentials/{credential_id}":                     forRole(auth.RoleViewer, ""),
	"POST /v1/vaults/{vault_id}/credentials/{credential_id}":                    forRole(auth.RoleDeveloper, `{"display_name":"renamed"}`),
	"DELETE /v1/vaults/{vault_id}/credentials/{credential_id}":                  forRole(auth.RoleDeveloper, ""),
	"POST /v1/vaults/{vault_id}/credentials/{credential_id}/archive":            forRole(auth.RoleDeveloper, ""),
	"POST /v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate": forRole(auth.RoleDeveloper, ""),
}

var vaultForms = []form{
	{"POST /v1/vaults", `{"display_name":"n","metadata":{"k":"v"}}`, map[string]string{
		"display_name": "string required max 255", "metadata": "object null", "metadata.k": "string null max 512"}},
	{"POST /v1/vaults/{vault_id}", `{"display_name":"n","metadata":{"k":"v"}}`, map[string]string{
		"display_name": "string null max 255", "metadata": "object null", "metadata.k": "string null max 512"}},
	{"POST /v1/vaults/{vault_id}/credentials", `{"display_name":"n","metadata":{"k":"v"},"auth":{"type":"static_bearer","mcp_server_url":"https://form.example.com","token":"t"}}`, map[string]string{
		"display_name": "string null max 255", "metadata": "object null", "metadata.k": "string null max 512", "auth": "object required", "auth.type": "string required choice",
		"auth.mcp_server_url": "string required choice max 2048", "auth.token": "string required max 16384"}},
	{"POST /v1/vaults/{vault_id}/credentials", `{"auth":{"type":"mcp_oauth","mcp_server_url":"https://form.example.com","access_token":"t","expires_at":"2999-01-01T00:00:00Z","refresh":{
		"client_id":"c","refresh_token":"r","token_endpoint":"https://form.example.com/token","token_endpoint_auth":{"type":"client_secret_basic","client_secret":"s"},"scope":"s","resource":"r"}}}`, map[string]string{
		"auth.mcp_server_url": "string required choice max 2048", "auth.access_token": "string required max 16384", "auth.expires_at": "string null choice", "auth.refresh": "object null",
		"auth.refresh.client_id": "string required max 2048", "auth.refresh.refresh_token": "string required max 16384", "auth.refresh.token_endpoint": "string required choice max 2048",
		"auth.refresh.token_endpoint_auth": "object required", "auth.refresh.token_endpoint_auth.type": "string required choice",
		"auth.refresh.token_endpoint_auth.client_secret": "string required max 16384", "auth.refresh.scope": "string null max 2048", "auth.refresh.resource": "string null max 2048"}},
	{"POST /v1/vaults/{vault_id}/credentials", `{"auth":{"type":"environment_variable","secret_name":"FORM","secret_value":"v","networking":{"type":"limited","allowed_hosts":["api.example.com"]},
		"injection_location":{"header":true,"body":false}}}`, map[string]string{
		"auth.secret_name": "string required max 128", "auth.secret_value": "string required max 16384", "auth.networking": "object required", "auth.networking.type": "string required choice",
		"auth.networking.allowed_hosts": "array required", "auth.networking.allowed_hosts[0]": "string max 253",
		"auth.injection_location.header": "boolean required", "auth.injection_location.body": "boolean null"}},
	{"POST /v1/vaults/{vault_id}/credentials/{credential_id}", `{"display_name":"n","metadata":{"k":"v"},"auth":{"type":"mcp_oauth","access_token":"t","expires_at":"2999-01-01T00:00:00Z",
		"refresh":{"refresh_token":"r","scope":"s","token_endpoint_auth":{"type":"client_secret_post","client_secret":"s"}}}}`, map[string]string{
		"display_name": "string null max 255", "metadata": "object null", "metadata.k": "string null max 512", "auth": "object null", "auth.type": "string required choice",
		"auth.access_token": "string null max 16384", "auth.expires_at": "string null choice", "auth.refresh": "object null", "auth.refresh.refresh_token": "string null max 16384",
		"auth.refresh.scope": "string null max 2048", "auth.refresh.token_endpoint_auth": "object null", "auth.refresh.token_endpoint_auth.type": "string required choice",
		"auth.refresh.token_endpoint_auth.client_secret": "string null max 16384"}},
}

// calling is the network of these tests' servers: this machine, beside what is public.
func calling(t testing.TB) *http.Client {
	t.Helper()
	allowed, err := outbound.ParseAllowed([]string{"127.0.0.1"})
	must(t, err)
	return allowed.Client()
}

// addVault makes a vault with a credential that can be refreshed, at servers where
// nobody listens.
func (s *site) addVault() {
	s.t.Helper()
	v := s.vault()
	c := s.credential(v.ID, object{
		"type": "mcp_oauth", "mcp_server_url": "http://127.0.0.1:1/mcp", "access_token": "t",
		"refresh": object{"client_id": "c", "refresh_token": "r", "token_endpoint": "http://127.0.0.1:1/token", "token_endpoint_auth": object{"type": "client_secret_post", "client_secret": "s"}},
	})
	s.ids["vault_id"], s.ids["credential_id"] = v.ID, c.ID
}

func (b *brain) vault() api.Vault {
	b.t.Helper()
	return ok[api.Vault](b, b.key, "POST", "/v1/vaults", object{"display_name": "a vault"})
}

func (b *brain) credential(vaultID string, auth object) api.Credential {
	b.t.Helper()
	return ok[api.Credential](b, b.key, "POST", "/v1/vaults/"+vaultID+"/credentials", object{"auth": auth})
}

func TestVaults(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		v := ok[api.Vault](b, b.key, "POST", "/v1/vaults", object{"display_name": "of the team", "metadata": object{"team": "risk", "old": "x"}})
		path := "/v1/vaults/" + v.ID
		if !strings.HasPrefix(v.ID, "vlt_") || v.DisplayName != "of the team" || v.ArchivedAt != nil {
			t.Errorf("made %+v", v)
		}
		changed := ok[api.Vault](b, b.key, "POST", path, object{"metadata": object{"old": nil, "new": "y"}})
		if fmt.Sprint(changed.Metadata) != "map[new:y team:risk]" || changed.DisplayName != v.DisplayName || !changed.UpdatedAt.After(v.UpdatedAt) {
			t.Errorf("changed to %+v", changed)
		}
		if same := ok[api.Vault](b, b.key, "POST", path, object{}); !same.UpdatedAt.Equal(changed.UpdatedAt) {
			t.Error("an update with nothing in it has changed the vault")
		}
		c := b.credential(v.ID, object{"type": "static_bearer", "mcp_server_url": "https://mcp.example.com", "token": "t"})
		archived := ok[api.Vault](b, b.key, "POST", path+"/archive", nil)
		if again := ok[api.Vault](b, b.key, "POST", path+"/archive", nil); archived.ArchivedAt == nil || !again.ArchivedAt.Equal(*archived.ArchivedAt) {
			t.Errorf("archived at %v, and again at %v", archived.ArchivedAt, again.ArchivedAt)
		}
		if c := ok[api.Credential](b, b.key, "GET", path+"/credentials/"+c.ID, nil); c.ArchivedAt == nil {
			t.Error("the credential of an archived vault is open")
		}
		for what, refused := range map[string]answer{
			"an update": b.do(b.key, "POST", path, object{"display_name": "x"}), "a credential's update": b.do(b.key, "POST", path+"/credentials/"+c.ID, object{"display_name": "x"}),
			"another credential": b.do(b.key, "POST", path+"/credentials", object{"auth": object{"type": "static_bearer", "mcp_server_url": "https://x.example.com", "token": "t"}}),
		} {
			if refused.status != 400 || !strings.Contains(refused.failure().Message, "is archived") {
				t.Errorf("%s of an archived vault: %d %s", what, refused.status, refused.body)
			}
		}
		if list := ok[api.Page[api.Vault]](b, b.key, "GET", "/v1/vaults", nil); len(list.Data) != 0 {
			t.Errorf("an archived vault is listed: %+v", list.Data)
		}
		if list := ok[api.Page[api.Vault]](b, b.key, "GET", "/v1/vaults?include_archived=true", nil); len(list.Data) != 1 {
			t.Errorf("archived ones: %+v", list.Data)
		}
		ok[api.Deleted](b, b.key, "DELETE", path, nil)
		for _, gone := range []string{path, path + "/credentials", path + "/credentials/" + c.ID} {
			if a := b.do(b.key, "GET", gone, nil); a.status != 404 {
				t.Errorf("%s of a deleted vault: %d %s", gone, a.status, a.body)
			}
		}
	})
}

func TestCredentials(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		v := b.vault()
		path := "/v1/vaults/" + v.ID + "/credentials"
		for _, c := range []struct {
			auth       object
			want       string // the auth of the answer
			update     object
			wantUpdate string
		}{
			{object{"type": "static_bearer", "mcp_server_url": "https://a.example.com/mcp", "token": "secret"},
				`{"type":"static_bearer","mcp_server_url":"https://a.example.com/mcp"}`,
				object{"type": "static_bearer", "token": "another", "mcp_server_url": "https://a.example.com/mcp"},
				`{"type":"static_bearer","mcp_server_url":"https://a.example.com/mcp"}`},
			{object{"type": "mcp_oauth", "mcp_server_url": "https://b.example.com/mcp", "access_token": "secret"},
				`{"type":"mcp_oauth","mcp_server_url":"https://b.example.com/mcp"}`,
				object{"type": "mcp_oauth", "access_token": "another", "expires_at": "2999-01-02T03:04:05+01:00", "refresh": nil},
				`{"type":"mcp_oauth","mcp_server_url":"https://b.example.com/mcp","expires_at":"2999-01-02T02:04:05Z"}`},
			{object{"type": "mcp_oauth", "mcp_server_url": "https://c.example.com/mcp", "access_token": "secret", "expires_at": "2999-01-01T00:00:00Z", "refresh": object{
				"client_id": "c", "refresh_token": "secret", "token_endpoint": "https://c.example.com/token", "scope": "all", "token_endpoint_auth": object{"type": "client_secret_basic", "client_secret": "secret"}}},
				`{"type":"mcp_oauth","mcp_server_url":"https://c.example.com/mcp","expires_at":"2999-01-01T00:00:00Z","refresh":{"client_id":"c","token_endpoint":"https://c.example.com/token","token_endpoint_auth":{"type":"client_secret_basic"},"resource":null,"scope":"all"}}`,
				// The type of client authentication stays, whichever of the two is sent.
				object{"type": "mcp_oauth", "access_token": nil, "refresh": object{"refresh_token": "another", "scope": "", "token_endpoint_auth": object{"type": "client_secret_post", "client_secret": "another"}}},
				`{"type":"mcp_oauth","mcp_server_url":"https://c.example.com/mcp","expires_at":"2999-01-01T00:00:00Z","refresh":{"client_id":"c","token_endpoint":"https://c.example.com/token","token_endpoint_auth":{"type":"client_secret_basic"},"resource":null,"scope":null}}`},
			{object{"type": "environment_variable", "secret_name": "A_KEY", "secret_value": "secret", "networking": object{"type": "unrestricted"}},
				`{"type":"environment_variable","secret_name":"A_KEY","networking":{"type":"unrestricted"},"injection_location":{"header":true,"body":true}}`,
				object{"type": "environment_variable", "injection_location": object{"body": false}, "networking": object{"type": "limited", "allowed_hosts": []string{"API.example.com", "*.example.org", "192.0.2.1"}}},
				`{"type":"environment_variable","secret_name":"A_KEY","networking":{"type":"limited","allowed_hosts":["api.example.com","*.example.org","192.0.2.1"]},"injection_location":{"header":true,"body":false}}`},
			{object{"type": "environment_variable", "secret_name": "B_KEY", "secret_value": "secret", "networking": object{"type": "unrestricted"}, "injection_location": object{"body": true}},
				`{"type":"environment_variable","secret_name":"B_KEY","networking":{"type":"unrestricted"},"injection_location":{"header":false,"body":true}}`,
				object{"type": "environment_variable", "secret_value": "another", "networking": nil},
				`{"type":"environment_variable","secret_name":"B_KEY","networking":{"type":"unrestricted"},"injection_location":{"header":false,"body":true}}`},
		} {
			made := ok[api.Credential](b, b.key, "POST", path, object{"auth": c.auth, "display_name": "named", "metadata": object{"k": "v"}})
			if got := encode(t, made.Auth); got != c.want || *made.DisplayName != "named" || made.Metadata["k"] != "v" || made.VaultID != v.ID || !strings.HasPrefix(made.ID, "vcrd_") {
				t.Errorf("made %s\n as %s\nwant %s", encode(t, c.auth), encode(t, made), c.want)
			}
			if read := ok[api.Credential](b, b.key, "GET", path+"/"+made.ID, nil); encode(t, read) != encode(t, made) {
				t.Errorf("read %s, made %s", encode(t, read), encode(t, made))
			}
			updated := ok[api.Credential](b, b.key, "POST", path+"/"+made.ID, object{"auth": c.update, "display_name": "renamed"})
			if got := encode(t, updated.Auth); got != c.wantUpdate || *updated.DisplayName != "renamed" || !updated.UpdatedAt.After(made.UpdatedAt) {
				t.Errorf("updated to %s\nwant %s", encode(t, updated), c.wantUpdate)
			}
		}
		list := ok[api.Page[api.Credential]](b, b.key, "GET", path+"?limit=2", nil)
		if len(list.Data) != 2 || list.Data[0].Auth.SecretName != "B_KEY" || list.NextPage == nil {
			t.Fatalf("the first page: %+v", list)
		}
		archived := ok[api.Credential](b, b.key, "POST", path+"/"+list.Data[0].ID+"/archive", nil)
		if archived.ArchivedAt == nil || archived.Auth.SecretName != "B_KEY" {
			t.Errorf("archived: %+v", archived)
		}
		if a := b.do(b.key, "POST", path+"/"+archived.ID, object{"display_name": "x"}); a.status != 400 || !strings.Contains(a.failure().Message, "archived") {
			t.Errorf("an update of an archived one: %d %s", a.status, a.body)
		}
		ok[api.Deleted](b, b.key, "DELETE", path+"/"+list.Data[1].ID, nil)
		if list := ok[api.Page[api.Credential]](b, b.key, "GET", path+"?include_archived=true", nil); len(list.Data) != 4 || list.Data[0].ID != archived.ID {
			t.Errorf("in the end: %+v", list.Data)
		}
		if a := b.do(b.key, "GET", "/v1/vaults/"+b.vault().ID+"/credentials/"+archived.ID, nil); a.status != 404 {
			t.Errorf("found in another vault: %d %s", a.status, a.body)
		}
	})
}

func encode(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	must(t, err)
	return string(raw)
}

func TestRulesOfCredentials(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		v := b.vault()
		path := "/v1/vaults/" + v.ID + "/credentials"
		oauth := b.credential(v.ID, object{"type": "mcp_oauth", "mcp_server_url": "https://oauth.example.com", "access_token": "t", "refresh": object{
			"client_id": "c", "refresh_token": "r", "token_endpoint": "https://oauth.example.com/token", "token_endpoint_auth": object{"type": "none"}}})
		static := b.credential(v.ID, object{"type": "static_bearer", "mcp_server_url": "https://static.example.com/mcp", "token": "t"})
		variable := b.credential(v.ID, object{"type": "environment_variable", "secret_name": "KEY", "secret_value": "v", "networking": object{"type": "unrestricted"}, "injection_location": object{"header": true}})
		limited := func(hosts ...string) object {
			return object{"type": "environment_variable", "secret_name": "OTHER", "secret_value": "v", "networking": object{"type": "limited", "allowed_hosts": hosts}}
		}
		located := func(l any) object {
			return object{"type": "environment_variable", "secret_name": "OTHER", "secret_value": "v", "networking": object{"type": "unrestricted"}, "injection_location": l}
		}
		var many []string
		for n := range 17 {
			many = append(many, fmt.Sprintf("h%d.example.com", n))
		}
		to := func(c api.Credential) string { return path + "/" + c.ID }
		for what, c := range map[string]struct {
			path  string
			auth  object
			field string
		}{
			"a server with a user":     {path, object{"type": "static_bearer", "token": "t", "mcp_server_url": "https://u:p@example.com"}, "auth.mcp_server_url"},
			"a server with a fragment": {path, object{"type": "static_bearer", "token": "t", "mcp_server_url": "https://example.com#x"}, "auth.mcp_server_url"},
			"another scheme":           {path, object{"type": "static_bearer", "token": "t", "mcp_server_url": "ftp://example.com"}, "auth.mcp_server_url"},
			"a token of two lines":     {path, object{"type": "static_bearer", "token": "t\r\nX: y", "mcp_server_url": "https://example.com"}, "auth.token"},
			"an expiry in the past":    {path, object{"type": "mcp_oauth", "access_token": "t", "mcp_server_url": "https://example.com", "expires_at": "2020-01-01T00:00:00Z"}, "auth.expires_at"},
			"a client without secret": {path, object{"type": "mcp_oauth", "access_token": "t", "mcp_server_url": "https://example.com", "refresh": object{
				"client_id": "c", "refresh_token": "r", "token_endpoint": "https://example.com", "token_endpoint_auth": object{"type": "client_secret_post"}}}, "auth.refresh.token_endpoint_auth.client_secret"},
			"a variable with a hyphen": {path, object{"type": "environment_variable", "secret_name": "A-B", "secret_value": "v", "networking": object{"type": "unrestricted"}}, "auth.secret_name"},
			"a variable with a digit":  {path, object{"type": "environment_variable", "secret_name": "1A", "secret_value": "v", "networking": object{"type": "unrestricted"}}, "auth.secret_name"},
			"a URL as a host":          {path, limited("https://example.com"), "auth.networking.allowed_hosts"},
			"a host with a port":       {path, limited("example.com:443"), "auth.networking.allowed_hosts"},
			"a host with a path":       {path, limited("example.com/x"), "auth.networking.allowed_hosts"},
			"an IPv6 address":          {path, limited("[::1]"), "auth.networking.allowed_hosts"},
			"a bare IPv6 address":      {path, limited("2001:db8::1"), "auth.networking.allowed_hosts"},
			"half an address":          {path, limited("192.0.2"), "auth.networking.allowed_hosts"},
			"every host":               {path, limited("*"), "auth.networking.allowed_hosts"},
			"a star inside":            {path, limited("api.*.example.com"), "auth.networking.allowed_hosts"},
			"a host twice":             {path, limited("example.com", "EXAMPLE.com"), "auth.networking.allowed_hosts"},
			"no hosts":                 {path, limited(), "auth.networking.allowed_hosts"},
			"too many hosts":           {path, limited(many...), "auth.networking.allowed_hosts"},
			"no location":              {path, located(object{}), "auth.injection_location"},
			"both locations off":       {path, located(object{"header": false, "body": false}), "auth.injection_location"},
			"null as the location":     {path, located(nil), "auth.injection_location"},

			"another type":                 {to(static), object{"type": "mcp_oauth", "access_token": "t"}, "auth.type"},
			"another server":               {to(static), object{"type": "static_bearer", "mcp_server_url": "https://elsewhere.example.com"}, "auth.mcp_server_url"},
			"another variable":             {to(variable), object{"type": "environment_variable", "secret_name": "OTHER"}, "auth.secret_name"},
			"the last location off":        {to(variable), object{"type": "environment_variable", "injection_location": object{"header": false}}, "auth.injection_location"},
			"null as the new location":     {to(variable), object{"type": "environment_variable", "injection_location": nil}, "auth.injection_location"},
			"a secret for a public client": {to(oauth), object{"type": "mcp_oauth", "refresh": object{"token_endpoint_auth": object{"type": "client_secret_post", "client_secret": "s"}}}, "auth.refresh.token_endpoint_auth"},
			"a new expiry in the past":     {to(oauth), object{"type": "mcp_oauth", "expires_at": "2020-01-01T00:00:00Z"}, "auth.expires_at"},
			"an empty token":               {to(static), object{"type": "static_bearer", "token": ""}, "auth.token"},
		} {
			a := b.do(b.key, "POST", c.path, object{"auth": c.auth})
			if e := a.failure(); a.status != 400 || !strings.HasPrefix(e.Message, c.field+":") {
				t.Errorf("%s: %d %s, want one that names %s", what, a.status, a.body, c.field)
			}
		}
		// One open credential for one thing, whatever its type and however it is written.
		for field, auth := range map[string]object{
			"auth.mcp_server_url": {"type": "mcp_oauth", "access_token": "t", "mcp_server_url": "https://STATIC.example.com:443/mcp/"},
			"auth.secret_name":    {"type": "environment_variable", "secret_name": "KEY", "secret_value": "v", "networking": object{"type": "unrestricted"}},
		} {
			a := b.do(b.key, "POST", path, object{"auth": auth})
			if e := a.failure(); a.status != 409 || !strings.HasPrefix(e.Message, field+":") || a.header.Get("x-should-retry") != "false" {
				t.Errorf("a second one by %s: %d %s", field, a.status, a.body)
			}
		}
		ok[api.Credential](b, b.key, "POST", to(static)+"/archive", nil)
		b.credential(v.ID, object{"type": "mcp_oauth", "access_token": "t", "mcp_server_url": "https://static.example.com/mcp"})
		for n := range 17 {
			b.credential(v.ID, object{"type": "static_bearer", "token": "t", "mcp_server_url": fmt.Sprintf("https://h%d.example.com", n)})
		}
		if a := b.do(b.key, "POST", path, object{"auth": object{"type": "static_bearer", "token": "t", "mcp_server_url": "https://last.example.com"}}); a.status != 400 || !strings.Contains(a.failure().Message, "20 credentials") {
			t.Errorf("one too many: %d %s", a.status, a.body)
		}
	})
}

func TestVaultsOfSessions(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		agent, env, one, two, archived := b.agent(), b.environment(), b.vault(), b.vault(), b.vault()
		ok[api.Vault](b, b.key, "POST", "/v1/vaults/"+archived.ID+"/archive", nil)
		create := func(ids ...string) object {
			return object{"agent": agent.ID, "environment_id": env.ID, "vault_ids": ids}
		}
		session := ok[api.Session](b, b.key, "POST", "/v1/sessions", create(two.ID, one.ID))
		if strings.Join(session.VaultIDs, " ") != two.ID+" "+one.ID {
			t.Errorf("created with %v", session.VaultIDs)
		}
		path := "/v1/sessions/" + session.ID
		changed := ok[api.Session](b, b.key, "POST", path, object{"vault_ids": []string{one.ID}})
		if read := ok[api.Session](b, b.key, "GET", path, nil); strings.Join(changed.VaultIDs, " ") != one.ID || strings.Join(read.VaultIDs, " ") != one.ID {
			t.Errorf("changed to %v, read %v", changed.VaultIDs, read.VaultIDs)
		}
		if same := ok[api.Session](b, b.key, "POST", path, object{"title": "t"}); strings.Join(same.VaultIDs, " ") != one.ID {
			t.Errorf("another update has changed them to %v", same.VaultIDs)
		}
		many := make([]string, 51)
		for i := range many {
			many[i] = fmt.Sprint("vlt_", i)
		}
		for what, c := range map[string]struct {
			ids    []string
			status int
			says   string
		}{
			"one that is not there": {[]string{one.ID, "vlt_none"}, 404, "vlt_none"}, "an archived one": {[]string{archived.ID}, 400, "vault_ids"},
			"one twice": {[]string{one.ID, one.ID}, 400, "vault_ids"}, "too many": {many, 400, "vault_ids"},
		} {
			for at, body := range map[string]object{"/v1/sessions": create(c.ids...), path: {"vault_ids": c.ids}} {
				if a := b.do(b.key, "POST", at, body); a.status != c.status || !strings.Contains(a.failure().Message, c.says) {
					t.Errorf("%s at %s: %d %s", what, at, a.status, a.body)
				}
			}
		}
		for _, none := range []any{[]string{}, nil} {
			ok[api.Session](b, b.key, "POST", path, object{"vault_ids": []string{one.ID}})
			if changed := ok[api.Session](b, b.key, "POST", path, object{"vault_ids": none}); len(changed.VaultIDs) != 0 {
				t.Errorf("cleared to %v", changed.VaultIDs)
			}
		}
		events := ok[api.Page[object]](b, b.key, "GET", path+"/events", nil)
		if first := events.Data[0]; first["type"] != "session.updated" || fmt.Sprint(first["vault_ids"]) != "["+one.ID+"]" {
			t.Errorf("logged %v", first)
		}
	})
}

// TestValidation tries credentials at servers that like them and at servers that do not.
func TestValidation(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		validate := func(server *fakeoauth.Server, access string, refresh any) (api.CredentialValidation, string) {
			t.Helper()
			auth := object{"type": "mcp_oauth", "mcp_server_url": server.MCP, "access_token": access}
			if refresh != nil {
				how := object{"type": "none"}
				if server.Secret != "" {
					how = object{"type": "client_secret_post", "client_secret": server.Secret}
				}
				auth["refresh"] = object{"client_id": server.ClientID, "refresh_token": refresh, "token_endpoint": server.Token, "token_endpoint_auth": how}
			}
			c := b.credential(b.vault().ID, auth)
			path := "/v1/vaults/" + c.VaultID + "/credentials/" + c.ID + "/mcp_oauth_validate"
			out := ok[api.CredentialValidation](b, b.key, "POST", path, nil)
			if out.CredentialID != c.ID || out.VaultID != c.VaultID || out.HasRefreshToken != (refresh != nil) || out.ValidatedAt.IsZero() {
				t.Errorf("validated %+v", out)
			}
			return out, path
		}
		response := func(r *api.HTTPResponse) string {
			if r == nil {
				return ""
			}
			return fmt.Sprintf("%d %s %s", r.StatusCode, r.ContentType, strings.TrimSpace(r.Body))
		}
		for what, c := range map[string]struct {
			server          func(*fakeoauth.Server)
			access          string
			refresh         any
			status          string
			method, probed  string // of the probe that failed
			refreshed, said string
		}{
			"a good token":                    {access: "good-access", status: "valid"},
			"a good token, in a stream":       {server: func(s *fakeoauth.Server) { s.Streams = true }, access: "good-access", status: "valid"},
			"a bad token":                     {access: "bad-access", status: "invalid", method: "initialize", probed: "401 text/plain I do not know [secret]", refreshed: "no_refresh_token"},
			"a bad token that can be renewed": {access: "bad-access", refresh: "good-refresh", status: "valid", refreshed: "succeeded"},
			"one with a client's secret":      {server: func(s *fakeoauth.Server) { s.Secret = "good secret" }, access: "bad-access", refresh: "good-refresh", status: "valid", refreshed: "succeeded"},
			"a bad refresh token": {access: "bad-access", refresh: "bad-refresh", status: "invalid", method: "initialize", probed: "401 text/plain I do not know [secret]",
				refreshed: "failed", said: `400 application/json {"error":"invalid_grant","error_description":"no good: [secret]"}`},
			"a token endpoint in trouble": {server: func(s *fakeoauth.Server) { s.Trouble = 503 }, access: "bad-access", refresh: "good-refresh", status: "unknown", method: "initialize",
				probed: "401 text/plain I do not know [secret]", refreshed: "failed",
				said: `503 application/json {"error":"server_error","error_description":"while handling client_id=hearth-client\u0026grant_type=refresh_token\u0026refresh_token=[secret]"}`},
			"no token endpoint": {server: func(s *fakeoauth.Server) { s.Token = "http://127.0.0.1:1/token" }, access: "bad-access", refresh: "good-refresh", status: "unknown", method: "initialize",
				probed: "401 text/plain I do not know [secret]", refreshed: "connect_error"},
			"a server that forbids": {server: func(s *fakeoauth.Server) { s.MCPTrouble = 403 }, access: "good-access", status: "invalid", method: "initialize", probed: "403 text/plain not with [secret]"},
			"a server in trouble":   {server: func(s *fakeoauth.Server) { s.MCPTrouble = 500 }, access: "good-access", status: "unknown", method: "initialize", probed: "500 text/plain not with [secret]"},
			"no server":             {server: func(s *fakeoauth.Server) { s.MCP = "http://127.0.0.1:1/mcp" }, access: "good-access", status: "unknown", method: "initialize"},
			"a server of no protocol": {server: func(s *fakeoauth.Server) { s.MCP = b.url + "/healthz" }, access: "good-access", status: "unknown", method: "initialize",
				probed: "405 application/json"},
		} {
			server := fakeoauth.New(t, "good-access", "good-refresh")
			if c.server != nil {
				c.server(server)
			}
			out, path := validate(server, c.access, c.refresh)
			var method, probed, refreshed, said string
			if out.MCPProbe != nil {
				method, probed = out.MCPProbe.Method, response(out.MCPProbe.HTTPResponse)
			}
			if out.Refresh != nil {
				refreshed, said = out.Refresh.Status, response(out.Refresh.HTTPResponse)
			}
			if out.Status != c.status || method != c.method || !strings.HasPrefix(probed, c.probed) || (c.probed == "") != (probed == "") || refreshed != c.refreshed || said != c.said {
				t.Errorf("%s: %s, %q %q, %q %q\nwant %s, %q %q, %q %q", what, out.Status, method, probed, refreshed, said, c.status, c.method, c.probed, c.refreshed, c.said)
			}
			if c.refreshed == "succeeded" { // and what came of it was kept
				again := ok[api.CredentialValidation](b, b.key, "POST", path, nil)
				if again.Status != "valid" || again.Refresh != nil {
					t.Errorf("%s, again: %+v", what, again)
				}
			}
		}
		server := fakeoauth.New(t, "good-access", "good-refresh")
		server.MCP = "http://169.254.169.254/latest/meta-data"
		c := b.credential(b.vault().ID, object{"type": "mcp_oauth", "mcp_server_url": server.MCP, "access_token": "t"})
		if a := b.do(b.key, "POST", "/v1/vaults/"+c.VaultID+"/credentials/"+c.ID+"/mcp_oauth_validate", nil); a.status != 400 || !strings.HasPrefix(a.failure().Message, "auth.mcp_server_url:") || !strings.Contains(a.failure().Message, "link-local") {
			t.Errorf("a server that must not be called: %d %s", a.status, a.body)
		}
		static := b.credential(b.vault().ID, object{"type": "static_bearer", "mcp_server_url": "https://mcp.example.com", "token": "t"})
		archived := b.credential(b.vault().ID, object{"type": "mcp_oauth", "mcp_server_url": "https://mcp.example.com", "access_token": "t"})
		ok[api.Credential](b, b.key, "POST", "/v1/vaults/"+archived.VaultID+"/credentials/"+archived.ID+"/archive", nil)
		for _, c := range []api.Credential{static, archived} {
			if a := b.do(b.key, "POST", "/v1/vaults/"+c.VaultID+"/credentials/"+c.ID+"/mcp_oauth_validate", nil); a.status != 400 {
				t.Errorf("%s: %d %s", c.Auth.Type, a.status, a.body)
			}
		}
	})
}

// TestVaultSecretsStayInside: no secret of a credential, given or refreshed, is in any
// answer, in the log or in a row.
func TestVaultSecretsStayInside(t *testing.T) {
	t.Parallel()
	migrated.Each(t, func(t *testing.T, d *db.DB) {
		b := newBrain(t, d)
		server := fakeoauth.New(t, "zeroth-access-token", "zeroth-refresh-token")
		server.Secret = "secret-of-the-client"
		given := []string{"zeroth-access-token", "zeroth-refresh-token", "secret-of-the-client", "token-that-is-static", "value-of-the-variable", "token-that-replaces", "another-value"}
		for _, s := range given {
			b.keepSecret(s)
		}
		var answers strings.Builder
		call := func(method, path string, body any) answer {
			t.Helper()
			a := b.do(b.key, method, path, body)
			answers.Write(a.body)
			return a
		}
		v, doomed := b.vault(), b.vault()
		path := "/v1/vaults/" + v.ID + "/credentials"
		var ids []string
		for _, auth := range []object{
			{"type": "mcp_oauth", "mcp_server_url": server.MCP, "access_token": "zeroth-access-token", "refresh": object{
				"client_id": server.ClientID, "refresh_token": "zeroth-refresh-token", "token_endpoint": server.Token, "token_endpoint_auth": object{"type": "client_secret_basic", "client_secret": server.Secret}}},
			{"type": "static_bearer", "mcp_server_url": "https://mcp.example.com", "token": "token-that-is-static"},
			{"type": "environment_variable", "secret_name": "KEY", "secret_value": "value-of-the-variable", "networking": object{"type": "unrestricted"}},
		} {
			for _, at := range []string{path, "/v1/vaults/" + doomed.ID + "/credentials"} {
				var c api.Credential
				a := call("POST", at, object{"auth": auth})
				must(t, json.Unmarshal(a.body, &c))
				if at == path {
					ids = append(ids, c.ID)
				}
			}
			call("POST", path, object{"auth": auth}) // a conflict
			auth["mcp_server_url"], auth["secret_name"] = "no URL", "no name"
			call("POST", path, object{"auth": auth})
		}
		// Refreshes that succeed, and that fail with echoes of the request.
		for range 2 {
			server.Expire()
			call("POST", path+"/"+ids[0]+"/mcp_oauth_validate", nil)
		}
		server.Expire()
		server.Trouble = http.StatusBadRequest
		call("POST", path+"/"+ids[0]+"/mcp_oauth_validate", nil)
		server.Trouble = 0
		server.Secret = "another one"
		call("POST", path+"/"+ids[0]+"/mcp_oauth_validate", nil)
		call("POST", path+"/"+ids[1], object{"auth": object{"type": "static_bearer", "token": "token-that-replaces"}})
		call("POST", path+"/"+ids[2], object{"auth": object{"type": "environment_variable", "secret_value": "another-value"}})
		call("POST", path+"/"+ids[2], object{"auth": object{"type": "static_bearer", "token": "token-that-replaces", "secret_value": "another-value"}})
		for _, p := range []string{"/v1/vaults", path, path + "/" + ids[0], path + "/" + ids[1], path + "/" + ids[2]} {
			call("GET", p, nil)
		}
		if granted, _ := server.Counts(); granted != 2 {
			t.Errorf("%d refreshes were granted", granted)
		}
		call("POST", "/v1/vaults/"+doomed.ID+"/archive", nil)

		rows := dump(t, d)
		if !strings.Contains(rows, ids[0]) {
			t.Fatal("the dump of the database has not everything in it")
		}
		for _, secret := range append(given, server.Given()...) {
			for where, text := range map[string]string{"an answer": answers.String(), "a row": rows, "the log": b.log.String()} {
				for _, form := range []string{secret, url.QueryEscape(secret)} {
					if strings.Contains(text, form) {
						t.Errorf("%s is in %s", secret, where)
					}
				}
			}
		}
		// What is archived is purged, not only sealed.
		must(t, d.Read(t.Context(), func(tx db.Tx) error {
			var left int
			err := tx.QueryRow(t.Context(), "SELECT count(*) FROM vault_credentials WHERE vault_id = ? AND (token <> '' OR refresh_token <> '' OR client_secret <> '')", doomed.ID).Scan(&left)
			if left != 0 {
				t.Errorf("%d archived credentials still have secrets", left)
			}
			return err
		}))
	})
}

// dump is every row of every table.
func dump(t *testing.T, d *db.DB) string {
	t.Helper()
	var all strings.Builder
	must(t, d.Read(t.Context(), func(tx db.Tx) error {
		query := "SELECT name FROM sqlite_master WHERE type = 'table'"
		if tx.ForUpdate() != "" {
			query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
		}
		tables, err := db.Strings(tx.Query(t.Context(), query))
		if err != nil {
			return err
		}
		for _, table := range tables {
			rows, err := tx.Query(t.Context(), "SELECT * FROM "+table)
			if err != nil {
				return err
			}
			columns, err := rows.Columns()
			must(t, err)
			for rows.Next() {
				values, places := make([]any, len(columns)), make([]any, len(columns))
				for i := range values {
					places[i] = &values[i]
				}
				must(t, rows.Scan(places...))
				for _, v := range values {
					if raw, ok := v.([]byte); ok {
						v = string(raw)
					}
					fmt.Fprintf(&all, "%v\t", v)
				}
				all.WriteByte('\n')
			}
			must(t, rows.Err())
			must(t, rows.Close())
		}
		return nil
	}))
	return all.String()
}
