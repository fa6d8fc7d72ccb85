package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"hearth/api"
	"hearth/internal/brain/auth"
)

// past sends a request past the check that there is no 5xx.
func (b *brain) past(credential, path string) answer {
	b.t.Helper()
	checked := b.http
	defer func() { b.http = checked }()
	b.http = http.DefaultClient
	return b.do(credential, "GET", path, nil)
}

// TestTokensOfAnIssuer tries everything that can be wrong with one.
func TestTokensOfAnIssuer(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		member := object{"groups": []string{"viewers"}}
		with := func(more object) object {
			all := object{"groups": []string{"viewers"}}
			for k, v := range more {
				all[k] = v
			}
			return all
		}
		claims := b.issuer.Claims(member)
		stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		now := time.Now()
		good := b.issuer.Token(member)
		for what, c := range map[string]struct {
			token string
			want  int
			says  string
		}{
			"good":                      {good, 200, ""},
			"for several services":      {b.issuer.Token(with(object{"aud": []string{"another", "hearth-test"}})), 200, ""},
			"for another service":       {b.issuer.Token(with(object{"aud": "another"})), 401, "audience"},
			"for nobody":                {b.issuer.Token(with(object{"aud": nil})), 401, "audience"},
			"of another issuer":         {b.issuer.Token(with(object{"iss": "https://elsewhere.example"})), 401, "issued by a different provider"},
			"expired":                   {b.issuer.Token(with(object{"exp": now.Add(-time.Second).Unix()})), 401, "expired"},
			"without an end":            {b.issuer.Token(with(object{"exp": nil})), 401, "expired"},
			"not valid yet":             {b.issuer.Token(with(object{"nbf": now.Add(10 * time.Minute).Unix()})), 401, "before"},
			"without a subject":         {b.issuer.Token(with(object{"sub": nil})), 401, "sub"},
			"with a riddle as subject":  {b.issuer.Token(with(object{"sub": "a\x00b"})), 401, "sub"},
			"without a signature":       {b.issuer.Sign(jwt.SigningMethodNone, b.issuer.KeyID(), jwt.UnsafeAllowNoneSignatureType, claims), 401, "algorithm"},
			"signed with a public key":  {b.issuer.Sign(jwt.SigningMethodHS256, b.issuer.KeyID(), b.issuer.PublicKey(), claims), 401, "algorithm"},
			"signed by a stranger":      {b.issuer.Sign(jwt.SigningMethodES256, b.issuer.KeyID(), stranger, claims), 401, "signature"},
			"with a key nobody knows":   {b.issuer.Sign(jwt.SigningMethodES256, "unknown", stranger, claims), 401, "signature"},
			"cut short":                 {good[:len(good)-8], 401, "not a valid one"},
			"with other claims":         {swapClaims(good, b.issuer.Token(object{"groups": "admins"})), 401, "signature"},
			"without groups":            {b.issuer.Token(nil), 403, "groups"},
			"with groups that are none": {b.issuer.Token(object{"groups": 7}), 403, "groups"},
			"with unknown groups":       {b.issuer.Token(object{"groups": []any{"others", 7, "Viewers", "viewers "}}), 403, "groups"},
			"with one group as a text":  {b.issuer.Token(object{"groups": "viewers"}), 200, ""},
		} {
			a := b.do(c.token, "GET", "/v1/agents", nil)
			if a.status != c.want || c.want != 200 && !strings.Contains(a.failure().Message, c.says) {
				t.Errorf("a token %s: %d %s, want %d", what, a.status, a.body, c.want)
			}
		}
		r := b.request(b.ctx, "", "GET", "/v1/agents", nil)
		r.Header.Set("x-api-key", good) // as SDKs send whatever they are given as a key
		if a := b.send(r); a.status != http.StatusOK {
			t.Errorf("as x-api-key: %d %s", a.status, a.body)
		}
		b.signOn.GroupsClaim = "realm.roles"
		if a := b.do(b.issuer.Token(object{"realm": object{"roles": []string{"viewers"}}}), "GET", "/v1/agents", nil); a.status != http.StatusOK {
			t.Errorf("groups inside another claim: %d %s", a.status, a.body)
		}
	})
}

// swapClaims is a token with the claims of another under its own signature.
func swapClaims(token, other string) string {
	parts := strings.Split(token, ".")
	parts[1] = strings.Split(other, ".")[1]
	return strings.Join(parts, ".")
}

