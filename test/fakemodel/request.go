package fakemodel

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
)

// Request is a request the server accepted.
type Request struct {
	Header    http.Header
	Body      []byte
	Model     string
	MaxTokens int64
	Stream    bool
	System    []Block
	Messages  []Message
	Tools     []Tool
	// Fields holds every field of the body by its name, for what has no field here.
	Fields map[string]json.RawMessage

	usage     Usage
	cacheLast bool
	ended     chan struct{}
	complete  bool // written before ended is closed, read after
}

// Message is one message of a request.
type Message struct {
	Role    string
	Content []Block
}

// Tool is one tool offered in a request.
type Tool struct {
	Name         string          `json:"name"`
	Description  string          `json:"description"`
	InputSchema  json.RawMessage `json:"input_schema"`
	CacheControl json.RawMessage `json:"cache_control"`

	raw json.RawMessage
}

// Block is one content block, of a request or of a reply. Which fields matter
// follows from Type.
type Block struct {
	Type         string          `json:"type"`
	Text         string          `json:"text"`
	Thinking     string          `json:"thinking"`
	Signature    string          `json:"signature"`
	Data         string          `json:"data"`
	ID           string          `json:"id"`
	Name         string          `json:"name"`
	Input        json.RawMessage `json:"input"`
	ToolUseID    string          `json:"tool_use_id"`
	IsError      bool            `json:"is_error"`
	Source       json.RawMessage `json:"source"`
	CacheControl json.RawMessage `json:"cache_control"`
	// Content is that of a tool result; a plain string arrives as one text block.
	Content []Block `json:"-"`

	raw json.RawMessage
}

// Usage is what the request cost.
func (r *Request) Usage() Usage { return r.usage }

// Ended is closed when the server has finished with the request.
func (r *Request) Ended() <-chan struct{} { return r.ended }

// Completed waits for the end and reports whether the whole answer was sent;
// false when the client left or the script broke off.
func (r *Request) Completed() bool {
	<-r.ended
	return r.complete
}

// LastText is the text of the last message, its text blocks joined by newlines.
func (r *Request) LastText() string {
	return textOf(r.Messages[len(r.Messages)-1].Content)
}

// ToolResults are the results in the last message, by the id of their call.
func (r *Request) ToolResults() map[string]Block {
	results := make(map[string]Block)
	for _, b := range r.Messages[len(r.Messages)-1].Content {
		if b.Type == "tool_result" {
			results[b.ToolUseID] = b
		}
	}
	return results
}

// ToolNames lists the tools offered, in order.
func (r *Request) ToolNames() []string {
	names := make([]string, len(r.Tools))
	for i, t := range r.Tools {
		names[i] = t.Name
	}
	return names
}

// ResultText is the text of a tool result, its text blocks joined by newlines.
func (b Block) ResultText() string { return textOf(b.Content) }

func textOf(blocks []Block) string {
	var texts []string
	for _, b := range blocks {
		if b.Type == "text" {
			texts = append(texts, b.Text)
		}
	}
	return strings.Join(texts, "\n")
}

// topFields are the fields a request may have; true if it must.
var topFields = map[string]bool{
	"model": true, "max_tokens": true, "messages": true,
	"cache_control": false, "container": false, "context_management": false, "diagnostics": false,
	"fallbacks": false, "inference_geo": false, "mcp_servers": false, "metadata": false,
	"output_config": false, "service_tier": false, "speed": false, "stop_sequences": false,
	"stream": false, "system": false, "temperature": false, "thinking": false,
	"tool_choice": false, "tools": false, "top_k": false, "top_p": false,
}

// refusal is the message of a 400, in the real service's own words.
type refusal string

func (r refusal) Error() string { return string(r) }

func refuse(format string, args ...any) error { return refusal(fmt.Sprintf(format, args...)) }

