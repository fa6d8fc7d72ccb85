package hand

import (
	"encoding/json"
	"time"
)

// Call is one tool call as it crosses into a sandbox.
type Call struct {
	// ID is the caller's name for the call; it is echoed in the Result and
	// used to cancel. Unique among the calls in flight on one connection.
	ID string `json:"id"`
	// Tool is one of bash, read, write, edit, glob, grep.
	Tool string `json:"tool"`
	// Input is the model's input object, untouched.
	Input json.RawMessage `json:"input"`
	// Shell names the shell that bash runs in, one for each agent at work in the
	// sandbox. Empty for the session's own.
	Shell string `json:"shell,omitempty"`
	// Timeout bounds the call; zero means DefaultTimeout.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// Result is what a call answered. A tool that fails is a Result with IsError
// set, never a Go error: the model is meant to read it.
type Result struct {
	ID      string `json:"id"`
	IsError bool   `json:"is_error"`
	// Text is the output shown to the model, valid UTF-8, never empty.
	Text string `json:"text"`
}

// DefaultTimeout bounds a call that names no timeout of its own. It is the
// value the official workers use.
const DefaultTimeout = 120 * time.Second