// TestAPersonsWorkspace is the one they have a role in, or which they name.
func TestAPersonsWorkspace(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		red, redID := b.workspace("red")
		blue, blueID := b.workspace("blue")
		redAgent, blueAgent := red.agent(), blue.agent()
		b.grant(redID)
		b.grant(blueID)
		in := func(id, role string) string { return id + " " + role }
		for what, c := range map[string]struct {
			groups          []string
			workspace, path string
			want            int
		}{
			"the only one":                         {[]string{in(redID, "viewer")}, "", redAgent.ID, 200},
			"the only one, by name":                {[]string{in(redID, "viewer")}, redID, redAgent.ID, 200},
			"another one":                          {[]string{in(redID, "admin")}, blueID, blueAgent.ID, 404},
			"the default one, which is not theirs": {[]string{in(redID, "admin")}, "wrkspc_default", redAgent.ID, 404},
			"neither of two":                       {[]string{in(redID, "viewer"), in(blueID, "viewer")}, "", redAgent.ID, 400},
			"the second of two":                    {[]string{in(redID, "viewer"), in(blueID, "viewer")}, blueID, blueAgent.ID, 200},
			"the default one beside another":       {[]string{in(redID, "viewer"), "viewers"}, "", redAgent.ID, 404},
			"that beside the default one":          {[]string{in(redID, "viewer"), "viewers"}, redID, redAgent.ID, 200},
			"any, as an operator":                  {[]string{"ops"}, redID, redAgent.ID, 200},
			"none there is, as an operator":        {[]string{"ops"}, "wrkspc_none", redAgent.ID, 404},
			"any, as a developer of the default":   {[]string{"developers"}, redID, redAgent.ID, 404},
		} {
			token := b.issuer.Token(object{"groups": c.groups})
			a := b.do(token, "GET", "/v1/agents/"+c.path, nil)
			if c.workspace != "" {
				a = b.in(c.workspace, token, "GET", "/v1/agents/"+c.path, nil)
			}
			if a.status != c.want {
				t.Errorf("%s: %d %s, want %d", what, a.status, a.body, c.want)
			}
		}
		// The highest role counts, and only where it is held.
		both := b.issuer.Token(object{"groups": []string{in(redID, "viewer"), in(redID, "developer"), in(blueID, "viewer")}})
		for id, want := range map[string]int{redID: 200, blueID: 403} {
			if a := b.in(id, both, "POST", "/v1/agents", object{"name": "n", "model": "m"}); a.status != want {
				t.Errorf("a developer of red, in %s: %d %s, want %d", id, a.status, a.body, want)
			}
		}
		// An operator is one everywhere, whatever their other groups may do.
		operator := b.issuer.Token(object{"groups": []string{"ops", in(redID, "viewer")}})
		if a := b.in(redID, operator, "POST", "/v1/agents", object{"name": "n", "model": "m"}); a.status != 200 {
			t.Errorf("an operator who is a viewer of red, in red: %d %s", a.status, a.body)
		}
		made := ok[api.APIKey](b, b.issuer.Token(object{"groups": "ops", "sub": "olga"}), "POST", "/v1/api_keys", object{"name": "n", "role": "viewer"})
		b.keepSecret(made.Key)
		if made.CreatedBy == nil || *made.CreatedBy != (api.Actor{Type: "person", ID: "olga"}) {
			t.Errorf("made by %+v", made.CreatedBy)
		}
	})
}

// TestAnIssuerThatChangesKeys: the new one is good at once, and the old one no
// longer than the keys are kept.
func TestAnIssuerThatChangesKeys(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		member := object{"groups": "viewers"}
		status := func(token string) int { return b.do(token, "GET", "/v1/agents", nil).status }
		first := b.issuer.Token(member)
		for range 5 {
			if got := status(first); got != 200 {
				t.Fatalf("the first key's token: %d", got)
			}
		}
		if n := b.issuer.Fetches(); n != 1 {
			t.Errorf("the keys were fetched %d times for the same one", n)
		}
		b.issuer.Rotate()
		if got := status(b.issuer.Token(member)); got != 200 {
			t.Errorf("the second key's token: %d", got)
		}
		if got := status(first); got != 401 {
			t.Errorf("the first key's token, after the second was seen: %d", got)
		}
		second := b.issuer.Token(member)
		b.issuer.Rotate()
		b.signOn.KeysFor = time.Nanosecond
		if got := status(second); got != 401 {
			t.Errorf("the second key's token, after the keys were kept long enough: %d", got)
		}
	})
}

