package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gocloud.dev/secrets/localsecrets"

	"hearth/api"
	"hearth/internal/brain/outbound"
	"hearth/internal/brain/seal"
	"hearth/internal/db"
	"hearth/internal/db/dbtest"
	"hearth/test/fakeoauth"
)

const workspace = "wrkspc_test"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens a store as one server of a database has it.
func open(t *testing.T, d *db.DB) *Store {
	t.Helper()
	sealer, err := seal.New(t.Context(), d, localsecrets.NewKeeper([32]byte{1}))
	must(t, err)
	allowed, err := outbound.ParseAllowed([]string{"127.0.0.1"})
	must(t, err)
	s, err := New(t.Context(), Config{DB: d, Sealer: sealer, Client: allowed.Client()})
	must(t, err)
	return s
}

// given is a value of a request.
func given[T any](v T) api.Optional[T] { return api.Optional[T]{Set: true, Value: v} }

func (s *Store) vault(t *testing.T) string {
	t.Helper()
	v, err := s.Create(t.Context(), workspace, Params{DisplayName: given("v")})
	must(t, err)
	return v.ID
}

func (s *Store) static(t *testing.T, vaultID, server, token string) api.Credential {
	t.Helper()
	c, err := s.CreateCredential(t.Context(), workspace, vaultID, CredentialParams{Auth: given(AuthParams{Type: api.CredentialStaticBearer, MCPServerURL: given(server), Token: given(token)})})
	must(t, err)
	return c
}

// oauth adds a credential for a server, whose access token expires when it says.
func (s *Store) oauth(t *testing.T, vaultID string, server *fakeoauth.Server, access, refresh string, expires time.Time) api.Credential {
	t.Helper()
	how := ClientAuthParams{Type: api.ClientNone}
	if server.Secret != "" {
		how = ClientAuthParams{Type: api.ClientSecretBasic, ClientSecret: given(server.Secret)}
	}
	c, err := s.CreateCredential(t.Context(), workspace, vaultID, CredentialParams{Auth: given(AuthParams{
		Type: api.CredentialMCPOAuth, MCPServerURL: given(server.MCP), AccessToken: given(access), ExpiresAt: given(expires.Format(time.RFC3339Nano)),
		Refresh: given(RefreshParams{
			ClientID: given(server.ClientID), RefreshToken: given(refresh), TokenEndpoint: given(server.Token), TokenEndpointAuth: given(how),
			Scope: given("tools"), Resource: given("https://mcp.example.com"),
		}),
	})})
	must(t, err)
	return c
}

// soon is when a token expires that is to be refreshed, and is still good.
func soon() time.Time { return time.Now().Add(early / 2) }

func TestTheFirstVaultWithAMatchWins(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := open(t, d)
		empty, first, second, archived := s.vault(t), s.vault(t), s.vault(t), s.vault(t)
		s.static(t, archived, "https://mcp.example.com/mcp", "of-the-archived")
		_, err := s.Archive(t.Context(), workspace, archived)
		must(t, err)
		a := s.static(t, first, "https://MCP.example.com:443/mcp/", "first")
		b := s.static(t, second, "https://mcp.example.com/mcp", "second")
		for _, c := range []struct {
			vaults []string
			server string
			want   Bearer
		}{
			{[]string{"vlt_none", archived, empty, first, second}, "https://mcp.example.com/mcp", Bearer{"first", first, a.ID}},
			{[]string{second, first}, "HTTPS://mcp.EXAMPLE.com/mcp", Bearer{"second", second, b.ID}},
			{[]string{first}, "https://mcp.example.com/MCP", Bearer{}},
			{[]string{first}, "https://mcp.example.com/mcp?x=1", Bearer{}},
			{[]string{first}, "http://mcp.example.com/mcp", Bearer{}},
			{[]string{first}, "https://mcp.example.com:8443/mcp", Bearer{}},
			{[]string{empty}, "https://mcp.example.com/mcp", Bearer{}},
			{nil, "https://mcp.example.com/mcp", Bearer{}},
			{[]string{first}, "", Bearer{}},
		} {
			got, found, err := s.Bearer(t.Context(), workspace, c.vaults, c.server)
			if err != nil || got != c.want || found != (c.want != Bearer{}) {
				t.Errorf("%s in %v: %+v %v %v, want %+v", c.server, c.vaults, got, found, err, c.want)
			}
		}
		if _, found, err := s.Bearer(t.Context(), "wrkspc_other", []string{first}, "https://mcp.example.com/mcp"); found || err != nil {
			t.Errorf("another workspace finds it: %v", err)
		}
	})
}