// parse reads a request body and refuses what the real service refuses. The
// error's text is the message of the 400. A request to count tokens has no
// max_tokens.
func parse(body []byte, counting bool) (*Request, error) {
	r := &Request{Body: body}
	if err := json.Unmarshal(body, &r.Fields); err != nil || r.Fields == nil {
		return nil, refuse("The request body is not valid JSON")
	}
	fields := topFields
	if counting {
		fields = maps.Clone(topFields)
		delete(fields, "max_tokens")
		delete(fields, "stream")
	}
	if err := checkFields("", r.Fields, fields); err != nil {
		return nil, err
	}
	for _, step := range []func() error{
		r.parseScalars, r.parseTools, r.parseSystem, r.parseMessages,
		r.checkCalls, r.checkThinking, r.checkBreakpoints,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *Request) parseScalars() error {
	if json.Unmarshal(r.Fields["model"], &r.Model) != nil || r.Model == "" {
		return refuse("model: Input should be a valid string of at least 1 character")
	}
	if raw, ok := r.Fields["max_tokens"]; ok && (json.Unmarshal(raw, &r.MaxTokens) != nil || r.MaxTokens < 1) {
		return refuse("max_tokens: Input should be an integer greater than or equal to 1")
	}
	if raw, ok := r.Fields["stream"]; ok && json.Unmarshal(raw, &r.Stream) != nil {
		return refuse("stream: Input should be a valid boolean")
	}
	if raw, ok := r.Fields["speed"]; ok && !oneOf(raw, "standard", "fast") {
		return refuse("speed: Input should be 'standard' or 'fast'")
	}
	if raw, ok := r.Fields["output_config"]; ok {
		var config map[string]json.RawMessage
		if json.Unmarshal(raw, &config) != nil {
			return refuse("output_config: Input should be a valid dictionary")
		}
		if effort, ok := config["effort"]; ok && !oneOf(effort, "low", "medium", "high", "xhigh", "max") {
			return refuse("output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'")
		}
	}
	return nil
}

func (r *Request) parseSystem() error {
	raw, ok := r.Fields["system"]
	if !ok {
		return nil
	}
	var err error
	r.System, err = parseContent("system", "system", raw)
	return err
}

func (r *Request) parseMessages() error {
	var messages []json.RawMessage
	if json.Unmarshal(r.Fields["messages"], &messages) != nil {
		return refuse("messages: Input should be a valid list")
	}
	if len(messages) == 0 {
		return refuse("messages: at least one message is required")
	}
	for i, raw := range messages {
		at := fmt.Sprintf("messages.%d", i)
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil {
			return refuse("%s: Input should be an object", at)
		}
		if err := checkFields(at, fields, map[string]bool{"role": true, "content": true}); err != nil {
			return err
		}
		var role string
		if json.Unmarshal(fields["role"], &role) != nil || !oneOf(fields["role"], "user", "assistant", "system") {
			return refuse("%s.role: Input should be 'user', 'assistant' or 'system'", at)
		}
		content, err := parseContent(at+".content", role, fields["content"])
		if err != nil {
			return err
		}
		if len(content) == 0 {
			return refuse("%s: %s messages must have non-empty content", at, role)
		}
		r.Messages = append(r.Messages, Message{Role: role, Content: content})
	}
	if r.Messages[0].Role != "user" {
		return refuse("messages: first message must use the \"user\" role")
	}
	return nil
}

// checkFields refuses unknown fields and missing ones.
func checkFields(at string, fields map[string]json.RawMessage, allowed map[string]bool) error {
	prefix := at
	if prefix != "" {
		prefix += "."
	}
	for name := range fields {
		if _, known := allowed[name]; !known {
			return refuse("%s%s: Extra inputs are not permitted", prefix, name)
		}
	}
	for name, required := range allowed {
		if _, present := fields[name]; required && !present {
			return refuse("%s%s: Field required", prefix, name)
		}
	}
	return nil
}

func oneOf(raw json.RawMessage, allowed ...string) bool {
	for _, a := range allowed {
		if string(raw) == `"`+a+`"` {
			return true
		}
	}
	return false
}
