package hosted

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
)

// posted is the only event a worker may send. Fields beyond these are refused.
type posted struct {
	Type      string `json:"type"`
	ToolUseID string `json:"tool_use_id"`
	IsError   *bool  `json:"is_error"`
	Content   []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	} `json:"content"`
}

// send answers POST events.
func (s *Service) send(req *request) reply {
	result, problem := s.decodeResult(req)
	if problem != "" {
		return refusal(problem)
	}
	session := req.claim.item.session
	call := session.calls[result.ToolUseID]
	if reason := session.refuses(call); reason != "" {
		s.violate(req, ResultOwed, "the result is for a call that is %s", reason)
		return refusal("events[0].tool_use_id: the call is " + reason)
	}
	if call.result != nil {
		switch same := sameJSON(call.body, req.body); {
		case !call.answerLost:
			s.violate(req, ResultOnce, "the result of %s was accepted already", result.ToolUseID)
		case !same:
			s.violate(req, ResultOnce, "the result of %s was sent again with other content", result.ToolUseID)
		}
		if !sameJSON(call.body, req.body) {
			return refusal("events[0].tool_use_id: the call is answered")
		}
		call.answerLost = false
		return reply{status: http.StatusOK, body: map[string]any{"data": []any{}}}
	}
	call.body, call.result = req.body, result.result()
	event := map[string]any{"type": "user.tool_result", "tool_use_id": result.ToolUseID, "is_error": *result.IsError, "content": result.Content}
	session.add(event)
	if len(session.owed()) == 0 {
		session.add(map[string]any{"type": "session.status_running"})
	}
	return reply{status: http.StatusOK, body: map[string]any{"data": []any{event}}}
}

// decodeResult reads the one result a request may hold.
func (s *Service) decodeResult(req *request) (result posted, problem string) {
	var envelope struct {
		Events []json.RawMessage `json:"events"`
	}
	if err := json.Unmarshal(req.body, &envelope); err != nil {
		s.violate(req, ResultShape, "the body is not JSON: %v", err)
		return result, "the body is not JSON"
	}
	if n := len(envelope.Events); n != 1 {
		s.violate(req, OneResult, "%d events in one request", n)
		return result, "events: want one"
	}
	decoder := json.NewDecoder(bytes.NewReader(envelope.Events[0]))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&result); err != nil {
		problem = err.Error()
	}
	switch {
	case problem != "":
	case result.Type != "user.tool_result":
		problem = fmt.Sprintf("type is %q", result.Type)
	case result.IsError == nil:
		problem = "is_error is missing"
	case len(result.Content) == 0:
		problem = "content is missing"
	}
	for _, block := range result.Content {
		if block.Type != "text" || block.Text == "" {
			problem = fmt.Sprintf("a block of type %q with %d bytes of text", block.Type, len(block.Text))
		}
	}
	if problem != "" {
		s.violate(req, ResultShape, "%s", problem)
	}
	return result, problem
}

func (p posted) result() *Result {
	result := &Result{IsError: *p.IsError}
	for _, block := range p.Content {
		result.Text += block.Text
	}
	return result
}

// refuses says why a worker owes the call no answer, or nothing when it does.
func (session *Session) refuses(call *toolCall) string {
	switch {
	case session.ended:
		return "of an ended session"
	case call == nil:
		return "unknown"
	case !call.ours():
		return "not the worker's"
	case call.interrupted && call.result == nil:
		return "interrupted"
	case call.held():
		return "held"
	case !call.runnable() && call.result == nil:
		return "denied"
	}
	return ""
}

// noteSendFault remembers that the worker may send the same result again.
func (c *claim) noteSendFault(req *request, fault Fault) {
	var envelope struct {
		Events []posted `json:"events"`
	}
	if json.Unmarshal(req.body, &envelope) != nil || len(envelope.Events) != 1 {
		return
	}
	call := c.item.session.calls[envelope.Events[0].ToolUseID]
	if call == nil {
		return
	}
	call.answerLost = call.answerLost || fault.Done
	if fault.fatal() && !fault.Done {
		c.mayStop = "a result was refused"
	}
}
