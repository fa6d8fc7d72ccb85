package api

import (
	"encoding/json"
	"time"
)

// EventType is the `type` of a session event.
type EventType string

// The event types Hearth sends or accepts.
const (
	EventUserMessage          EventType = "user.message"
	EventUserInterrupt        EventType = "user.interrupt"
	EventUserToolConfirmation EventType = "user.tool_confirmation"
	EventUserToolResult       EventType = "user.tool_result"
	EventUserCustomToolResult EventType = "user.custom_tool_result"
	EventUserDefineOutcome    EventType = "user.define_outcome"
	EventSystemMessage        EventType = "system.message"

	EventAgentMessage       EventType = "agent.message"
	EventAgentThinking      EventType = "agent.thinking"
	EventAgentToolUse       EventType = "agent.tool_use"
	EventAgentToolResult    EventType = "agent.tool_result"
	EventAgentCustomToolUse EventType = "agent.custom_tool_use"
	EventAgentMCPToolUse    EventType = "agent.mcp_tool_use"
	EventAgentMCPToolResult EventType = "agent.mcp_tool_result"

	EventThreadMessageSent     EventType = "agent.thread_message_sent"
	EventThreadMessageReceived EventType = "agent.thread_message_received"

	EventSessionStatusRunning     EventType = "session.status_running"
	EventSessionStatusIdle        EventType = "session.status_idle"
	EventSessionStatusRescheduled EventType = "session.status_rescheduled"
	EventSessionStatusTerminated  EventType = "session.status_terminated"
	EventSessionError             EventType = "session.error"
	EventSessionUpdated           EventType = "session.updated"
	EventSessionUsage             EventType = "session.usage"
	EventSessionDeleted           EventType = "session.deleted"

	EventThreadCreated           EventType = "session.thread_created"
	EventThreadStatusRunning     EventType = "session.thread_status_running"
	EventThreadStatusIdle        EventType = "session.thread_status_idle"
	EventThreadStatusRescheduled EventType = "session.thread_status_rescheduled"
	EventThreadStatusTerminated  EventType = "session.thread_status_terminated"

	EventModelRequestStart EventType = "span.model_request_start"
	EventModelRequestEnd   EventType = "span.model_request_end"

	// Stream only, never stored.
	EventStart EventType = "event_start"
	EventDelta EventType = "event_delta"
)

// EventHead is what every stored event begins with. ProcessedAt is null while
// a client's event is queued, and is when the event took effect otherwise.
type EventHead struct {
	ID          string     `json:"id"`
	Type        EventType  `json:"type"`
	ProcessedAt *time.Time `json:"processed_at"`
}

// Head gives access to the head of an event of any type.
func (h *EventHead) Head() *EventHead { return h }

// Event is the reading side of every event type: the union of their fields,
// those of other types left zero. The writing side is the struct of each type.
type Event struct {
	EventHead
	Content             []Block         `json:"content,omitempty"`
	Name                string          `json:"name,omitempty"`
	Input               json.RawMessage `json:"input,omitempty"`
	ToolUseID           string          `json:"tool_use_id,omitempty"`
	CustomToolUseID     string          `json:"custom_tool_use_id,omitempty"`
	IsError             *bool           `json:"is_error,omitempty"`
	EvaluatedPermission string          `json:"evaluated_permission,omitempty"`
	Result              string          `json:"result,omitempty"`
	DenyMessage         *string         `json:"deny_message,omitempty"`
	SessionThreadID     *string         `json:"session_thread_id,omitempty"`
	AgentName           string          `json:"agent_name,omitempty"`
	FromSessionThreadID string          `json:"from_session_thread_id,omitempty"`
	FromAgentName       string          `json:"from_agent_name,omitempty"`
	ToSessionThreadID   string          `json:"to_session_thread_id,omitempty"`
	ToAgentName         string          `json:"to_agent_name,omitempty"`
	StopReason          *StopReason     `json:"stop_reason,omitempty"`
	Error               *SessionError   `json:"error,omitempty"`
	ModelRequestStartID string          `json:"model_request_start_id,omitempty"`
	ModelUsage          *ModelUsage     `json:"model_usage,omitempty"`
	Usage               *SessionUsage   `json:"usage,omitempty"`
}

