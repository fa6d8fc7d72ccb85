package fakemodel

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxBreakpoints is how many cache_control marks a request may carry.
const maxBreakpoints = 4

var (
	toolName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,128}$`)
	callID   = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

	// places says which blocks may stand where.
	places = map[string][]string{
		"user":        {"text", "image", "document", "search_result", "tool_result"},
		"assistant":   {"text", "tool_use", "thinking", "redacted_thinking"},
		"system":      {"text"},
		"tool_result": {"text", "image", "document", "search_result"},
	}

	// shapes says which fields a block may have besides its type; true if it must.
	shapes = map[string]map[string]bool{
		"text":              {"text": true, "citations": false, "cache_control": false},
		"image":             {"source": true, "cache_control": false},
		"document":          {"source": true, "title": false, "context": false, "citations": false, "cache_control": false},
		"search_result":     {"source": true, "title": true, "content": true, "citations": false, "cache_control": false},
		"tool_use":          {"id": true, "name": true, "input": true, "cache_control": false, "caller": false},
		"tool_result":       {"tool_use_id": true, "content": false, "is_error": false, "cache_control": false},
		"thinking":          {"thinking": true, "signature": true},
		"redacted_thinking": {"data": true},
	}

	toolFields = map[string]bool{
		"name": true, "input_schema": true, "description": false, "type": false, "cache_control": false, "strict": false,
		"eager_input_streaming": false, "allowed_callers": false, "defer_loading": false, "input_examples": false,
	}
)

func (r *Request) parseTools() error {
	raw, ok := r.Fields["tools"]
	if !ok {
		return nil
	}
	var tools []json.RawMessage
	if json.Unmarshal(raw, &tools) != nil {
		return refuse("tools: Input should be a valid list")
	}
	for i, raw := range tools {
		at := fmt.Sprintf("tools.%d", i)
		var fields map[string]json.RawMessage
		tool := Tool{raw: raw}
		if json.Unmarshal(raw, &fields) != nil || json.Unmarshal(raw, &tool) != nil {
			return refuse("%s: Input should be a valid tool", at)
		}
		if err := checkFields(at+".custom", fields, toolFields); err != nil {
			return err
		}
		if !toolName.MatchString(tool.Name) {
			return refuse("%s.custom.name: String should match pattern '%s'", at, toolName)
		}
		if r.tool(tool.Name) {
			return refuse("tools: Tool names must be unique.")
		}
		if err := checkSchema(at+".custom.input_schema", tool.InputSchema); err != nil {
			return err
		}
		r.Tools = append(r.Tools, tool)
	}
	return nil
}

func (r *Request) tool(name string) bool { return slices.Contains(r.ToolNames(), name) }

func checkSchema(at string, raw json.RawMessage) error {
	var schema map[string]json.RawMessage
	if json.Unmarshal(raw, &schema) != nil || schema == nil {
		return refuse("%s: Input should be an object", at)
	}
	if !oneOf(schema["type"], "object") {
		return refuse("%s.type: Input should be 'object'", at)
	}
	for _, word := range []string{"oneOf", "allOf", "anyOf"} {
		if _, found := schema[word]; found {
			return refuse("%s: input_schema does not support oneOf, allOf, or anyOf at the top level", at)
		}
	}
	return nil
}

// parseContent reads content that is a string or a list of blocks.
func parseContent(at, place string, raw json.RawMessage) ([]Block, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		if text == "" {
			return nil, nil
		}
		return []Block{{Type: "text", Text: text, raw: raw}}, checkText(at, place, text, false)
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return nil, refuse("%s: Input should be a valid string or list", at)
	}
	blocks := make([]Block, len(list))
	for i, raw := range list {
		var err error
		if blocks[i], err = parseBlock(fmt.Sprintf("%s.%d", at, i), place, raw); err != nil {
			return nil, err
		}
	}
	return blocks, nil
}

func parseBlock(at, place string, raw json.RawMessage) (Block, error) {
	b := Block{raw: raw}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || json.Unmarshal(raw, &b) != nil {
		return b, refuse("%s: Input should be a valid content block", at)
	}
	if string(b.CacheControl) == "null" {
		b.CacheControl = nil
	}
	if !slices.Contains(places[place], b.Type) {
		return b, refuse("%s: Input tag '%s' found using 'type' does not match any of the expected tags: '%s'",
			at, b.Type, strings.Join(places[place], "', '"))
	}
	delete(fields, "type")
	if err := checkFields(at+"."+b.Type, fields, shapes[b.Type]); err != nil {
		return b, err
	}
	return b, b.check(at, place, fields)
}

func (b *Block) check(at, place string, fields map[string]json.RawMessage) error {
	switch b.Type {
	case "text":
		return checkText(at, place, b.Text, b.CacheControl != nil)
	case "image":
		return checkSource(at+".image.source", b.Source, "image/jpeg", "image/png", "image/gif", "image/webp")
	case "document":
		return checkSource(at+".document.source", b.Source, "application/pdf")
	case "tool_use":
		var input map[string]json.RawMessage
		switch {
		case !callID.MatchString(b.ID):
			return refuse("%s.tool_use.id: String should match pattern '%s'", at, callID)
		case b.Name == "":
			return refuse("%s.tool_use.name: String should have at least 1 character", at)
		case json.Unmarshal(b.Input, &input) != nil || input == nil:
			return refuse("%s.tool_use.input: Input should be a valid dictionary", at)
		}
	case "tool_result":
		if raw, ok := fields["content"]; ok {
			var err error
			if b.Content, err = parseContent(at+".tool_result.content", "tool_result", raw); err != nil {
				return err
			}
		}
		if b.IsError && slices.ContainsFunc(b.Content, func(c Block) bool { return c.Type != "text" }) {
			return refuse("%s.tool_result: all content must be type \"text\" if `is_error` is true", at)
		}
	case "thinking", "redacted_thinking":
		if !genuine(*b) {
			return refuse("%s: Invalid `signature` in `%s` block", at, b.Type)
		}
	}
	return nil
}

// checkText refuses text that says nothing. A tool may well print blanks only.
func checkText(at, place, text string, marked bool) error {
	switch {
	case text == "" && marked:
		return refuse("%s: cache_control cannot be set for empty text blocks", at)
	case text == "":
		return refuse("%s: text content blocks must be non-empty", at)
	case place != "tool_result" && strings.TrimSpace(text) == "":
		return refuse("%s: text content blocks must contain non-whitespace text", at)
	}
	return nil
}

func checkSource(at string, raw json.RawMessage, media ...string) error {
	var source struct {
		Type, Data, URL string
		MediaType       string `json:"media_type"`
		FileID          string `json:"file_id"`
		Content         json.RawMessage
	}
	if json.Unmarshal(raw, &source) != nil {
		return refuse("%s: Input should be an object", at)
	}
	switch source.Type {
	case "base64":
		if !slices.Contains(media, source.MediaType) {
			return refuse("%s.base64.media_type: Input should be '%s'", at, strings.Join(media, "' or '"))
		}
		if data, err := base64.StdEncoding.DecodeString(source.Data); err != nil || len(data) == 0 {
			return refuse("%s.base64.data: invalid base64 data", at)
		}
	case "url":
		if !strings.HasPrefix(source.URL, "https://") {
			return refuse("%s.url.url: Only HTTPS URLs are supported", at)
		}
	case "file":
		if source.FileID == "" {
			return refuse("%s.file.file_id: Field required", at)
		}
	case "text":
		if source.MediaType != "text/plain" || source.Data == "" {
			return refuse("%s.text: needs data of media_type 'text/plain'", at)
		}
	case "content":
		if len(source.Content) == 0 {
			return refuse("%s.content.content: Field required", at)
		}
	default:
		return refuse("%s: Input tag '%s' found using 'type' does not match any of the expected tags", at, source.Type)
	}
	return nil
}

// checkCalls makes sure that every tool call is answered in the message that
// follows it, once, before anything else is said there.
func (r *Request) checkCalls() error {
	merged := mergeRoles(r.Messages)
	seen := make(map[string]bool)
	var open []string // the calls of the previous message
	for i, m := range merged {
		var answered []string
		leading := 0 // how many of the answers come first in the message
		for j, b := range m.Content {
			switch b.Type {
			case "tool_use":
				if seen[b.ID] {
					return refuse("messages: `tool_use` ids must be unique")
				}
				seen[b.ID] = true
			case "tool_result":
				if !slices.Contains(open, b.ToolUseID) {
					return refuse("messages.%d.content.%d: unexpected `tool_use_id` found in `tool_result` blocks: %s. Each `tool_result` block must have a corresponding `tool_use` block in the previous message.", i, j, b.ToolUseID)
				}
				if slices.Contains(answered, b.ToolUseID) {
					return refuse("messages.%d.content.%d: each tool_use must have a single result. Found multiple `tool_result` blocks with id: %s", i, j, b.ToolUseID)
				}
				answered = append(answered, b.ToolUseID)
				if j == leading {
					leading++
				}
			}
		}
		if missing := without(open, answered[:leading]); len(missing) > 0 {
			return unanswered(i-1, missing)
		}
		open = callsOf(m)
	}
	if len(open) > 0 {
		return unanswered(len(merged)-1, open)
	}
	return nil
}

func unanswered(i int, ids []string) error {
	return refuse("messages.%d: `tool_use` ids were found without `tool_result` blocks immediately after: %s. Each `tool_use` block must have a corresponding `tool_result` block in the next message.", i, strings.Join(ids, ", "))
}

// mergeRoles joins neighbours of the same role, as the service does before it looks.
func mergeRoles(messages []Message) []Message {
	var merged []Message
	for _, m := range messages {
		if n := len(merged); n > 0 && merged[n-1].Role == m.Role {
			merged[n-1].Content = slices.Concat(merged[n-1].Content, m.Content)
			continue
		}
		merged = append(merged, m)
	}
	return merged
}

func callsOf(m Message) []string {
	var ids []string
	for _, b := range m.Content {
		if b.Type == "tool_use" {
			ids = append(ids, b.ID)
		}
	}
	return ids
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(id string) bool { return slices.Contains(some, id) })
}

// checkThinking holds what depends on whether the model is to think.
func (r *Request) checkThinking() error {
	var thinking struct {
		Type   string `json:"type"`
		Budget int64  `json:"budget_tokens"`
	}
	if raw, ok := r.Fields["thinking"]; ok {
		if json.Unmarshal(raw, &thinking) != nil || !slices.Contains([]string{"enabled", "disabled", "adaptive"}, thinking.Type) {
			return refuse("thinking: Input should be of type 'enabled', 'disabled' or 'adaptive'")
		}
	}
	if thinking.Type == "enabled" {
		switch {
		case thinking.Budget < 1024:
			return refuse("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
		case thinking.Budget >= r.MaxTokens:
			return refuse("`max_tokens` must be greater than `thinking.budget_tokens`")
		}
	}
	merged := mergeRoles(r.Messages)
	for i, m := range merged {
		if m.Role != "assistant" {
			continue
		}
		first, last := m.Content[0], m.Content[len(m.Content)-1]
		if strings.HasSuffix(last.Type, "thinking") {
			return refuse("messages.%d: The final block in an assistant message cannot be `thinking`.", i)
		}
		// Only the turn still going on must keep its thinking: the one before the last results.
		inTurn := i == len(merged)-2 && len(callsOf(m)) > 0
		if thinking.Type == "enabled" && inTurn && !strings.HasSuffix(first.Type, "thinking") {
			return refuse("messages.%d.content.0.type: Expected `thinking` or `redacted_thinking`, but found `%s`. When `thinking` is enabled, a final `assistant` message must start with a thinking block.", i, first.Type)
		}
		if i == len(merged)-1 && last.Type == "text" && last.Text != strings.TrimRight(last.Text, " \t\r\n") {
			return refuse("messages: final assistant content cannot end with trailing whitespace")
		}
	}
	return nil
}

func (r *Request) checkBreakpoints() error {
	found := 0
	for _, t := range r.Tools {
		if t.CacheControl != nil {
			found++
		}
	}
	count := func(blocks []Block) {
		for _, b := range blocks {
			if b.CacheControl != nil {
				found++
			}
		}
	}
	count(r.System)
	for _, m := range r.Messages {
		count(m.Content)
		for _, b := range m.Content {
			count(b.Content)
		}
	}
	if _, automatic := r.Fields["cache_control"]; automatic {
		r.cacheLast = true
		found++
	}
	if found > maxBreakpoints {
		return refuse("A maximum of %d blocks with cache_control may be provided. Found %d.", maxBreakpoints, found)
	}
	return nil
}
