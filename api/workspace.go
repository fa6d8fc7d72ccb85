package api

import "time"

// Workspace is a tenant: what is in one does not exist for the others.
// Workspaces and API keys are additions of Hearth, close to what the hosted
// service has for administrators.
type Workspace struct {
	ID         string     `json:"id"`
	Type       string     `json:"type"` // "workspace"
	Name       string     `json:"name"`
	CreatedAt  time.Time  `json:"created_at"`
	ArchivedAt *time.Time `json:"archived_at"`
}

// The states of an API key.
const (
	KeyActive  = "active"
	KeyExpired = "expired"
	KeyRevoked = "revoked"
)

// APIKey lets a program use the API in one workspace, as far as its role goes.
// Key is present only in the answer that made it.
type APIKey struct {
	ID          string `json:"id"`
	Type        string `json:"type"` // "api_key"
	Name        string `json:"name"`
	Role        string `json:"role"` // "admin", "developer" or "viewer"
	WorkspaceID string `json:"workspace_id"`
	Key         string `json:"key,omitempty"`
	// PartialKeyHint is the key's ends, to tell which one was found somewhere;
	// null for a key that the operator chose.
	PartialKeyHint *string    `json:"partial_key_hint"`
	Status         string     `json:"status"`
	CreatedBy      *Actor     `json:"created_by"` // null for what the server's configuration made
	CreatedAt      time.Time  `json:"created_at"`
	ExpiresAt      *time.Time `json:"expires_at"`
	RevokedAt      *time.Time `json:"revoked_at"`
	LastUsedAt     *time.Time `json:"last_used_at"` // to a minute
}

// Actor is who did something: an API key, or a person by their subject at the
// issuer of single sign-on.
type Actor struct {
	Type string `json:"type"` // "api_key" or "person"
	ID   string `json:"id"`
}