// Block is a content block: text, image, document, search_result or redacted,
// told apart by Type. Fields of the other kinds are absent.
type Block struct {
	Type      string          `json:"type"`
	Text      string          `json:"text,omitempty"`
	Source    json.RawMessage `json:"source,omitempty"`
	Title     json.RawMessage `json:"title,omitempty"`
	Context   json.RawMessage `json:"context,omitempty"`
	Citations json.RawMessage `json:"citations,omitempty"`
	Content   json.RawMessage `json:"content,omitempty"`
}

// FileID is the file that an image or a document is in, "" if it is elsewhere.
func (b Block) FileID() string {
	if len(b.Source) == 0 {
		return ""
	}
	var source struct {
		Type   string `json:"type"`
		FileID string `json:"file_id"`
	}
	if json.Unmarshal(b.Source, &source) != nil || source.Type != "file" {
		return ""
	}
	return source.FileID
}

// TextBlock makes a text block.
func TextBlock(text string) Block { return Block{Type: "text", Text: text} }

// ContentEvent is user.message, system.message and agent.message.
type ContentEvent struct {
	EventHead
	Content []Block `json:"content"`
}

// MarkerEvent is an event with no fields of its own: agent.thinking,
// session.status_running, session.deleted, span.model_request_start and such.
type MarkerEvent struct {
	EventHead
}

// InterruptEvent is user.interrupt.
type InterruptEvent struct {
	EventHead
	SessionThreadID *string `json:"session_thread_id,omitempty"`
}

// What a call is allowed to do, as evaluated when the model made it.
const (
	PermissionAllow = "allow"
	PermissionAsk   = "ask"
	PermissionDeny  = "deny"
)

// ToolUseEvent is agent.tool_use. Its id is the tool_use_id of every event
// about the call.
type ToolUseEvent struct {
	EventHead
	Name                string          `json:"name"`
	Input               json.RawMessage `json:"input"`
	EvaluatedPermission string          `json:"evaluated_permission,omitempty"`
	Evaluation          *Evaluation     `json:"evaluation,omitempty"`
	SessionThreadID     *string         `json:"session_thread_id,omitempty"`
}

// Evaluation says which policy gave the permission of a call.
type Evaluation struct {
	Type string `json:"type"` // a permission policy
	// EvaluatedPermission is set for the auto policy only.
	EvaluatedPermission *AutoPermission `json:"evaluated_permission,omitempty"`
}

// AutoPermission is the judgement of the auto policy on one call.
type AutoPermission struct {
	Type       string `json:"type"` // allow, ask or deny
	ReasonCode string `json:"reason_code,omitempty"`
}

// CustomToolUseEvent is agent.custom_tool_use.
type CustomToolUseEvent struct {
	EventHead
	Name            string          `json:"name"`
	Input           json.RawMessage `json:"input"`
	SessionThreadID *string         `json:"session_thread_id,omitempty"`
}

// ToolResultEvent is user.tool_result and agent.tool_result.
type ToolResultEvent struct {
	EventHead
	ToolUseID       string  `json:"tool_use_id"`
	Content         []Block `json:"content,omitempty"`
	IsError         *bool   `json:"is_error,omitempty"`
	SessionThreadID *string `json:"session_thread_id,omitempty"`
}

// CustomToolResultEvent is user.custom_tool_result.
type CustomToolResultEvent struct {
	EventHead
	CustomToolUseID string  `json:"custom_tool_use_id"`
	Content         []Block `json:"content,omitempty"`
	IsError         *bool   `json:"is_error,omitempty"`
	SessionThreadID *string `json:"session_thread_id,omitempty"`
}

// ToolConfirmationEvent is user.tool_confirmation.
type ToolConfirmationEvent struct {
	EventHead
	ToolUseID       string  `json:"tool_use_id"`
	Result          string  `json:"result"` // allow or deny
	DenyMessage     *string `json:"deny_message,omitempty"`
	SessionThreadID *string `json:"session_thread_id,omitempty"`
}

// The reasons a turn stops.
const (
	StopEndTurn          = "end_turn"
	StopRequiresAction   = "requires_action"
	StopRetriesExhausted = "retries_exhausted"
	StopBudgetReached    = "budget_reached"
	StopRefusal          = "refusal"
)

// StopReason says why a session went idle. EventIDs, for requires_action only,
// are the calls that wait for an answer.
type StopReason struct {
	Type     string   `json:"type"`
	EventIDs []string `json:"event_ids,omitempty"`
}

// StatusIdleEvent is session.status_idle. StopDetails is null except for a refusal.
type StatusIdleEvent struct {
	EventHead
	StopReason  StopReason      `json:"stop_reason"`
	StopDetails *RefusalDetails `json:"stop_details"`
}

