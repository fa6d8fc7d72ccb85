package vault

import (
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"hearth/api"
)

// The limits of a credential's fields, in characters where not said otherwise.
const (
	maxURL    = 2048
	maxField  = 2048 // what OAuth clients are called, and ask for
	maxSecret = 16_384
	maxName   = 128
	maxHosts  = 16 // entries
	maxHost   = 253
)

// AuthParams are how a credential authenticates, as requests give it: the fields
// of its type, and among them its secrets. On an update null is as good as nothing.
type AuthParams struct {
	Type         string               `json:"type"`
	MCPServerURL api.Optional[string] `json:"mcp_server_url"`

	Token api.Optional[string] `json:"token"` // of static_bearer

	AccessToken api.Optional[string]        `json:"access_token"` // of mcp_oauth, as are the next two
	ExpiresAt   api.Optional[string]        `json:"expires_at"`
	Refresh     api.Optional[RefreshParams] `json:"refresh"`

	SecretName        api.Optional[string]                   `json:"secret_name"` // of environment_variable, as are the rest
	SecretValue       api.Optional[string]                   `json:"secret_value"`
	Networking        api.Optional[api.CredentialNetworking] `json:"networking"`
	InjectionLocation api.Optional[LocationParams]           `json:"injection_location"`
}

// RefreshParams are how an access token is refreshed, as requests give it.
type RefreshParams struct {
	ClientID          api.Optional[string]           `json:"client_id"`
	RefreshToken      api.Optional[string]           `json:"refresh_token"`
	TokenEndpoint     api.Optional[string]           `json:"token_endpoint"`
	TokenEndpointAuth api.Optional[ClientAuthParams] `json:"token_endpoint_auth"`
	Resource          api.Optional[string]           `json:"resource"`
	Scope             api.Optional[string]           `json:"scope"`
}

// ClientAuthParams are how a client authenticates at a token endpoint.
type ClientAuthParams struct {
	Type         string               `json:"type"`
	ClientSecret api.Optional[string] `json:"client_secret"`
}

// LocationParams are where a secret may be put.
type LocationParams struct {
	Header *bool `json:"header"`
	Body   *bool `json:"body"`
}

// secrets are what is kept sealed of a credential. Where it is changed, "" leaves
// what is there.
type secrets struct {
	token        string // the bearer or access token, or the value of a variable
	refreshToken string
	clientSecret string
}

var kinds = []string{api.CredentialMCPOAuth, api.CredentialStaticBearer, api.CredentialEnvironmentVariable}

// create checks the params of a new credential.
func (p AuthParams) create(now time.Time) (auth api.CredentialAuth, kept secrets, err error) {
	auth.Type = p.Type
	switch p.Type {
	case api.CredentialStaticBearer:
		kept.token, err = text("auth.token", p.Token, isToken)
	case api.CredentialMCPOAuth:
		kept.token, err = text("auth.access_token", p.AccessToken, isToken)
	case api.CredentialEnvironmentVariable:
		return p.createVariable()
	default:
		return auth, kept, api.Invalid("auth.type", "must be one of %s, not %.40q", strings.Join(kinds, ", "), p.Type)
	}
	if err != nil {
		return auth, kept, err
	}
	if auth.MCPServerURL, err = address("auth.mcp_server_url", p.MCPServerURL); err != nil || p.Type != api.CredentialMCPOAuth {
		return auth, kept, err
	}
	if auth.ExpiresAt, err = p.expiry(now); err != nil || !p.Refresh.Given() {
		return auth, kept, err
	}
	auth.Refresh, err = p.Refresh.Value.create(&kept)
	return auth, kept, err
}

// update changes a credential as the params ask, and returns its new secrets.
func (p AuthParams) update(auth *api.CredentialAuth, now time.Time) (kept secrets, err error) {
	if p.Type != auth.Type {
		return kept, api.Invalid("auth.type", "is %s and cannot be changed; archive the credential and create another", auth.Type)
	}
	for _, fixed := range []struct {
		field string
		asked api.Optional[string]
		is    string
	}{{"auth.mcp_server_url", p.MCPServerURL, auth.MCPServerURL}, {"auth.secret_name", p.SecretName, auth.SecretName}} {
		if fixed.asked.Given() && fixed.is != "" && fixed.asked.Value != fixed.is {
			return kept, api.Invalid(fixed.field, "is %.200s and cannot be changed; archive the credential and create another", fixed.is)
		}
	}
	switch p.Type {
	case api.CredentialStaticBearer:
		kept.token, err = optional("auth.token", p.Token, isToken)
		return kept, err
	case api.CredentialEnvironmentVariable:
		return p.updateVariable(auth)
	}
	if kept.token, err = optional("auth.access_token", p.AccessToken, isToken); err != nil {
		return kept, err
	}
	if p.ExpiresAt.Given() {
		if auth.ExpiresAt, err = p.expiry(now); err != nil {
			return kept, err
		}
	}
	if !p.Refresh.Given() {
		return kept, nil
	}
	if auth.Refresh == nil {
		return kept, api.Invalid("auth.refresh", "this credential has been created without; archive it and create another")
	}
	return kept, p.Refresh.Value.update(auth.Refresh, &kept)
}