func TestTokensAreRefreshed(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := open(t, d)
		server := fakeoauth.New(t, "access-zero", "refresh-zero")
		server.Secret, server.Lifetime = "client secret: +&%", int(early/time.Second)-1
		v := s.vault(t)
		c := s.oauth(t, v, server, "access-zero", "refresh-zero", soon())
		for n := 1; n <= 3; n++ { // each lives so short a time that the next call refreshes it
			got, found, err := s.Bearer(t.Context(), workspace, []string{v}, server.MCP)
			if want := fmt.Sprintf("access-token-number-%d", n); err != nil || !found || got.Token != want || got.CredentialID != c.ID {
				t.Fatalf("%+v %v %v, want %s", got, found, err, want)
			}
		}
		form := server.Forms()[0]
		if form.Get("scope") != "tools" || form.Get("resource") != "https://mcp.example.com" || form.Has("client_id") || form.Has("client_secret") {
			t.Errorf("asked with %v", form)
		}
		server.Lifetime = 0
		for range 2 { // the second time it is not known to expire
			if got, _, err := s.Bearer(t.Context(), workspace, []string{v}, server.MCP); err != nil || got.Token != "access-token-number-4" {
				t.Errorf("%+v %v", got, err)
			}
		}
		read, err := s.GetCredential(t.Context(), workspace, v, c.ID)
		if err != nil || read.Auth.ExpiresAt != nil || !read.UpdatedAt.After(c.UpdatedAt) {
			t.Errorf("%+v %v", read.Auth, err)
		}
	})
}

// TestRefreshTokensAreUsedOnce: many ask at once, at two servers of a database, and
// one request to the token endpoint serves all.
func TestRefreshTokensAreUsedOnce(t *testing.T) {
	url := dbtest.PostgresURL(t)
	one, two := open(t, dbtest.Open(t, url)), open(t, dbtest.Open(t, url))
	server := fakeoauth.New(t, "access-zero", "refresh-zero")
	server.Lifetime = 3600
	v := one.vault(t)
	const rounds, callers = 5, 8
	c := one.oauth(t, v, server, "access-zero", "refresh-zero", soon())
	used := Bearer{Token: "access-zero", VaultID: v, CredentialID: c.ID}
	for round := 1; round <= rounds; round++ {
		var wg sync.WaitGroup
		tokens, errs := make([]string, 2*callers), make([]error, 2*callers)
		for i := range tokens {
			wg.Go(func() {
				s := []*Store{one, two}[i%2]
				var b Bearer
				b, errs[i] = s.Renew(t.Context(), workspace, used)
				tokens[i] = b.Token
			})
		}
		wg.Wait()
		want := fmt.Sprintf("access-token-number-%d", round)
		for i, token := range tokens {
			if errs[i] != nil || token != want {
				t.Errorf("round %d: %q, %v, want %s", round, token, errs[i], want)
			}
		}
		used.Token = want
	}
	if granted, refused := server.Counts(); granted != rounds || refused != 0 {
		t.Errorf("%d refreshes granted and %d refused, want %d and none", granted, refused, rounds)
	}
}

