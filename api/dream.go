package api

import (
	"encoding/json"
	"time"
)

// DreamStatus is where a dream is in its life.
type DreamStatus string

// The statuses of a dream; the last three are final.
const (
	DreamPending   DreamStatus = "pending"
	DreamRunning   DreamStatus = "running"
	DreamCompleted DreamStatus = "completed"
	DreamFailed    DreamStatus = "failed"
	DreamCanceled  DreamStatus = "canceled"
)

// Ended tells whether the status is final.
func (s DreamStatus) Ended() bool { return s != DreamPending && s != DreamRunning }

// Where a dream writes its result.
const (
	DreamCreatesNew      = "create_new"
	DreamUpdatesExisting = "update_existing"
)

// The kinds of a dream's inputs.
const (
	DreamInputMemory   = "memory_store"
	DreamInputSessions = "sessions"
)

// Dream is a job that reads a memory store and past sessions, and writes a
// better ordered memory store.
type Dream struct {
	ID             string            `json:"id"`
	Type           string            `json:"type"` // "dream"
	Status         DreamStatus       `json:"status"`
	Inputs         []json.RawMessage `json:"inputs"`
	OutputBehavior DreamOutput       `json:"output_behavior"`
	Outputs        []json.RawMessage `json:"outputs"`
	Model          DreamModel        `json:"model"`
	Instructions   *string           `json:"instructions"`
	SessionID      *string           `json:"session_id"`
	Usage          DreamUsage        `json:"usage"`
	Error          *DreamError       `json:"error"`
	CreatedAt      time.Time         `json:"created_at"`
	EndedAt        *time.Time        `json:"ended_at"`
	ArchivedAt     *time.Time        `json:"archived_at"`
}

// DreamOutput says where a dream writes: DreamCreatesNew, or
// DreamUpdatesExisting with the id of the store it reads.
type DreamOutput struct {
	Type          string `json:"type"`
	MemoryStoreID string `json:"memory_store_id,omitempty"`
}

// DreamModel is the model that dreams.
type DreamModel struct {
	ID    string `json:"id"`
	Speed string `json:"speed,omitempty"`
}

// DreamUsage counts the tokens a dream has used.
type DreamUsage struct {
	CacheCreationInputTokens int64 `json:"cache_creation_input_tokens"`
	CacheReadInputTokens     int64 `json:"cache_read_input_tokens"`
	InputTokens              int64 `json:"input_tokens"`
	OutputTokens             int64 `json:"output_tokens"`
}

// DreamError is why a dream failed.
type DreamError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}
