package server

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/api"
	"hearth/internal/brain/auth"
	"hearth/internal/brain/tunnel"
)

// spareCA is a certificate that no tunnel has yet, as it stands in JSON.
var spareCA = strings.ReplaceAll(newCA(), "\n", `\n`)

var tunnelVerdicts = map[string]verdict{
	"POST /v1/tunnels":                                                   forRole(auth.RoleDeveloper, `{"display_name":"site"}`),
	"GET /v1/tunnels":                                                    forRole(auth.RoleViewer, ""),
	"GET /v1/tunnels/{tunnel_id}":                                        forRole(auth.RoleViewer, ""),
	"POST /v1/tunnels/{tunnel_id}/archive":                               forRole(auth.RoleDeveloper, ""),
	"POST /v1/tunnels/{tunnel_id}/reveal_token":                          forRole(auth.RoleAdmin, ""),
	"POST /v1/tunnels/{tunnel_id}/rotate_token":                          forRole(auth.RoleAdmin, `{"reason":"yearly"}`),
	"POST /v1/tunnels/{tunnel_id}/certificates":                          forRole(auth.RoleDeveloper, `{"ca_certificate_pem":"`+spareCA+`"}`),
	"GET /v1/tunnels/{tunnel_id}/certificates":                           forRole(auth.RoleViewer, ""),
	"GET /v1/tunnels/{tunnel_id}/certificates/{certificate_id}":          forRole(auth.RoleViewer, ""),
	"POST /v1/tunnels/{tunnel_id}/certificates/{certificate_id}/archive": forRole(auth.RoleDeveloper, ""),
}

var tunnelForms = []form{
	{"POST /v1/tunnels", `{"display_name":"n"}`, map[string]string{"display_name": "string null max 255"}},
	{"POST /v1/tunnels/{tunnel_id}/rotate_token", `{"reason":"r"}`, map[string]string{"reason": "string null max 1024"}},
	{"POST /v1/tunnels/{tunnel_id}/certificates", `{"ca_certificate_pem":"` + spareCA + `"}`, map[string]string{"ca_certificate_pem": "string required choice max 8192"}},
}

// addTunnel makes a tunnel with one certificate, and sees to it that there is
// room for another tunnel in the workspace.
func (s *site) addTunnel() {
	s.t.Helper()
	made, spare := s.roomForTunnel(), s.roomForTunnel()
	ok[api.Tunnel](s.brain, s.brain.key, "POST", "/v1/tunnels/"+spare.ID+"/archive", nil)
	s.ids["tunnel_id"] = made.ID
	s.ids["certificate_id"] = ok[api.TunnelCertificate](s.brain, s.brain.key, "POST", "/v1/tunnels/"+made.ID+"/certificates", object{"ca_certificate_pem": newCA()}).ID
}

// roomForTunnel makes a tunnel, in the place of the oldest if need be.
func (s *site) roomForTunnel() (made api.Tunnel) {
	s.t.Helper()
	if a := s.do(s.brain.key, "POST", "/v1/tunnels", nil); a.status == 200 {
		must(s.t, json.Unmarshal(a.body, &made))
		return made
	}
	there := ok[api.Page[api.Tunnel]](s.brain, s.brain.key, "GET", "/v1/tunnels?limit=1000", nil)
	ok[api.Tunnel](s.brain, s.brain.key, "POST", "/v1/tunnels/"+there.Data[len(there.Data)-1].ID+"/archive", nil)
	return s.brain.tunnel("")
}

func (b *brain) tunnel(name string) api.Tunnel {
	b.t.Helper()
	body := object{}
	if name != "" {
		body["display_name"] = name
	}
	return ok[api.Tunnel](b, b.key, "POST", "/v1/tunnels", body)
}

func (b *brain) tunnelToken(id, verb string, body any) api.TunnelToken {
	b.t.Helper()
	t := ok[api.TunnelToken](b, b.key, "POST", "/v1/tunnels/"+id+"/"+verb+"_token", body)
	b.keepSecret(t.TunnelToken)
	return t
}

// newCA is the certificate of a CA that is as it should be, changed.
func newCA(changes ...func(*x509.Certificate)) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return caOf(key, changes...)
}

