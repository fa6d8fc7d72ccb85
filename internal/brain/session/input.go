package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"hearth/api"
)

// MaxEvents is how many events one request may send.
const MaxEvents = 50

// Sender is who sends events.
type Sender int

// SenderClient holds an API key. SenderWorker holds an environment key or a
// sessions token, and may send only tool results.
const (
	SenderClient Sender = iota
	SenderWorker
)

// input is a client's event, checked for itself.
type input struct {
	path  string // where it stands in the request, "events[0]"
	event headed
}

// parseInputs checks the events of a request, each for itself and all for their order.
func parseInputs(field string, raws []json.RawMessage, from Sender) ([]input, error) {
	if len(raws) == 0 {
		return nil, api.Invalid(field, "must hold at least one event")
	}
	if len(raws) > MaxEvents {
		return nil, api.Invalid(field, "holds %d events, at most %d are allowed", len(raws), MaxEvents)
	}
	inputs := make([]input, 0, len(raws))
	for i, raw := range raws {
		path := fmt.Sprintf("%s[%d]", field, i)
		event, err := parseInput(path, raw, from)
		if err != nil {
			return nil, err
		}
		if event.Head().Type == api.EventSystemMessage {
			if err := checkSystemMessage(path, i, len(raws), inputs); err != nil {
				return nil, err
			}
		}
		inputs = append(inputs, input{path, event})
	}
	return inputs, nil
}

// checkSystemMessage: at most one, last, and right after what it accompanies.
func checkSystemMessage(path string, i, n int, before []input) error {
	if i != n-1 {
		return api.Invalid(path, "a system.message must be the last event of its request")
	}
	accompanied := []api.EventType{api.EventUserMessage, api.EventUserToolResult, api.EventUserCustomToolResult}
	if i == 0 || !slices.Contains(accompanied, before[i-1].event.Head().Type) {
		return api.Invalid(path, "a system.message must directly follow a user.message or a tool result in the same request")
	}
	return nil
}

func parseInput(path string, raw json.RawMessage, from Sender) (headed, error) {
	var head struct {
		Type api.EventType `json:"type"`
	}
	if err := decode(path, raw, &head); err != nil {
		return nil, err
	}
	if head.Type == "" {
		return nil, api.Invalid(path+".type", "is required")
	}
	if from == SenderWorker && head.Type != api.EventUserToolResult && head.Type != api.EventUserCustomToolResult {
		return nil, api.Forbidden("%s.type: a worker's credential may send only user.tool_result and user.custom_tool_result, not %s", path, head.Type)
	}
	switch head.Type {
	case api.EventUserMessage:
		return parseMessage(path, raw, head.Type, false)
	case api.EventSystemMessage:
		return parseMessage(path, raw, head.Type, true)
	case api.EventUserInterrupt:
		e := &api.InterruptEvent{}
		err := decode(path, raw, e)
		e.EventHead = api.EventHead{Type: head.Type}
		return e, err
	case api.EventUserToolConfirmation:
		return parseConfirmation(path, raw)
	case api.EventUserToolResult:
		e := &api.ToolResultEvent{}
		if err := decode(path, raw, e); err != nil {
			return nil, err
		}
		e.EventHead, e.SessionThreadID = api.EventHead{Type: head.Type}, nil
		return e, checkResult(path, "tool_use_id", e.ToolUseID, e.Content, from)
	case api.EventUserCustomToolResult:
		e := &api.CustomToolResultEvent{}
		if err := decode(path, raw, e); err != nil {
			return nil, err
		}
		e.EventHead, e.SessionThreadID = api.EventHead{Type: head.Type}, nil
		return e, checkResult(path, "custom_tool_use_id", e.CustomToolUseID, e.Content, from)
	case api.EventUserDefineOutcome:
		return nil, api.Invalid(path+".type", "outcomes are not supported by this server yet")
	}
	return nil, api.Invalid(path+".type", "%.80q is not an event a client may send", head.Type)
}

func parseMessage(path string, raw json.RawMessage, kind api.EventType, textOnly bool) (headed, error) {
	e := &api.ContentEvent{}
	if err := decode(path, raw, e); err != nil {
		return nil, err
	}
	e.EventHead = api.EventHead{Type: kind}
	if len(e.Content) == 0 {
		return nil, api.Invalid(path+".content", "must hold at least one block")
	}
	allowed := []string{"text", "image", "document"}
	if textOnly {
		allowed = allowed[:1]
		if len(e.Content) > maxSystemBlocks {
			return nil, api.Invalid(path+".content", "holds %d blocks, at most %d are allowed", len(e.Content), maxSystemBlocks)
		}
	}
	return e, checkContent(path, e.Content, allowed)
}

// maxSystemBlocks is how many blocks a system.message may have.
const maxSystemBlocks = 1000

func parseConfirmation(path string, raw json.RawMessage) (headed, error) {
	e := &api.ToolConfirmationEvent{}
	if err := decode(path, raw, e); err != nil {
		return nil, err
	}
	e.EventHead, e.SessionThreadID = api.EventHead{Type: api.EventUserToolConfirmation}, nil
	switch {
	case e.ToolUseID == "":
		return nil, api.Invalid(path+".tool_use_id", "is required")
	case e.Result != "allow" && e.Result != "deny":
		return nil, api.Invalid(path+".result", "must be allow or deny")
	case e.DenyMessage != nil && e.Result != "deny":
		return nil, api.Invalid(path+".deny_message", "is only for the result deny")
	}
	return e, nil
}

// checkResult checks a result. A worker's cannot show files: that would have the model
// read what its credential does not open.
func checkResult(path, field, id string, content []api.Block, from Sender) error {
	if id == "" {
		return api.Invalid(path+"."+field, "is required")
	}
	if i := slices.IndexFunc(content, refersToFile); i >= 0 && from == SenderWorker {
		return api.Forbidden("%s.content[%d].source.type: a worker's credential may not refer to files; send their content", path, i)
	}
	return checkContent(path, content, []string{"text", "image", "document", "search_result"})
}

// decode decodes part of a request, naming in its error the field that has the
// wrong type.
func decode(path string, raw json.RawMessage, to any) error {
	err := json.Unmarshal(raw, to)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		if wrong.Field != "" {
			path += "." + wrong.Field
		}
		return api.Invalid(path, "must not be a %s", wrong.Value)
	}
	if err != nil {
		return api.Invalid(path, "is not valid: %v", err)
	}
	if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return api.Invalid(path, "must be an object")
	}
	return nil
}
