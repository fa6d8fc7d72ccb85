package api

import (
	"encoding/json"
	"time"
)

// ModelInfo is a model as the list of models has it.
type ModelInfo struct {
	ID                    string          `json:"id"`
	Type                  string          `json:"type"` // "model"
	DisplayName           string          `json:"display_name"`
	CreatedAt             time.Time       `json:"created_at"`
	Lifecycle             string          `json:"lifecycle"` // ModelActive
	Line                  *string         `json:"line"`
	AllowedFallbackModels []string        `json:"allowed_fallback_models"`
	Capabilities          json.RawMessage `json:"capabilities"` // object or null
	MaxInputTokens        *int64          `json:"max_input_tokens"`
	MaxTokens             *int64          `json:"max_tokens"`
	DeprecatedAt          *time.Time      `json:"deprecated_at"`
	RetiresAt             *time.Time      `json:"retires_at"`
}

// ModelActive is the lifecycle of a model that is there to be used.
const ModelActive = "active"

// ModelPage is one page of the list of models, which alone is walked by ids:
// those of its first and its last.
type ModelPage struct {
	Data    []ModelInfo `json:"data"`
	HasMore bool        `json:"has_more"`
	FirstID *string     `json:"first_id"`
	LastID  *string     `json:"last_id"`
}