func caOf(key crypto.Signer, changes ...func(*x509.Certificate)) string {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "site CA"}, SubjectKeyId: []byte{1, 2, 3},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	for _, change := range changes {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestTunnelLife(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		made := b.tunnel("site")
		if !strings.HasSuffix(made.Domain, "."+tunnel.DefaultDomain) || *made.DisplayName != "site" || made.ArchivedAt != nil {
			t.Errorf("made %+v", made)
		}
		other := b.tunnel("")
		if other.Domain == made.Domain || other.DisplayName != nil {
			t.Errorf("made %+v beside %s", other, made.Domain)
		}
		first := b.tunnelToken(made.ID, "reveal", nil)
		if again := b.tunnelToken(made.ID, "reveal", nil); again != first {
			t.Error("revealed twice, the tokens differ")
		}
		second := b.tunnelToken(made.ID, "rotate", object{"reason": "somebody left"})
		if second.ID == first.ID || second.TunnelToken == first.TunnelToken {
			t.Error("a rotation changes nothing")
		}
		if now := b.tunnelToken(made.ID, "reveal", nil); now != second {
			t.Error("after a rotation, another token is revealed")
		}
		certificates := "/v1/tunnels/" + made.ID + "/certificates"
		cert := ok[api.TunnelCertificate](b, b.key, "POST", certificates, object{"ca_certificate_pem": newCA()})
		archived := ok[api.Tunnel](b, b.key, "POST", "/v1/tunnels/"+made.ID+"/archive", nil)
		again := ok[api.Tunnel](b, b.key, "POST", "/v1/tunnels/"+made.ID+"/archive", nil)
		if archived.ArchivedAt == nil || !archived.ArchivedAt.Equal(*again.ArchivedAt) {
			t.Errorf("archived at %v, then %v", archived.ArchivedAt, again.ArchivedAt)
		}
		if got := ok[api.TunnelCertificate](b, b.key, "GET", certificates+"/"+cert.ID, nil); got.ArchivedAt == nil {
			t.Error("the tunnel is archived and its certificate is not")
		}
		for path, body := range map[string]any{"/reveal_token": nil, "/rotate_token": nil, "/certificates": object{"ca_certificate_pem": newCA()}} {
			if a := b.do(b.key, "POST", "/v1/tunnels/"+made.ID+path, body); a.status != 400 || !strings.Contains(a.failure().Message, "archived") {
				t.Errorf("%s of an archived tunnel: %d %s", path, a.status, a.body)
			}
		}
		for query, want := range map[string]int{"": 1, "?include_archived=true": 2} {
			if page := ok[api.Page[api.Tunnel]](b, b.key, "GET", "/v1/tunnels"+query, nil); len(page.Data) != want || page.Data[0].ID != other.ID {
				t.Errorf("listed with %q: %+v", query, page.Data)
			}
		}
	})
}

// TestTenTunnels: a workspace has ten, however many are asked for at once.
func TestTenTunnels(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		var wg sync.WaitGroup
		answers := make([]answer, 2*tunnel.MaxActive)
		for i := range answers {
			wg.Go(func() { answers[i] = b.send(b.request(b.ctx, b.key, "POST", "/v1/tunnels", nil)) })
		}
		wg.Wait()
		made := 0
		for _, a := range answers {
			switch {
			case a.status == 200:
				made++
			case a.status != 400 || !strings.Contains(a.failure().Message, "10 tunnels"):
				t.Errorf("%d %s", a.status, a.body)
			}
		}
		if made != tunnel.MaxActive {
			t.Errorf("%d tunnels, want %d", made, tunnel.MaxActive)
		}
		page := ok[api.Page[api.Tunnel]](b, b.key, "GET", "/v1/tunnels?limit=1", nil)
		ok[api.Tunnel](b, b.key, "POST", "/v1/tunnels/"+page.Data[0].ID+"/archive", nil)
		b.tunnel("room again")
	})
}