func (p AuthParams) expiry(now time.Time) (*time.Time, error) {
	if !p.ExpiresAt.Given() {
		return nil, nil
	}
	at, err := time.Parse(time.RFC3339, p.ExpiresAt.Value)
	at = at.UTC().Truncate(time.Microsecond)
	if err != nil || at.Year() > 9999 || !at.After(now) {
		return nil, api.Invalid("auth.expires_at", "must be an RFC 3339 time in the future, such as 2030-01-02T15:04:05Z, not %.60q", p.ExpiresAt.Value)
	}
	return &at, nil
}

func (p RefreshParams) create(kept *secrets) (r *api.CredentialRefresh, err error) {
	r = &api.CredentialRefresh{}
	if r.ClientID, err = text("auth.refresh.client_id", p.ClientID, within(maxField)); err != nil {
		return nil, err
	}
	if kept.refreshToken, err = text("auth.refresh.refresh_token", p.RefreshToken, within(maxSecret)); err != nil {
		return nil, err
	}
	if r.TokenEndpoint, err = address("auth.refresh.token_endpoint", p.TokenEndpoint); err != nil {
		return nil, err
	}
	if r.Resource, err = orNothing("auth.refresh.resource", p.Resource); err != nil {
		return nil, err
	}
	if r.Scope, err = orNothing("auth.refresh.scope", p.Scope); err != nil {
		return nil, err
	}
	client := p.TokenEndpointAuth
	switch {
	case !client.Given():
		return nil, api.Invalid("auth.refresh.token_endpoint_auth", "is required")
	case client.Value.Type == api.ClientNone:
	case client.Value.Type == api.ClientSecretBasic, client.Value.Type == api.ClientSecretPost:
		kept.clientSecret, err = text("auth.refresh.token_endpoint_auth.client_secret", client.Value.ClientSecret, within(maxSecret))
	default:
		err = api.Invalid("auth.refresh.token_endpoint_auth.type", "must be %s, %s or %s", api.ClientNone, api.ClientSecretBasic, api.ClientSecretPost)
	}
	r.TokenEndpointAuth.Type = client.Value.Type
	return r, err
}

func (p RefreshParams) update(r *api.CredentialRefresh, kept *secrets) (err error) {
	if kept.refreshToken, err = optional("auth.refresh.refresh_token", p.RefreshToken, within(maxSecret)); err != nil {
		return err
	}
	if p.Scope.Given() { // "" clears it
		if r.Scope, err = orNothing("auth.refresh.scope", p.Scope); err != nil {
			return err
		}
	}
	client := p.TokenEndpointAuth
	if !client.Given() {
		return nil
	}
	// The type of the two that has been chosen at first stays, whichever is sent.
	if t := client.Value.Type; t != api.ClientSecretBasic && t != api.ClientSecretPost {
		return api.Invalid("auth.refresh.token_endpoint_auth.type", "must be %s or %s", api.ClientSecretBasic, api.ClientSecretPost)
	}
	if r.TokenEndpointAuth.Type == api.ClientNone {
		return api.Invalid("auth.refresh.token_endpoint_auth", "is %s and cannot be changed; archive the credential and create another", api.ClientNone)
	}
	kept.clientSecret, err = optional("auth.refresh.token_endpoint_auth.client_secret", client.Value.ClientSecret, within(maxSecret))
	return err
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (p AuthParams) createVariable() (auth api.CredentialAuth, kept secrets, err error) {
	auth.Type = p.Type
	auth.SecretName, err = text("auth.secret_name", p.SecretName, func(field, v string) error {
		if len(v) > maxName || !variableName.MatchString(v) {
			return api.Invalid(field, "must be the name of an environment variable: 1 to %d letters, digits and underscores, the first no digit", maxName)
		}
		return nil
	})
	if err != nil {
		return auth, kept, err
	}
	if kept.token, err = text("auth.secret_value", p.SecretValue, within(maxSecret)); err != nil {
		return auth, kept, err
	}
	if !p.Networking.Given() {
		return auth, kept, api.Invalid("auth.networking", "is required: {\"type\":\"%s\"}, or {\"type\":\"%s\",\"allowed_hosts\":[…]}", api.NetworkingUnrestricted, api.NetworkingLimited)
	}
	if auth.Networking, err = networking(p.Networking.Value); err != nil {
		return auth, kept, err
	}
	auth.InjectionLocation = &api.InjectionLocation{Header: true, Body: true}
	if p.InjectionLocation.Set {
		auth.InjectionLocation = &api.InjectionLocation{}
		err = p.locate(auth.InjectionLocation)
	}
	return auth, kept, err
}

func (p AuthParams) updateVariable(auth *api.CredentialAuth) (kept secrets, err error) {
	if kept.token, err = optional("auth.secret_value", p.SecretValue, within(maxSecret)); err != nil {
		return kept, err
	}
	if p.Networking.Given() {
		if auth.Networking, err = networking(p.Networking.Value); err != nil {
			return kept, err
		}
	}
	if p.InjectionLocation.Set {
		err = p.locate(auth.InjectionLocation)
	}
	return kept, err
}

// locate changes where the secret may be put. What is left out stays.
func (p AuthParams) locate(l *api.InjectionLocation) error {
	if p.InjectionLocation.Null {
		return api.Invalid("auth.injection_location", "must not be null; leave it out to have the secret put into headers and the body")
	}
	if header := p.InjectionLocation.Value.Header; header != nil {
		l.Header = *header
	}
	if body := p.InjectionLocation.Value.Body; body != nil {
		l.Body = *body
	}
	if !l.Header && !l.Body {
		return api.Invalid("auth.injection_location", "header or body must be true, or the secret could be put nowhere")
	}
	return nil
}

func networking(n api.CredentialNetworking) (*api.CredentialNetworking, error) {
	const field = "auth.networking.allowed_hosts"
	switch n.Type {
	case api.NetworkingUnrestricted:
		return &api.CredentialNetworking{Type: n.Type}, nil
	case api.NetworkingLimited:
	default:
		return nil, api.Invalid("auth.networking.type", "must be %s or %s", api.NetworkingLimited, api.NetworkingUnrestricted)
	}
	if len(n.AllowedHosts) == 0 || len(n.AllowedHosts) > maxHosts {
		return nil, api.Invalid(field, "must have 1 to %d entries, not %d", maxHosts, len(n.AllowedHosts))
	}
	hosts := make([]string, len(n.AllowedHosts))
	for i, given := range n.AllowedHosts {
		host := strings.ToLower(given)
		if !isHost(host) {
			return nil, api.Invalid(field, "%.80q is not a host's name (api.example.com), an IPv4 address (192.0.2.1) or a wildcard (*.example.com)", given)
		}
		if slices.Contains(hosts[:i], host) {
			return nil, api.Invalid(field, "%.80q is given twice", given)
		}
		hosts[i] = host
	}
	return &api.CredentialNetworking{Type: n.Type, AllowedHosts: hosts}, nil
}

var (
	hostName = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)
	numeric  = regexp.MustCompile(`(^|\.)[0-9]+$`)
)

