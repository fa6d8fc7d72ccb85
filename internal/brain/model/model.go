// Package model is the contract between the agent loop and whatever thinks: an
// Adapter answers a conversation with a reply. Messages have the shape of the
// Messages API, which the adapters translate where their provider's differs. It
// owns no data and may call only api.
package model

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"hearth/api"
)

// Adapter asks a model. Its methods are safe for concurrent use.
type Adapter interface {
	// Name is the adapter's name on the command line.
	Name() string
	// Stream sends a request and returns the whole reply, calling on for each
	// piece of it as it comes, from one goroutine. A failure is an *Error; with
	// it comes what had been said so far, if anything.
	Stream(ctx context.Context, r Request, on func(Delta)) (Reply, error)
}

// Request is one request to a model.
type Request struct {
	Model    api.ModelConfig
	System   string
	Messages []Message
	Tools    []Tool
}

// The roles of messages.
const (
	RoleUser      = "user"
	RoleAssistant = "assistant"
)

// Message is one message of the conversation.
type Message struct {
	Role    string  `json:"role"`
	Content []Block `json:"content"`
}

// The types of block that the loop itself looks at.
const (
	BlockText             = "text"
	BlockThinking         = "thinking"
	BlockRedactedThinking = "redacted_thinking"
	BlockToolUse          = "tool_use"
	BlockToolResult       = "tool_result"
)

// SystemStart and SystemEnd enclose a message of the application, not of the
// person, in a user's message.
const (
	SystemStart = "<system>\n"
	SystemEnd   = "\n</system>"
)

// ReportStart and ReportEnd enclose what an agent says to its coordinator, in a
// user's message. The name and the thread of the agent follow the start.
const (
	ReportStart = "<message from "
	ReportEnd   = "\n</message>"
)

// Block is one content block, told apart by Type; fields of the other types are absent.
type Block struct {
	Type string `json:"type"`

	Text string `json:"text,omitempty"` // text

	Source    json.RawMessage `json:"source,omitempty"`  // image, document, search_result
	Title     json.RawMessage `json:"title,omitempty"`   // document, search_result
	Context   json.RawMessage `json:"context,omitempty"` // document
	Citations json.RawMessage `json:"citations,omitempty"`

	ID   string `json:"id,omitempty"`   // tool_use
	Name string `json:"name,omitempty"` // tool_use
	// Input of a tool_use; in a reply it is what the model wrote, JSON or not.
	Input json.RawMessage `json:"input,omitempty"`

	ToolUseID string          `json:"tool_use_id,omitempty"` // tool_result
	IsError   bool            `json:"is_error,omitempty"`    // tool_result
	Content   json.RawMessage `json:"content,omitempty"`     // tool_result, search_result

	Thinking  string `json:"thinking,omitempty"`  // thinking
	Signature string `json:"signature,omitempty"` // thinking
	Data      string `json:"data,omitempty"`      // redacted_thinking
}

// Tool is a tool the model may call.
type Tool struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	InputSchema json.RawMessage `json:"input_schema"`
}

// Delta is a piece of a reply: the block at Index begins, or its text grows.
type Delta struct {
	Index int
	Type  string // of the block
	Text  string // empty when the block begins
}

// The reasons a model stops.
const (
	StopEndTurn   = "end_turn"
	StopToolUse   = "tool_use"
	StopMaxTokens = "max_tokens"
	StopRefusal   = "refusal"
	StopPauseTurn = "pause_turn"
)

// Reply is what a model answered.
type Reply struct {
	Blocks     []Block
	StopReason string
	// Refusal says why, with StopRefusal, if the provider does.
	Refusal *api.RefusalDetails
	Usage   api.ModelUsage
}

// Error is a model request that failed.
type Error struct {
	// Type is the type of session error it is reported as.
	Type string
	// Status is the HTTP status, 0 when there was no answer.
	Status int
	// Retryable tells whether the same request may succeed later.
	Retryable bool
	// RetryAfter is how long the provider asked to wait; zero when it did not.
	RetryAfter time.Duration
	// Message is for people, and holds no credential.
	Message string
}

func (e *Error) Error() string {
	if e.Status == 0 {
		return "model request failed: " + e.Message
	}
	return fmt.Sprintf("model request failed with status %d: %s", e.Status, e.Message)
}

// decisions says, for each status a provider may answer with, how the failure
// is reported and whether to try again.
var decisions = map[int]struct {
	kind  string
	retry bool
}{
	http.StatusRequestTimeout:     {api.SessionErrorModelRequestFailed, true}, // the provider gave up waiting
	http.StatusConflict:           {api.SessionErrorModelRequestFailed, true}, // the providers' own clients retry it
	http.StatusTooManyRequests:    {api.SessionErrorModelRateLimited, true},
	http.StatusServiceUnavailable: {api.SessionErrorModelOverloaded, true},
	529:                           {api.SessionErrorModelOverloaded, true}, // Anthropic's own for overloaded
	http.StatusPaymentRequired:    {api.SessionErrorBilling, false},        // only the operator can mend it
}

// Failure is the Error for a status: 0 for a connection that broke, any other
// as the provider answered.
func Failure(status int, message string, retryAfter time.Duration) *Error {
	e := &Error{Type: api.SessionErrorModelRequestFailed, Status: status, RetryAfter: retryAfter, Message: message}
	if d, ok := decisions[status]; ok {
		e.Type, e.Retryable = d.kind, d.retry
		return e
	}
	// A broken connection or a fault of the provider may pass; any other 4xx is
	// an answer to this very request and would be given again.
	e.Retryable = status == 0 || status >= 500
	return e
}