func TestFailures(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := open(t, d)
		server := fakeoauth.New(t, "access-zero", "another-refresh-token")
		v := s.vault(t)
		c := s.oauth(t, v, server, "access-zero", "refresh-zero", soon())
		var told heard
		s.UseOutbox(&told)

		// A token that is still good serves, though it cannot be refreshed.
		got, _, err := s.Bearer(t.Context(), workspace, []string{v}, server.MCP)
		if err != nil || got.Token != "access-zero" {
			t.Errorf("%+v %v", got, err)
		}
		// One that is not is an error, which says why; nobody asks again for a while.
		s.now = func() time.Time { return time.Now().Add(early * 2 / 3) }
		_, found, err := s.Bearer(t.Context(), workspace, []string{v}, server.MCP)
		var failure *RefreshError
		if !found || !errors.As(err, &failure) || failure.Code != "invalid_grant" || failure.Status != 400 || failure.CredentialID != c.ID {
			t.Errorf("%v %v", found, err)
		}
		if strings.Contains(fmt.Sprint(err), "refresh-zero") || !strings.Contains(fmt.Sprint(err), "400 invalid_grant") {
			t.Errorf("the error reads %v", err)
		}
		if _, refused := server.Counts(); refused != 1 {
			t.Errorf("asked %d times", refused)
		}
		// Later it is tried again.
		s.now = func() time.Time { return time.Now().Add(2 * pause) }
		if _, _, err = s.Bearer(t.Context(), workspace, []string{v}, server.MCP); !errors.As(err, &failure) {
			t.Error(err)
		}
		if _, refused := server.Counts(); refused != 2 {
			t.Errorf("asked %d times", refused)
		}
		// New secrets are tried at once.
		_, err = s.UpdateCredential(t.Context(), workspace, v, c.ID, CredentialParams{Auth: given(AuthParams{
			Type: api.CredentialMCPOAuth, Refresh: given(RefreshParams{RefreshToken: given("another-refresh-token")}),
		})})
		must(t, err)
		if got, _, err := s.Bearer(t.Context(), workspace, []string{v}, server.MCP); err != nil || got.Token != "access-token-number-1" {
			t.Errorf("%+v %v", got, err)
		}
		// Every failure was told, and none of what went well.
		want := api.WebhookData{Type: "vault_credential.refresh_failed", ID: c.ID, VaultID: v, WorkspaceID: workspace}
		if !slices.Equal(told, heard{want, want}) {
			t.Errorf("told %+v", told)
		}
	})
}

// heard is all that was told.
type heard []api.WebhookData

// Announce implements outbox.Outbox.
func (h *heard) Announce(_ context.Context, _ db.Tx, workspaceID string, events ...api.WebhookData) error {
	for _, e := range events {
		e.WorkspaceID = workspaceID
		*h = append(*h, e)
	}
	return nil
}

func TestWhatCannotBeRefreshed(t *testing.T) {
	d := dbtest.OpenSQLite(t)
	s := open(t, d)
	v := s.vault(t)
	static := s.static(t, v, "https://mcp.example.com", "static-token")
	var failure *RefreshError
	_, err := s.Renew(t.Context(), workspace, Bearer{Token: "static-token", VaultID: v, CredentialID: static.ID})
	if !errors.As(err, &failure) || failure.Outcome != api.RefreshNoRefreshToken {
		t.Error(err)
	}
	server := fakeoauth.New(t, "a", "r")
	server.MCP = "https://other.example.com"
	server.Token = "http://10.0.0.1/token"
	c := s.oauth(t, v, server, "a", "r", soon())
	_, err = s.Renew(t.Context(), workspace, Bearer{Token: "a", VaultID: v, CredentialID: c.ID})
	if !errors.As(err, &failure) || failure.Outcome != api.RefreshConnectError || !strings.Contains(err.Error(), "--allow-private-outbound") {
		t.Error(err)
	}
	if _, err := s.ArchiveCredential(t.Context(), workspace, v, c.ID); err != nil {
		t.Error(err)
	}
	if _, err := s.Renew(t.Context(), workspace, Bearer{Token: "a", VaultID: v, CredentialID: c.ID}); err == nil {
		t.Error("an archived credential is renewed")
	}
}

