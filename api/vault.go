package api

import "time"

// Vault holds credentials that agents may use in sessions which name it.
type Vault struct {
	ID          string            `json:"id"`
	Type        string            `json:"type"` // "vault"
	DisplayName string            `json:"display_name"`
	Metadata    map[string]string `json:"metadata"`
	CreatedAt   time.Time         `json:"created_at"`
	UpdatedAt   time.Time         `json:"updated_at"`
	ArchivedAt  *time.Time        `json:"archived_at"`
}

// Credential is one credential of a vault, without its secrets, which are never
// given out.
type Credential struct {
	ID          string            `json:"id"`
	Type        string            `json:"type"` // "vault_credential"
	VaultID     string            `json:"vault_id"`
	DisplayName *string           `json:"display_name"`
	Auth        CredentialAuth    `json:"auth"`
	Metadata    map[string]string `json:"metadata"`
	CreatedAt   time.Time         `json:"created_at"`
	UpdatedAt   time.Time         `json:"updated_at"`
	ArchivedAt  *time.Time        `json:"archived_at"`
}

// The kinds of credential.
const (
	CredentialMCPOAuth            = "mcp_oauth"
	CredentialStaticBearer        = "static_bearer"
	CredentialEnvironmentVariable = "environment_variable"
)

// CredentialAuth says what a credential is for: an MCP server, or requests that
// leave a sandbox. Which fields it has depends on its type.
type CredentialAuth struct {
	Type string `json:"type"`
	// Of mcp_oauth and static_bearer.
	MCPServerURL string `json:"mcp_server_url,omitempty"`
	// Of mcp_oauth. ExpiresAt is absent when it is not known.
	ExpiresAt *time.Time         `json:"expires_at,omitempty"`
	Refresh   *CredentialRefresh `json:"refresh,omitempty"`
	// Of environment_variable.
	SecretName        string                `json:"secret_name,omitempty"`
	Networking        *CredentialNetworking `json:"networking,omitempty"`
	InjectionLocation *InjectionLocation    `json:"injection_location,omitempty"`
}

// CredentialRefresh is how an OAuth access token is refreshed.
type CredentialRefresh struct {
	ClientID          string            `json:"client_id"`
	TokenEndpoint     string            `json:"token_endpoint"`
	TokenEndpointAuth TokenEndpointAuth `json:"token_endpoint_auth"`
	Resource          *string           `json:"resource"`
	Scope             *string           `json:"scope"`
}

// How a client authenticates at a token endpoint.
const (
	ClientNone        = "none"
	ClientSecretBasic = "client_secret_basic"
	ClientSecretPost  = "client_secret_post"
)

// TokenEndpointAuth is one of these.
type TokenEndpointAuth struct {
	Type string `json:"type"`
}

// To which hosts a secret may be sent.
const (
	NetworkingLimited      = "limited"
	NetworkingUnrestricted = "unrestricted"
)

// CredentialNetworking is one of these. AllowedHosts, of limited, are names,
// IPv4 addresses, and *.example.com for every host below example.com.
type CredentialNetworking struct {
	Type         string   `json:"type"`
	AllowedHosts []string `json:"allowed_hosts,omitempty"`
}

// InjectionLocation is where in a request the secret takes its placeholder's place.
type InjectionLocation struct {
	Header bool `json:"header"`
	Body   bool `json:"body"`
}

// The verdicts of a validation.
const (
	CredentialValid   = "valid"
	CredentialInvalid = "invalid"
	CredentialUnknown = "unknown" // the server could not be asked
)

// CredentialValidation is what came of trying a credential at its MCP server.
type CredentialValidation struct {
	Type            string    `json:"type"` // "vault_credential_validation"
	VaultID         string    `json:"vault_id"`
	CredentialID    string    `json:"credential_id"`
	Status          string    `json:"status"`
	HasRefreshToken bool      `json:"has_refresh_token"`
	ValidatedAt     time.Time `json:"validated_at"`
	// MCPProbe is the step that failed, null when none did.
	MCPProbe *MCPProbe `json:"mcp_probe"`
	// Refresh is what came of a refresh, null when none was tried.
	Refresh *RefreshOutcome `json:"refresh"`
}

// MCPProbe is a step that failed: "initialize" or "tools/list". HTTPResponse is
// null when there was none.
type MCPProbe struct {
	Method       string        `json:"method"`
	HTTPResponse *HTTPResponse `json:"http_response"`
}

// How a refresh ends.
const (
	RefreshSucceeded      = "succeeded"
	RefreshFailed         = "failed"
	RefreshConnectError   = "connect_error"
	RefreshNoRefreshToken = "no_refresh_token"
)

// RefreshOutcome is how a refresh ended. HTTPResponse is there when it failed.
type RefreshOutcome struct {
	Status       string        `json:"status"`
	HTTPResponse *HTTPResponse `json:"http_response"`
}

// HTTPResponse is a response as far as it may be shown: its secrets are taken
// out of the body, and what is long is cut.
type HTTPResponse struct {
	StatusCode    int    `json:"status_code"`
	ContentType   string `json:"content_type"`
	Body          string `json:"body"`
	BodyTruncated bool   `json:"body_truncated"`
}
