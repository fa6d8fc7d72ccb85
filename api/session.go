package api

import (
	"encoding/json"
	"time"
)

// SessionStatus is what a session is doing.
type SessionStatus string

// The statuses of a session.
const (
	SessionIdle         SessionStatus = "idle"
	SessionRunning      SessionStatus = "running"
	SessionRescheduling SessionStatus = "rescheduling"
	SessionTerminated   SessionStatus = "terminated"
)

// Session is one conversation of an agent in an environment.
type Session struct {
	ID                 string            `json:"id"`
	Type               string            `json:"type"` // "session"
	Status             SessionStatus     `json:"status"`
	Agent              SessionAgent      `json:"agent"`
	EnvironmentID      string            `json:"environment_id"`
	Title              *string           `json:"title"`
	Metadata           map[string]string `json:"metadata"`
	Resources          []json.RawMessage `json:"resources"`
	VaultIDs           []string          `json:"vault_ids"`
	Budget             json.RawMessage   `json:"budget"` // object or null
	Usage              SessionUsage      `json:"usage"`
	Stats              SessionStats      `json:"stats"`
	OutcomeEvaluations []json.RawMessage `json:"outcome_evaluations"`
	DeploymentID       *string           `json:"deployment_id"`
	CreatedAt          time.Time         `json:"created_at"`
	UpdatedAt          time.Time         `json:"updated_at"`
	ArchivedAt         *time.Time        `json:"archived_at"`
}

// SessionUsage is what a session has consumed. Token counts are totals.
type SessionUsage struct {
	InputTokens          int64         `json:"input_tokens"`
	OutputTokens         int64         `json:"output_tokens"`
	CacheReadInputTokens int64         `json:"cache_read_input_tokens"`
	CacheCreation        CacheCreation `json:"cache_creation"`
	// ActiveSeconds is the time spent in status running.
	ActiveSeconds float64 `json:"active_seconds"`
	// ListCost is absent once a model without a list price was used.
	ListCost      Money         `json:"list_cost,omitzero"`
	ServerToolUse ServerToolUse `json:"server_tool_use"`
}

// Money is an amount in minor units of a currency: "250" is $2.50.
type Money struct {
	Amount   string `json:"amount"`
	Currency string `json:"currency"` // "USD"
}

// ServerToolUse counts what tools of the model's provider did.
type ServerToolUse struct {
	WebFetchRequests  int64 `json:"web_fetch_requests"`
	WebSearchRequests int64 `json:"web_search_requests"`
}

// Budget bounds the list cost of a session.
type Budget struct {
	Type        string `json:"type"` // "limit"
	MaxListCost Money  `json:"max_list_cost"`
}

// CacheCreation counts tokens written to the prompt cache, by lifetime.
type CacheCreation struct {
	Ephemeral1h int64 `json:"ephemeral_1h_input_tokens"`
	Ephemeral5m int64 `json:"ephemeral_5m_input_tokens"`
}

// SessionStats are the times of a session, in seconds.
type SessionStats struct {
	ActiveSeconds   float64 `json:"active_seconds"`
	DurationSeconds float64 `json:"duration_seconds"`
}
