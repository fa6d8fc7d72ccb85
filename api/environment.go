package api

import (
	"encoding/json"
	"time"
)

// The kinds of environment: one whose queue the customer's workers serve, and
// one served by the workers built into the server.
const (
	EnvironmentSelfHosted = "self_hosted"
	EnvironmentCloud      = "cloud"
)

// Environment is where sessions act; it is also the work queue of its workers.
type Environment struct {
	ID          string            `json:"id"`
	Type        string            `json:"type"` // "environment"
	Name        string            `json:"name"`
	Description *string           `json:"description"`
	Config      EnvironmentConfig `json:"config"`
	Metadata    map[string]string `json:"metadata"`
	Scope       string            `json:"scope,omitempty"` // "organization" or "account"
	CreatedAt   time.Time         `json:"created_at"`
	UpdatedAt   time.Time         `json:"updated_at"`
	ArchivedAt  *time.Time        `json:"archived_at"`
}

// EnvironmentConfig is {"type":"self_hosted"} or a cloud configuration, whose
// networking and packages are kept as the wire has them.
type EnvironmentConfig struct {
	Type       string          `json:"type"`
	Networking json.RawMessage `json:"networking,omitempty"`
	Packages   json.RawMessage `json:"packages,omitempty"`
}

// EnvironmentKey lets a worker serve one environment and nothing else. Key is
// present only in the answer that made it. Keys are an addition of Hearth.
type EnvironmentKey struct {
	ID            string     `json:"id"`
	Type          string     `json:"type"` // "environment_key"
	EnvironmentID string     `json:"environment_id"`
	Name          string     `json:"name"`
	Key           string     `json:"key,omitempty"`
	CreatedAt     time.Time  `json:"created_at"`
	ExpiresAt     *time.Time `json:"expires_at"`
	RevokedAt     *time.Time `json:"revoked_at"`
	LastUsedAt    *time.Time `json:"last_used_at"`
}