// TestAnIssuerThatIsSilent keeps nobody out but those who sign on there.
func TestAnIssuerThatIsSilent(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		token := b.issuer.Token(object{"groups": "viewers"})
		b.issuer.Silence(true)
		b.signOn.Greet()
		if !strings.Contains(b.log.String(), "does not answer") {
			t.Error("the log does not say that the issuer is silent")
		}
		a := b.past(token, "/v1/agents")
		if e := a.failure(); a.status != http.StatusServiceUnavailable || e.Type != api.ErrOverloaded || !strings.Contains(e.Message, b.issuer.URL) {
			t.Errorf("with nothing known of the issuer: %d %s", a.status, a.body)
		}
		ok[api.Page[api.Agent]](b, b.key, "GET", "/v1/agents", nil)
		b.issuer.Silence(false)
		ok[api.Page[api.Agent]](b, token, "GET", "/v1/agents", nil)
		b.issuer.Silence(true)
		ok[api.Page[api.Agent]](b, token, "GET", "/v1/agents", nil) // its keys are known
		b.issuer.Rotate()
		if a := b.past(b.issuer.Token(object{"groups": "viewers"}), "/v1/agents"); a.status != http.StatusServiceUnavailable {
			t.Errorf("with an unknown key: %d %s", a.status, a.body)
		}
		b.issuer.Silence(false)
		ok[api.Page[api.Agent]](b, b.issuer.Token(object{"groups": "viewers"}), "GET", "/v1/agents", nil)
	})
}

// TestAFloodOfUnknownKeys does not become one at the issuer.
func TestAFloodOfUnknownKeys(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		known := b.issuer.Token(object{"groups": "viewers"})
		ok[api.Page[api.Agent]](b, known, "GET", "/v1/agents", nil)
		began := time.Now()
		for i := range 100 {
			a := b.past(b.issuer.Sign(jwt.SigningMethodES256, fmt.Sprint("kid", i), stranger, b.issuer.Claims(object{"groups": "ops"})), "/v1/agents")
			if a.status != http.StatusUnauthorized && a.status != http.StatusServiceUnavailable {
				t.Fatalf("an unknown key: %d %s", a.status, a.body)
			}
		}
		if most := 11 + int(time.Since(began)/time.Second); b.issuer.Fetches() > most {
			t.Errorf("the keys were fetched %d times, at most %d are allowed", b.issuer.Fetches(), most)
		}
		ok[api.Page[api.Agent]](b, known, "GET", "/v1/agents", nil)
	})
}

// TestAStreamEndsWithItsToken: nobody reads on once they would not be let in.
func TestAStreamEndsWithItsToken(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		s := b.site()
		r := b.request(b.ctx, b.issuer.Token(object{"groups": "viewers", "exp": time.Now().Add(2 * time.Second).Unix()}), "GET", "/v1/sessions/"+s.session.ID+"/events/stream", nil)
		response, err := b.http.Do(r)
		must(t, err)
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Fatalf("the stream: %d", response.StatusCode)
		}
		buffer := make([]byte, 4096)
		for err == nil {
			_, err = response.Body.Read(buffer)
		}
		if b.ctx.Err() != nil {
			t.Error("the stream outlived its token")
		}
	})
}

func TestGrants(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]auth.Grant{
		"admin=ops":                     {Role: auth.RoleAdmin, WorkspaceID: auth.DefaultWorkspace, Groups: []string{"ops"}},
		"viewer@wrkspc_1=a, b":          {Role: auth.RoleViewer, WorkspaceID: "wrkspc_1", Groups: []string{"a", "b"}},
		`developer="cn=x,dc=y",plain=1`: {Role: auth.RoleDeveloper, WorkspaceID: auth.DefaultWorkspace, Groups: []string{"cn=x,dc=y", "plain=1"}},
	} {
		if got, err := auth.ParseGrant(text); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "admin", "admin=", "admin=,a", "owner=a", "admin@=a", "admin@x y=a", `admin="a`, "=a"} {
		if got, err := auth.ParseGrant(text); err == nil {
			t.Errorf("%q passes for %+v", text, got)
		}
	}
}

func TestSignOnSettings(t *testing.T) {
	t.Parallel()
	grants := []auth.Grant{{Role: auth.RoleAdmin, WorkspaceID: "w", Groups: []string{"g"}}}
	for what, cfg := range map[string]auth.SignOnConfig{
		"no address": {Issuer: "issuer", Audience: "a", Grants: grants}, "no TLS": {Issuer: "http://issuer.example", Audience: "a", Grants: grants},
		"no audience": {Issuer: "https://issuer.example", Grants: grants}, "no role": {Issuer: "https://issuer.example", Audience: "a"},
	} {
		if _, err := auth.NewSignOn(cfg); err == nil {
			t.Errorf("%s is well", what)
		}
	}
}