// isHost tells whether a text is a name, a wildcard, or an IPv4 address. What ends
// in a number is an address to most who resolve names, and must be one.
func isHost(host string) bool {
	if numeric.MatchString(host) {
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Is4()
	}
	return len(host) <= maxHost && hostName.MatchString(host)
}

// text reads a field that must be there.
func text(field string, v api.Optional[string], check func(field, v string) error) (string, error) {
	if !v.Given() {
		return "", api.Invalid(field, "is required")
	}
	return v.Value, check(field, v.Value)
}

// optional reads a field that may be absent, or null.
func optional(field string, v api.Optional[string], check func(field, v string) error) (string, error) {
	if !v.Given() {
		return "", nil
	}
	return text(field, v, check)
}

// orNothing reads a field for which "" is as good as nothing.
func orNothing(field string, v api.Optional[string]) (*string, error) {
	if !v.Given() || v.Value == "" {
		return nil, nil
	}
	return &v.Value, within(maxField)(field, v.Value)
}

func within(most int) func(field, v string) error {
	return func(field, v string) error {
		if n := utf8.RuneCountInString(v); n == 0 || n > most {
			return api.Invalid(field, "must have 1 to %d characters, not %d", most, n)
		}
		return nil
	}
}

// isToken checks what is sent in a header. It never shows it.
func isToken(field, v string) error {
	if err := within(maxSecret)(field, v); err != nil {
		return err
	}
	if strings.ContainsFunc(v, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return api.Invalid(field, "must have no spaces, line breaks or characters other than ASCII, since it is sent in a header")
	}
	return nil
}

// address checks a URL that the server is to call.
func address(field string, v api.Optional[string]) (string, error) {
	return text(field, v, func(field, v string) error {
		if err := within(maxURL)(field, v); err != nil {
			return err
		}
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
			return api.Invalid(field, "must be a URL such as https://mcp.example.com/mcp, without a user and without a fragment")
		}
		return nil
	})
}

// Normalize is a server's URL as it is compared: with the scheme and the host in
// lower case, and without a port that is the default or a slash at the end. It is
// "" for what is no URL.
func Normalize(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return ""
	}
	u.Scheme, u.Host, u.Fragment, u.RawFragment = strings.ToLower(u.Scheme), strings.ToLower(u.Host), "", ""
	if port := u.Port(); port != "" && port == map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		u.Host = strings.TrimSuffix(u.Host, net.JoinHostPort("", port))
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(u.RawPath, "/")
	return u.String()
}
