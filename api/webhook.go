package api

import "time"

// The states of a webhook endpoint.
const (
	WebhookEnabled  = "enabled"
	WebhookDisabled = "disabled"
)

// WebhookEndpoint is an address that is told what happens.
type WebhookEndpoint struct {
	ID             string    `json:"id"`
	URL            string    `json:"url"`
	Name           string    `json:"name"`
	Description    string    `json:"description"`
	EnabledEvents  []string  `json:"enabled_events"`
	State          string    `json:"state"`
	DisabledReason string    `json:"disabled_reason"` // why the server disabled it; "" if a client did, or nobody
	CreatedAt      time.Time `json:"created_at"`
	UpdatedAt      time.Time `json:"updated_at"`
}

// NewWebhookEndpoint answers the creation of an endpoint. The secret is shown
// here only.
type NewWebhookEndpoint struct {
	WebhookEndpoint
	SigningSecret string `json:"signing_secret"`
}

// WebhookSigningSecret answers the replacement of a secret.
type WebhookSigningSecret struct {
	SigningSecret string `json:"signing_secret"`
}

// WebhookEvent is the body of a delivery.
type WebhookEvent struct {
	ID        string      `json:"id"`
	Type      string      `json:"type"` // "event"
	CreatedAt time.Time   `json:"created_at"`
	Data      WebhookData `json:"data"`
}

// WebhookData says what has happened, and to which object.
type WebhookData struct {
	Type            string `json:"type"` // "session.status_idled" and such
	ID              string `json:"id"`
	OrganizationID  string `json:"organization_id"`
	WorkspaceID     string `json:"workspace_id"`
	SessionThreadID string `json:"session_thread_id,omitempty"` // of events about threads
	VaultID         string `json:"vault_id,omitempty"`          // of events about credentials
}

// Happened is what a resource announces of itself; the rest is filled in.
func Happened(event, id string) WebhookData { return WebhookData{Type: event, ID: id} }

// The statuses of a delivery.
const (
	DeliveryPending   = "pending"   // there will be another attempt
	DeliveryDelivered = "delivered" // an attempt was answered with 2xx
	DeliveryFailed    = "failed"    // the last attempt failed
	DeliveryCanceled  = "canceled"  // its endpoint was disabled before
)

// What makes a delivery.
const (
	TriggerEvent      = "event"      // the event happened
	TriggerRedelivery = "redelivery" // a client asked for this one again
	TriggerReplay     = "replay"     // a client asked for a range of time again
)

// WebhookDelivery is one event on its way to one endpoint. Hearth's own.
type WebhookDelivery struct {
	ID            string           `json:"id"`
	Type          string           `json:"type"` // "webhook_delivery"
	EndpointID    string           `json:"webhook_endpoint_id"`
	EventID       string           `json:"event_id"`
	EventType     string           `json:"event_type"`
	Trigger       string           `json:"trigger"`
	Status        string           `json:"status"`
	Attempts      []WebhookAttempt `json:"attempts"`
	NextAttemptAt *time.Time       `json:"next_attempt_at"`
	CreatedAt     time.Time        `json:"created_at"`
	FinishedAt    *time.Time       `json:"finished_at"`
}

// WebhookAttempt is one request of a delivery. Status is 0 when there was no
// answer, and Error then says why.
type WebhookAttempt struct {
	At      time.Time `json:"at"`
	Seconds float64   `json:"duration_seconds"`
	Status  int       `json:"status_code"`
	Error   string    `json:"error"`
}

// WebhookReplay answers a replay: how many deliveries it has made.
type WebhookReplay struct {
	Type       string `json:"type"` // "webhook_replay"
	Deliveries int    `json:"deliveries"`
}

// IDPage is one page of the lists that are walked by ids.
type IDPage[T any] struct {
	Data    []T     `json:"data"`
	HasMore bool    `json:"has_more"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
}

// WebhookEvents are the types of events an endpoint may ask for.
var WebhookEvents = []string{
	"agent.archived", "agent.created", "agent.deleted", "agent.updated",
	"deployment.archived", "deployment.created", "deployment.deleted", "deployment.paused", "deployment.unpaused", "deployment.updated",
	"deployment_run.failed", "deployment_run.started", "deployment_run.succeeded",
	"environment.archived", "environment.created", "environment.deleted", "environment.updated",
	"external_key.failed", "external_key.recovered",
	"memory_store.archived", "memory_store.created", "memory_store.deleted",
	"session.archived", "session.budget_reached", "session.created", "session.deleted", "session.idled",
	"session.outcome_evaluation_ended", "session.pending", "session.requires_action", "session.running",
	"session.status_idled", "session.status_rescheduled", "session.status_run_started", "session.status_terminated",
	"session.thread_created", "session.thread_idled", "session.thread_terminated", "session.updated",
	"user_profile.enforcement_action_opened", "user_profile.enforcement_action_resolved", "user_profile.program_status_updated",
	"vault.archived", "vault.created", "vault.deleted",
	"vault_credential.archived", "vault_credential.created", "vault_credential.deleted", "vault_credential.refresh_failed",
}
