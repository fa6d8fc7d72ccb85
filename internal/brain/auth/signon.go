package auth

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/time/rate"

	"hearth/api"
)

// SignOnConfig says where people sign on, and what they may do here.
type SignOnConfig struct {
	// Issuer is the address of the OpenID provider, as its tokens name it.
	Issuer string
	// Audience is whom a token must be for: this server's client id there.
	Audience string
	// GroupsClaim is the claim with a person's groups: its name, or the path to it
	// with dots between. Default "groups".
	GroupsClaim string
	// Grants are the roles that groups bring. Who has none is let in nowhere.
	Grants []Grant
	// KeysFor is how long the provider's keys are kept before they are fetched
	// anew, so that one it has withdrawn is not good for ever. Default an hour.
	KeysFor time.Duration
	Log     *slog.Logger // default slog.Default()
}

// Grant is a role in a workspace for the members of groups.
type Grant struct {
	Role        Role
	WorkspaceID string
	Groups      []string
}

// ParseGrant reads ROLE=GROUP,… or ROLE@WORKSPACE=GROUP,…. A group with a comma
// in its name is put into double quotes.
func ParseGrant(text string) (Grant, error) {
	who, list, ok := strings.Cut(text, "=")
	if !ok {
		return Grant{}, fmt.Errorf("%q is not of the form ROLE=GROUP,… or ROLE@WORKSPACE=GROUP,…", text)
	}
	role, workspaceID, named := strings.Cut(who, "@")
	if !named {
		workspaceID = DefaultWorkspace
	}
	g := Grant{Role: Role(role), WorkspaceID: workspaceID}
	if ranks[g.Role] == 0 {
		return Grant{}, fmt.Errorf("%q is no role; there are %s, %s and %s", role, RoleAdmin, RoleDeveloper, RoleViewer)
	}
	if !api.IsName(workspaceID) {
		return Grant{}, fmt.Errorf("%q cannot be the id of a workspace", workspaceID)
	}
	reader := csv.NewReader(strings.NewReader(list))
	groups, err := reader.Read()
	if err != nil && err != io.EOF {
		return Grant{}, fmt.Errorf("the groups %q cannot be read: %w", list, err)
	}
	for _, group := range groups {
		if group = strings.TrimSpace(group); group == "" {
			return Grant{}, fmt.Errorf("%q has a group without a name", text)
		}
		g.Groups = append(g.Groups, group)
	}
	if len(g.Groups) == 0 {
		return Grant{}, fmt.Errorf("%q names no group", text)
	}
	return g, nil
}

// algorithms are those a token may be signed with: none at all, and none with a
// key that both sides know.
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA,
}

const (
	// askFor is how long the provider may take to answer.
	askFor = 10 * time.Second
	// asksAtOnce and askEvery bound how often the provider is asked, since any
	// stranger can send a token that names a key nobody has seen.
	asksAtOnce = 10
	askEvery   = time.Second
)

// SignOn checks the tokens of an OpenID provider.
type SignOn struct {
	SignOnConfig
	client *http.Client

	mu       sync.Mutex
	keysAt   string                // where the provider's keys are; "" before it has answered; guarded by mu
	fetched  time.Time             // when the keys were last to be fetched anew; guarded by mu
	verifier *oidc.IDTokenVerifier // guarded by mu
}

// NewSignOn checks the configuration. It asks the provider nothing yet.
func NewSignOn(cfg SignOnConfig) (*SignOn, error) {
	u, err := url.Parse(cfg.Issuer)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("the issuer %q is not an https:// address", cfg.Issuer)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, fmt.Errorf("the issuer %s must be reached by https: whoever is on the way could sign tokens", cfg.Issuer)
	case cfg.Audience == "":
		return nil, errors.New("single sign-on needs an audience, or tokens for any other service were good here")
	case len(cfg.Grants) == 0:
		return nil, errors.New("single sign-on needs at least one role for a group, or nobody may do anything")
	}
	if cfg.GroupsClaim == "" {
		cfg.GroupsClaim = "groups"
	}
	if cfg.KeysFor == 0 {
		cfg.KeysFor = time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	transport := seldom{http.DefaultTransport, rate.NewLimiter(rate.Every(askEvery), asksAtOnce)}
	return &SignOn{SignOnConfig: cfg, client: &http.Client{Timeout: askFor, Transport: transport}}, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// seldom makes requests at a bounded rate, and an error of every answer but 200.
type seldom struct {
	next    http.RoundTripper
	limiter *rate.Limiter
}

func (s seldom) RoundTrip(r *http.Request) (*http.Response, error) {
	if !s.limiter.Allow() {
		return nil, errors.New("it has been asked too often in the last seconds")
	}
	response, err := s.next.RoundTrip(r)
	if err == nil && response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("it answered %s", response.Status)
	}
	return response, err
}

// Greet asks the provider for its keys' address and logs whether it answers. If
// it does not, it is asked again with the next token.
func (s *SignOn) Greet() {
	if _, err := s.ready(); err != nil {
		s.Log.Warn("the issuer of single sign-on does not answer; API keys work, and it is asked again when somebody signs on", "issuer", s.Issuer, "error", err)
		return
	}
	s.Log.Info("single sign-on is ready", "issuer", s.Issuer)
}

