// Package oidctest plays an OpenID provider over HTTP, with real keys, for tests
// of single sign-on. It owns nothing and calls nobody.
package oidctest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Audience is whom its tokens are for.
const Audience = "hearth-test"

// Issuer is a provider that answers until the test ends.
type Issuer struct {
	URL string
	t   testing.TB

	mu      sync.Mutex
	id      string            // of the key in use; guarded by mu
	key     *ecdsa.PrivateKey // in use; guarded by mu
	silent  bool              // guarded by mu
	fetches int               // how often its keys were asked for; guarded by mu
	asked   map[string]int    // how often each device code's token was asked for; guarded by mu
}

// New starts an issuer.
func New(t testing.TB) *Issuer {
	t.Helper()
	i := &Issuer{t: t, asked: map[string]int{}}
	i.Rotate()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		i.answer(w, map[string]any{
			"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token",
			"device_authorization_endpoint": i.URL + "/device", "id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		i.fetches++
		key := i.public()
		i.mu.Unlock()
		i.answer(w, map[string]any{"keys": []any{key}})
	})
	mux.HandleFunc("POST /device", func(w http.ResponseWriter, r *http.Request) {
		// The device code is what the token is to hold.
		code := r.PostFormValue("scope") + "/" + rand.Text()
		i.answer(w, map[string]any{"device_code": code, "user_code": "ABCD-EFGH", "verification_uri": i.URL + "/enter", "expires_in": 60, "interval": 1})
	})
	mux.HandleFunc("POST /token", i.deviceToken)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	i.URL = server.URL
	return i
}

// deviceToken gives a token when asked for the second time, for the person has to
// enter the code first. Their groups are the scopes they asked for.
func (i *Issuer) deviceToken(w http.ResponseWriter, r *http.Request) {
	code := r.PostFormValue("device_code")
	i.mu.Lock()
	i.asked[code]++
	times := i.asked[code]
	i.mu.Unlock()
	if times < 2 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"authorization_pending"}`)) // the client may be gone
		return
	}
	scope, _, _ := strings.Cut(code, "/")
	i.answer(w, map[string]any{"access_token": "opaque", "token_type": "Bearer", "expires_in": 3600, "id_token": i.Token(map[string]any{"groups": strings.Fields(scope)})})
}

func (i *Issuer) answer(w http.ResponseWriter, v any) {
	i.mu.Lock()
	silent := i.silent
	i.mu.Unlock()
	if silent {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// public is the key in use as a JSON Web Key.
func (i *Issuer) public() map[string]any {
	point, err := i.key.PublicKey.Bytes() // 4, then X, then Y
	if err != nil {
		i.t.Error(err)
		return nil
	}
	half := (len(point) - 1) / 2
	encode := base64.RawURLEncoding.EncodeToString
	return map[string]any{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": i.id, "x": encode(point[1 : 1+half]), "y": encode(point[1+half:])}
}

// PublicKey is the key in use as everybody can fetch it.
func (i *Issuer) PublicKey() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	raw, err := json.Marshal(i.public())
	if err != nil {
		i.t.Fatal(err)
	}
	return raw
}

// Rotate takes a new key into use and withdraws the one before.
func (i *Issuer) Rotate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.key, i.id = key, rand.Text()
}

// Silence makes the issuer break off every connection, or answer again.
func (i *Issuer) Silence(silent bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.silent = silent
}

// Fetches is how often its keys were asked for.
func (i *Issuer) Fetches() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// Claims are those of a token that is good for an hour, with others on top. A
// nil takes one away.
func (i *Issuer) Claims(more map[string]any) jwt.MapClaims {
	now := time.Now()
	claims := jwt.MapClaims{"iss": i.URL, "aud": Audience, "sub": "person-1", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	maps.Copy(claims, more)
	for name, v := range claims {
		if v == nil {
			delete(claims, name)
		}
	}
	return claims
}

// Token is a token with these claims, signed with the key in use.
func (i *Issuer) Token(more map[string]any) string {
	i.mu.Lock()
	id, key := i.id, i.key
	i.mu.Unlock()
	return i.Sign(jwt.SigningMethodES256, id, key, i.Claims(more))
}

// Sign makes any token at all.
func (i *Issuer) Sign(method jwt.SigningMethod, keyID string, key any, claims jwt.MapClaims) string {
	i.t.Helper()
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = keyID
	text, err := token.SignedString(key)
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

// KeyID is the id of the key in use.
func (i *Issuer) KeyID() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.id
}