func TestCertificatesOfATunnel(t *testing.T) {
	each(t, func(t *testing.T, b *brain) {
		certificates := "/v1/tunnels/" + b.tunnel("").ID + "/certificates"
		text := newCA()
		block, _ := pem.Decode([]byte(text))
		sum := sha256.Sum256(block.Bytes)
		first := ok[api.TunnelCertificate](b, b.key, "POST", certificates, object{"ca_certificate_pem": text})
		if first.Fingerprint != hex.EncodeToString(sum[:]) || first.ExpiresAt == nil {
			t.Errorf("made %+v", first)
		}
		if a := b.do(b.key, "POST", certificates, object{"ca_certificate_pem": text}); a.status != 409 {
			t.Errorf("the same once more: %d %s", a.status, a.body)
		}
		// One that says it never expires is said not to.
		lasting := newCA(func(c *x509.Certificate) { c.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) })
		second := ok[api.TunnelCertificate](b, b.key, "POST", certificates, object{"ca_certificate_pem": lasting})
		if second.ExpiresAt != nil {
			t.Errorf("expires at %s", second.ExpiresAt)
		}
		if a := b.do(b.key, "POST", certificates, object{"ca_certificate_pem": newCA()}); a.status != 400 || !strings.Contains(a.failure().Message, "2 certificates") {
			t.Errorf("a third: %d %s", a.status, a.body)
		}
		for range 2 {
			if c := ok[api.TunnelCertificate](b, b.key, "POST", certificates+"/"+first.ID+"/archive", nil); c.ArchivedAt == nil {
				t.Error("archived, it has no time for that")
			}
		}
		ok[api.TunnelCertificate](b, b.key, "POST", certificates, object{"ca_certificate_pem": newCA()})
		page := ok[api.Page[api.TunnelCertificate]](b, b.key, "GET", certificates+"?include_archived=true&limit=2", nil)
		if len(page.Data) != 2 || page.NextPage == nil {
			t.Fatalf("a page of 2 has %d, next %v", len(page.Data), page.NextPage)
		}
		page = ok[api.Page[api.TunnelCertificate]](b, b.key, "GET", certificates+"?include_archived=true&limit=2&page="+*page.NextPage, nil)
		if len(page.Data) != 1 || page.Data[0].ID != first.ID {
			t.Errorf("the second page has %+v", page.Data)
		}
	})
}

func TestCertificatesThatATunnelCannotTrust(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil { // where the runtime makes none so small
		rsaKey = nil
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	valid := newCA()
	lenient, err := asn1.Marshal(struct{ IsCA bool }{true})
	must(t, err)
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}})
	bad := map[string]struct{ text, want string }{
		"no CA":          {newCA(func(c *x509.Certificate) { c.IsCA = false }), "CA:TRUE"},
		"no constraints": {newCA(func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false }), "CA:TRUE"},
		"not critical": {newCA(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 19}, Value: lenient}}
		}), "critical"},
		"no signing":       {newCA(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }), "keyCertSign"},
		"no usage":         {newCA(func(c *x509.Certificate) { c.KeyUsage = 0 }), "keyCertSign"},
		"expired":          {newCA(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "expired"},
		"not yet valid":    {newCA(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "not valid before"},
		"a small curve":    {caOf(p224), "P-256"},
		"another kind":     {caOf(ed), "RSA or ECDSA"},
		"two":              {valid + newCA(), "exactly one"},
		"text before":      {"hello\n" + valid, "exactly one"},
		"text after":       {valid + "hello", "exactly one"},
		"half a block too": {"-----BEGIN CERTIFICATE-----\n!\n" + valid, "exactly one"},
		"with a key":       {valid + string(key), "private key"},
		"a key":            {string(key), "private key"},
		"no certificate":   {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no")})), "not a certificate"},
		"a request":        {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1}})), "BEGIN CERTIFICATE"},
		"no PEM":           {"hello", "BEGIN CERTIFICATE"},
		"too long":         {valid + strings.Repeat("\n", 8<<10), "bytes"},
		"empty":            {"", "required"},
	}
	if rsaKey != nil {
		bad["a small key"] = struct{ text, want string }{caOf(rsaKey), "2048"}
	}
	each(t, func(t *testing.T, b *brain) {
		certificates := "/v1/tunnels/" + b.tunnel("").ID + "/certificates"
		for what, c := range bad {
			a := b.do(b.key, "POST", certificates, object{"ca_certificate_pem": c.text})
			if m := a.failure().Message; a.status != 400 || !strings.HasPrefix(m, "ca_certificate_pem: ") || !strings.Contains(m, c.want) {
				t.Errorf("%s: %d %s", what, a.status, a.body)
			}
		}
		if page := ok[api.Page[api.TunnelCertificate]](b, b.key, "GET", certificates+"?include_archived=true", nil); len(page.Data) != 0 {
			t.Errorf("there are %d certificates", len(page.Data))
		}
	})
}

func TestDomainsOfTunnels(t *testing.T) {
	for domain, good := range map[string]bool{
		"tunnel.internal": true, "a": true, "x1.y-2.example": true,
		"": false, ".": false, "A.example": false, "a..b": false, "-a.b": false, "a-.b": false, "a_b": false, "a.b.": false,
		"ü.example": false, strings.Repeat("a", 64): false, strings.Repeat("a.", 120) + "a": false,
	} {
		if err := tunnel.CheckDomain(domain); (err == nil) != good {
			t.Errorf("%q: %v", domain, err)
		}
	}
}