// ready returns what verifies tokens.
func (s *SignOn) ready() (*oidc.IDTokenVerifier, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The provider outlives the request that it is first asked for.
	ctx := oidc.ClientContext(context.Background(), s.client)
	if s.keysAt == "" {
		provider, err := oidc.NewProvider(ctx, s.Issuer)
		if err != nil {
			return nil, err
		}
		var found struct {
			JWKSURI string `json:"jwks_uri"`
		}
		if err := provider.Claims(&found); err != nil {
			return nil, err
		}
		if found.JWKSURI == "" {
			return nil, errors.New("it does not say where its keys are")
		}
		s.keysAt = found.JWKSURI
	}
	if s.verifier == nil || time.Since(s.fetched) >= s.KeysFor {
		keys := keySet{oidc.NewRemoteKeySet(ctx, s.keysAt)}
		s.verifier = oidc.NewVerifier(s.Issuer, keys, &oidc.Config{ClientID: s.Audience, SupportedSigningAlgs: algorithms})
		s.fetched = time.Now()
	}
	return s.verifier, nil
}

// keySet tells a provider that does not answer from a token that is not good,
// which the verifier above it does not.
type keySet struct{ remote *oidc.RemoteKeySet }

type silence struct{} // the key of the context's *error

func (k keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := k.remote.VerifySignature(ctx, token)
	var failed *url.Error
	if kept, ok := ctx.Value(silence{}).(*error); ok && (errors.As(err, &failed) || ctx.Err() != nil) {
		*kept = err
	}
	return payload, err
}

// person is who a token names, with their groups.
type person struct {
	id     string
	groups []string
}

// verify checks a token.
func (s *SignOn) verify(ctx context.Context, token string) (person, error) {
	verifier, err := s.ready()
	if err != nil {
		return person{}, s.silent(err)
	}
	var silenced error
	checked, err := verifier.Verify(context.WithValue(ctx, silence{}, &silenced), token)
	var expired *oidc.TokenExpiredError
	switch {
	case silenced != nil:
		return person{}, s.silent(silenced)
	case errors.As(err, &expired):
		return person{}, api.Unauthenticated("the token of %s has expired; sign on again", s.Issuer)
	case err != nil:
		return person{}, api.Unauthenticated("the token is not a valid one of %s: %.200s", s.Issuer, strings.TrimPrefix(err.Error(), "oidc: "))
	case !isSubject(checked.Subject):
		return person{}, api.Unauthenticated("the token of %s names nobody: its sub must be 1 to 255 printable ASCII characters", s.Issuer)
	}
	claims := map[string]any{}
	if err := checked.Claims(&claims); err != nil {
		return person{}, api.Unauthenticated("the claims of the token cannot be read")
	}
	return person{id: checked.Subject, groups: texts(find(claims, s.GroupsClaim))}, nil
}

// isSubject tells whether a text can be a subject, as OpenID has them.
func isSubject(text string) bool {
	return text != "" && len(text) <= 255 && !strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c > '~' })
}

// silent is the answer while the provider does not answer. Its cause is logged.
func (s *SignOn) silent(err error) error {
	s.Log.Warn("the issuer of single sign-on does not answer", "issuer", s.Issuer, "error", err)
	return &api.Error{Status: http.StatusServiceUnavailable, Type: api.ErrOverloaded, Message: fmt.Sprintf("the issuer %s does not answer, so that nobody who has signed on there can be let in; API keys work", s.Issuer)}
}

// find returns a claim by its name or by the path to it.
func find(claims map[string]any, name string) any {
	if v, ok := claims[name]; ok {
		return v
	}
	head, rest, ok := strings.Cut(name, ".")
	if inner, isObject := claims[head].(map[string]any); ok && isObject {
		return find(inner, rest)
	}
	return nil
}

// texts are the texts of a claim, which is one or a list of them.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var all []string
		for _, one := range v {
			if text, ok := one.(string); ok {
				all = append(all, text)
			}
		}
		return all
	}
	return nil
}

// roles are the highest role of a person in each workspace.
func (s *SignOn) roles(who person) map[string]Role {
	held := map[string]Role{}
	for _, g := range s.Grants {
		member := slices.ContainsFunc(g.Groups, func(group string) bool { return slices.Contains(who.groups, group) })
		if member && ranks[g.Role] > ranks[held[g.WorkspaceID]] {
			held[g.WorkspaceID] = g.Role
		}
	}
	return held
}

// isJWT tells whether a credential has the form of a token: three parts, the
// first a JSON object in base64.
func isJWT(credential string) bool {
	return strings.HasPrefix(credential, "ey") && strings.Count(credential, ".") == 2
}

// person finds who has signed on, and the workspace they are in: the one the
// request names, the only one they have a role in, or else the default one.
// Operators go wherever they like.
func (k *Keys) person(ctx context.Context, token, wanted string) (Principal, error) {
	who, err := k.signOn.verify(ctx, token)
	if err != nil {
		return Principal{}, err
	}
	p := Principal{Kind: KindPerson, ID: who.id}
	held := k.signOn.roles(who)
	if len(held) == 0 {
		return p, api.Forbidden("none of the groups in the claim %s has a role on this server", k.signOn.GroupsClaim)
	}
	p.Operator = held[DefaultWorkspace] == RoleAdmin
	at := DefaultWorkspace // where operators come from, whatever else they are
	switch {
	case p.Operator:
	case held[wanted] != "":
		at = wanted
	case held[at] != "":
	case wanted != "":
		return p, api.NotFound("workspace", wanted)
	case len(held) > 1:
		return p, api.BadRequest("%s: is required, since your groups have roles in several workspaces", HeaderWorkspace)
	default:
		for only := range held {
			at = only
		}
	}
	p.WorkspaceID, p.Role = at, held[at]
	if err := k.checkOpen(ctx, at); err != nil {
		return p, err
	}
	return k.enter(ctx, p, wanted)
}