// TestASecretOpensAtItsPlaceOnly: who can write to the database cannot have a secret
// sent to a server of their own.
func TestASecretOpensAtItsPlaceOnly(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := open(t, d)
		v, other := s.vault(t), s.vault(t)
		s.static(t, v, "https://mcp.example.com", "the-token")
		s.static(t, other, "https://evil.example.com", "another")
		must(t, d.Write(t.Context(), func(tx db.Tx) error {
			_, err := tx.Exec(t.Context(), "UPDATE vault_credentials SET token = (SELECT token FROM vault_credentials WHERE vault_id = ?) WHERE vault_id = ?", v, other)
			return err
		}))
		if b, _, err := s.Bearer(t.Context(), workspace, []string{other}, "https://evil.example.com"); err == nil {
			t.Errorf("opened as %q", b.Token)
		}
	})
}

// TestAReplacedRefreshTokenStays: what comes of the old one is dropped.
func TestAReplacedRefreshTokenStays(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := open(t, d)
		server := fakeoauth.New(t, "access-zero", "refresh-zero")
		v := s.vault(t)
		c := s.oauth(t, v, server, "access-zero", "refresh-zero", soon())
		server.Before = func(url.Values) {
			_, err := s.UpdateCredential(context.WithoutCancel(t.Context()), workspace, v, c.ID, CredentialParams{Auth: given(AuthParams{
				Type: api.CredentialMCPOAuth, AccessToken: given("replaced"), Refresh: given(RefreshParams{RefreshToken: given("refresh-replaced")}),
			})})
			if err != nil {
				t.Error(err)
			}
		}
		b, err := s.Renew(t.Context(), workspace, Bearer{Token: "access-zero", VaultID: v, CredentialID: c.ID})
		if err != nil || b.Token != "replaced" {
			t.Errorf("%+v %v", b, err)
		}
		row, err := s.read(t.Context(), workspace, v, c.ID)
		must(t, err)
		if kept, err := s.open(t.Context(), row); err != nil || kept.refreshToken != "refresh-replaced" {
			t.Errorf("%+v %v", kept, err)
		}
	})
}

// TestAClaimOfADeadServerLapses: the next one takes over when it should be over.
func TestAClaimOfADeadServerLapses(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := open(t, d)
		server := fakeoauth.New(t, "access-zero", "refresh-zero")
		v := s.vault(t)
		c := s.oauth(t, v, server, "access-zero", "refresh-zero", soon())
		row, err := s.read(t.Context(), workspace, v, c.ID)
		must(t, err)
		if _, ours, err := s.claim(t.Context(), row, time.Now()); err != nil || !ours {
			t.Fatal(ours, err)
		}
		if _, ours, err := s.claim(t.Context(), row, time.Now()); err != nil || ours {
			t.Fatal("claimed twice", err)
		}
		s.now = func() time.Time { return time.Now().Add(claim + time.Second) }
		if b, err := s.Renew(t.Context(), workspace, Bearer{Token: "access-zero", VaultID: v, CredentialID: c.ID}); err != nil || b.Token != "access-token-number-1" {
			t.Errorf("%+v %v", b, err)
		}
	})
}

