package api

import "time"

// WorkState is where a work item stands: queued, starting (acknowledged),
// active (leased), stopping (asked to stop) or stopped.
type WorkState string

// The states of a work item.
const (
	WorkQueued   WorkState = "queued"
	WorkStarting WorkState = "starting"
	WorkActive   WorkState = "active"
	WorkStopping WorkState = "stopping"
	WorkStopped  WorkState = "stopped"
)

// Work is one activation of a session, offered to the workers of its environment.
type Work struct {
	ID            string            `json:"id"`
	Type          string            `json:"type"` // "work"
	EnvironmentID string            `json:"environment_id"`
	Data          WorkData          `json:"data"`
	State         WorkState         `json:"state"`
	Metadata      map[string]string `json:"metadata"`
	// Secret is set only in the answer of a poll: unpadded URL-safe base64 of
	// a WorkSecret.
	Secret            *string    `json:"secret"`
	CreatedAt         time.Time  `json:"created_at"`
	AcknowledgedAt    *time.Time `json:"acknowledged_at"`
	StartedAt         *time.Time `json:"started_at"`
	LatestHeartbeatAt *time.Time `json:"latest_heartbeat_at"`
	StopRequestedAt   *time.Time `json:"stop_requested_at"`
	StoppedAt         *time.Time `json:"stopped_at"`
}

// WorkData says what an item is about.
type WorkData struct {
	Type string `json:"type"` // "session" or "healthcheck"
	ID   string `json:"id"`
}

// WorkSecret is what Work.Secret decodes to.
type WorkSecret struct {
	SessionsToken string `json:"sessions_token"`
	APIBaseURL    string `json:"api_base_url,omitempty"`
}

// NoHeartbeat is the expected_last_heartbeat of the beat that takes a lease.
const NoHeartbeat = "NO_HEARTBEAT"

// Heartbeat answers a heartbeat. LastHeartbeat is opaque and is echoed, byte
// for byte, by the next beat.
type Heartbeat struct {
	Type          string    `json:"type"` // "work_heartbeat"
	LastHeartbeat string    `json:"last_heartbeat"`
	LeaseExtended bool      `json:"lease_extended"`
	State         WorkState `json:"state"`
	TTLSeconds    int64     `json:"ttl_seconds"`
}

// WorkStats describes a queue.
type WorkStats struct {
	Type           string     `json:"type"`             // "work_queue_stats"
	Depth          int64      `json:"depth"`            // waiting to be claimed
	Pending        int64      `json:"pending"`          // claimed, not acknowledged
	OldestQueuedAt *time.Time `json:"oldest_queued_at"` // of both
	WorkersPolling *int64     `json:"workers_polling"`  // distinct, in the last 30 s
}
