package api

import (
	"encoding/json"
	"time"
)

// The statuses of a deployment.
const (
	DeploymentActive = "active"
	DeploymentPaused = "paused"
)

// Deployment is an agent with all it needs to run on its own.
type Deployment struct {
	ID            string            `json:"id"`
	Type          string            `json:"type"` // "deployment"
	Name          string            `json:"name"`
	Description   *string           `json:"description"`
	Agent         AgentReference    `json:"agent"`
	EnvironmentID string            `json:"environment_id"`
	InitialEvents []json.RawMessage `json:"initial_events"`
	Resources     []json.RawMessage `json:"resources"` // without tokens
	VaultIDs      []string          `json:"vault_ids"`
	Budget        json.RawMessage   `json:"budget"` // object or null
	Schedule      *Schedule         `json:"schedule"`
	Status        string            `json:"status"`
	PausedReason  *PausedReason     `json:"paused_reason"`
	Metadata      map[string]string `json:"metadata"`
	CreatedAt     time.Time         `json:"created_at"`
	UpdatedAt     time.Time         `json:"updated_at"`
	ArchivedAt    *time.Time        `json:"archived_at"`
}

// AgentReference is an agent at a version.
type AgentReference struct {
	ID      string `json:"id"`
	Type    string `json:"type"` // "agent"
	Version int64  `json:"version"`
}

// Schedule is when a deployment runs, in the wall-clock time of a zone.
type Schedule struct {
	Type           string      `json:"type"` // "cron"
	Expression     string      `json:"expression"`
	Timezone       string      `json:"timezone"`
	LastRunAt      *time.Time  `json:"last_run_at"`
	UpcomingRunsAt []time.Time `json:"upcoming_runs_at"`
}

// PausedReason is why a deployment is paused: "manual", or "error" with the
// type of the error that paused it.
type PausedReason struct {
	Type  string     `json:"type"`
	Error *TypeError `json:"error,omitempty"`
}

// TypeError is an error known by its type alone.
type TypeError struct {
	Type string `json:"type"`
}

// What starts a run.
const (
	TriggerSchedule = "schedule"
	TriggerManual   = "manual"
)

// DeploymentRun records that a deployment has started a session, or has failed to.
type DeploymentRun struct {
	ID             string         `json:"id"`
	Type           string         `json:"type"` // "deployment_run"
	DeploymentID   string         `json:"deployment_id"`
	Agent          AgentReference `json:"agent"`
	TriggerContext TriggerContext `json:"trigger_context"`
	SessionID      *string        `json:"session_id"`
	Error          *RunError      `json:"error"`
	CreatedAt      time.Time      `json:"created_at"`
}

// TriggerContext is what started a run; ScheduledAt is the tick of a scheduled one.
type TriggerContext struct {
	Type        string     `json:"type"`
	ScheduledAt *time.Time `json:"scheduled_at,omitempty"`
}

// RunError is why a run has no session.
type RunError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}