// TestTokenEndpoints: what they answer that is no token.
func TestTokenEndpoints(t *testing.T) {
	d := dbtest.OpenSQLite(t)
	s := open(t, d)
	for name, c := range map[string]struct {
		status       int
		body, reason string
		code         string
	}{
		"an error with 200":    {200, `{"error":"bad_refresh_token"}`, "200 bad_refresh_token", "bad_refresh_token"},
		"no JSON":              {200, `access_token=secret-access-token`, "no access token", ""},
		"no token":             {200, `{}`, "no access token", ""},
		"a token in two lines": {200, `{"access_token":"secret-access-token\nx"}`, "no access token", ""},
		"a token of its own":   {200, `{"access_token":"secret-access-token","token_type":"mac"}`, "no bearer token", ""},
		"an error in words":    {400, `{"error":"it is <b>bad</b>"}`, "answered 400", ""},
		"a redirect":           {302, ``, "answered 302", ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := fakeoauth.New(t, "access-zero", "refresh-zero")
			s.Client = &http.Client{Transport: answering{c.status, c.body}}
			v := s.vault(t)
			made := s.oauth(t, v, server, "access-zero", "refresh-zero", soon())
			_, err := s.Renew(t.Context(), workspace, Bearer{Token: "access-zero", VaultID: v, CredentialID: made.ID})
			var failure *RefreshError
			if !errors.As(err, &failure) || !strings.Contains(err.Error(), c.reason) || failure.Code != c.code {
				t.Fatalf("%v", err)
			}
			if strings.Contains(failure.response.Body, "secret-access-token") {
				t.Errorf("shown: %s", failure.response.Body)
			}
		})
	}
}

// answering is a network on which everything answers alike.
type answering struct {
	status int
	body   string
}

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	recorder := &http.Response{StatusCode: a.status, Header: http.Header{}, Body: http.NoBody}
	if a.body != "" {
		recorder.Body = body{strings.NewReader(a.body)}
	}
	return recorder, nil
}

type body struct{ *strings.Reader }

func (body) Close() error { return nil }

func TestNormalize(t *testing.T) {
	for from, want := range map[string]string{
		"https://Example.COM:443/a/": "https://example.com/a", "http://example.com:80": "http://example.com", "https://example.com:80/": "https://example.com:80",
		"https://[2001:DB8::1]:443/x": "https://[2001:db8::1]/x", "https://example.com/A%2Fb/": "https://example.com/A%2Fb", "https://example.com/a?b=C": "https://example.com/a?b=C",
		"": "", "mcp": "", "://": "",
	} {
		if got := Normalize(from); got != want {
			t.Errorf("%s is %s, want %s", from, got, want)
		}
	}
}

// TestReseal seals everything anew while a server goes on, one refresh of which is
// in progress.
func TestReseal(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := open(t, d)
		server := fakeoauth.New(t, "access-zero", "refresh-zero")
		server.Secret, server.Lifetime = "client-secret", 1
		v := s.vault(t)
		c := s.oauth(t, v, server, "access-zero", "refresh-zero", soon())
		s.static(t, v, "https://mcp.example.com", "static")
		archived := s.static(t, v, "https://gone.example.com", "static")
		_, err := s.ArchiveCredential(t.Context(), workspace, v, archived.ID)
		must(t, err)
		rotating := open(t, d)
		must(t, rotating.Sealer.Rotate(t.Context()))

		resealed := make(chan error, 1)
		server.Before = func(url.Values) {
			server.Before = nil
			go func() {
				n, err := rotating.Reseal(context.WithoutCancel(t.Context()))
				if err == nil && n != 2 {
					err = fmt.Errorf("%d sealed anew, want 2", n)
				}
				resealed <- err
			}()
		}
		b, err := s.Renew(t.Context(), workspace, Bearer{Token: "access-zero", VaultID: v, CredentialID: c.ID})
		if err != nil || b.Token != "access-token-number-1" {
			t.Fatalf("%+v %v", b, err)
		}
		must(t, <-resealed)
		if n, err := rotating.Reseal(t.Context()); err != nil || n != 0 {
			t.Errorf("once more: %d, %v", n, err)
		}
		// Both go on with what there is now.
		for n, s := range []*Store{s, rotating} {
			if b, _, err := s.Bearer(t.Context(), workspace, []string{v}, server.MCP); err != nil || b.Token != fmt.Sprintf("access-token-number-%d", n+2) {
				t.Errorf("%+v %v", b, err)
			}
			if b, _, err := s.Bearer(t.Context(), workspace, []string{v}, "https://mcp.example.com"); err != nil || b.Token != "static" {
				t.Errorf("%+v %v", b, err)
			}
		}
	})
}