// RefusalDetails explains a refusal of the model.
type RefusalDetails struct {
	Type        string  `json:"type"` // "refusal"
	Category    *string `json:"category"`
	Explanation *string `json:"explanation"`
}

// ThreadStatusEvent is session.thread_status_running, _rescheduled and _terminated.
type ThreadStatusEvent struct {
	EventHead
	AgentName       string `json:"agent_name"`
	SessionThreadID string `json:"session_thread_id"`
}

// ThreadIdleEvent is session.thread_status_idle.
type ThreadIdleEvent struct {
	EventHead
	AgentName       string          `json:"agent_name"`
	SessionThreadID string          `json:"session_thread_id"`
	StopReason      StopReason      `json:"stop_reason"`
	StopDetails     *RefusalDetails `json:"stop_details"`
}

// The kinds of session error Hearth reports.
const (
	SessionErrorUnknown            = "unknown_error"
	SessionErrorModelOverloaded    = "model_overloaded_error"
	SessionErrorModelRateLimited   = "model_rate_limited_error"
	SessionErrorModelRequestFailed = "model_request_failed_error"
	SessionErrorBilling            = "billing_error"
)

// The retry statuses of a session error: the server tries again; the turn is
// over and the session idle; the session is over.
const (
	RetryRetrying  = "retrying"
	RetryExhausted = "exhausted"
	RetryTerminal  = "terminal"
)

// SessionErrorEvent is session.error.
type SessionErrorEvent struct {
	EventHead
	Error SessionError `json:"error"`
}

// SessionError is what went wrong and what happens next.
type SessionError struct {
	Type        string      `json:"type"`
	Message     string      `json:"message"`
	RetryStatus RetryStatus `json:"retry_status"`
}

// RetryStatus is one of the retry statuses.
type RetryStatus struct {
	Type string `json:"type"`
}

// ModelRequestEndEvent is span.model_request_end.
type ModelRequestEndEvent struct {
	EventHead
	ModelRequestStartID string     `json:"model_request_start_id"`
	IsError             *bool      `json:"is_error"`
	ModelUsage          ModelUsage `json:"model_usage"`
}

// ModelUsage is what one model request consumed, in tokens.
type ModelUsage struct {
	InputTokens              int64 `json:"input_tokens"`
	OutputTokens             int64 `json:"output_tokens"`
	CacheCreationInputTokens int64 `json:"cache_creation_input_tokens"`
	CacheReadInputTokens     int64 `json:"cache_read_input_tokens"`
	// Speed is what the request was served at, "standard" or "fast"; empty when
	// the provider does not say.
	Speed string `json:"speed,omitempty"`

	// What the session counts and this object does not show: the part of
	// CacheCreationInputTokens that is kept for an hour, and what the provider's
	// own tools did.
	CacheWrite1h int64 `json:"-"`
	WebSearches  int64 `json:"-"`
	WebFetches   int64 `json:"-"`
}

// UsageEvent is session.usage; it comes right before every session.status_idle.
type UsageEvent struct {
	EventHead
	Usage  SessionUsage    `json:"usage"`
	Budget json.RawMessage `json:"budget,omitempty"` // object or null
}

// SessionUpdatedEvent is session.updated, with the changed fields only. What
// was cleared is null.
type SessionUpdatedEvent struct {
	EventHead
	Agent    *SessionAgent     `json:"agent,omitempty"`
	Budget   json.RawMessage   `json:"budget,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"` // all of it; absent when none is left
	Title    **string          `json:"title,omitempty"`
	VaultIDs []string          `json:"vault_ids,omitzero"` // an addition of Hearth
}

// StartPreview is event_start: an event of this type and id is being written.
type StartPreview struct {
	Type  EventType    `json:"type"`
	Event PreviewEvent `json:"event"`
}

// PreviewEvent names the event a preview is of.
type PreviewEvent struct {
	ID   string    `json:"id"`
	Type EventType `json:"type"`
}

// DeltaPreview is event_delta: more of the content of an event being written.
type DeltaPreview struct {
	Type    EventType    `json:"type"`
	EventID string       `json:"event_id"`
	Delta   ContentDelta `json:"delta"`
}

// ContentDelta appends text to the content block at Index.
type ContentDelta struct {
	Type    string `json:"type"` // "content_delta"
	Index   int    `json:"index"`
	Content Block  `json:"content"`
}
