package session

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"hearth/api"
)

// Send validates and logs clients' events, all or nothing, and returns them as
// stored. An identical tool result or confirmation sent again is answered with
// the first.
func (s *Store) Send(ctx context.Context, id string, from Sender, events []json.RawMessage) ([]json.RawMessage, error) {
	inputs, err := parseInputs("events", events, from)
	if err != nil {
		return nil, err
	}
	var stored []json.RawMessage
	_, err = s.mutate(ctx, id, func(m *mutation) error {
		stored, err = m.accept(inputs, from)
		return err
	})
	return stored, err
}

// accept lets inputs take effect, or queues those that must wait.
func (m *mutation) accept(inputs []input, from Sender) ([]json.RawMessage, error) {
	if m.status == api.SessionTerminated {
		return nil, api.Conflict("session %s is over and takes no more events", m.id)
	}
	if err := m.onlyAnswers(inputs); err != nil {
		return nil, err
	}
	if n := len(inputs) - 1; m.blocking != "[]" && inputs[n].event.Head().Type == api.EventSystemMessage && inputs[n-1].event.Head().Type == api.EventUserMessage {
		return nil, api.Invalid(inputs[n].path, "while session %s waits for answers, a system.message may only follow a tool result in the same request", m.id)
	}
	settles := false
	var ids []string
	for _, in := range inputs {
		// Events are read back at the end, when all that they cause is known.
		id, answers, err := m.acceptOne(in, from)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
		settles = settles || answers
	}
	if settles {
		if err := m.settle(); err != nil {
			return nil, err
		}
	}
	return m.eventsByID(ids)
}

// acceptOne takes one input in. It returns the id of the stored event, and
// whether calls were answered, so that the session must be settled.
func (m *mutation) acceptOne(in input, from Sender) (id string, answers bool, err error) {
	switch e := in.event.(type) {
	case *api.ContentEvent:
		return m.acceptMessage(e)
	case *api.InterruptEvent:
		return m.acceptInterrupt(in.path, e)
	case *api.ToolConfirmationEvent:
		return m.acceptConfirmation(in.path, e)
	case *api.ToolResultEvent:
		if m.environmentType == api.EnvironmentCloud {
			if from == SenderClient {
				return "", false, api.Invalid(in.path+".type", "user.tool_result is for self_hosted environments; in a cloud environment the server's own workers answer")
			}
			e.Type = api.EventAgentToolResult
		}
		return m.acceptResult(in.path+".tool_use_id", e.ToolUseID, CallHands, e, fingerprint(e.IsError, e.Content))
	case *api.CustomToolResultEvent:
		return m.acceptResult(in.path+".custom_tool_use_id", e.CustomToolUseID, CallCustom, e, fingerprint(e.IsError, e.Content))
	}
	return "", false, fmt.Errorf("no way to accept a %T", in.event)
}

// acceptMessage starts a turn when the session is free, else queues the message.
// Somebody cares then what keeps it waiting, so workers are offered it anew,
// even if they had been given up on.
func (m *mutation) acceptMessage(e *api.ContentEvent) (string, bool, error) {
	free, err := m.free()
	if err != nil {
		return "", false, err
	}
	if !free {
		if _, err := m.enqueue(e); err != nil {
			return "", false, err
		}
		calls, err := m.openCalls()
		if err != nil {
			return "", false, err
		}
		return e.ID, false, m.offer(calls)
	}
	if err := m.append(e, nil); err != nil {
		return "", false, err
	}
	return e.ID, false, m.start()
}

// start begins a turn: hands are offered the session while the brain thinks.
func (m *mutation) start() error {
	if err := m.change(causeInput, api.StopReason{}, nil); err != nil {
		return err
	}
	m.makeDue(m.now)
	return m.store.queue.Offer(m.ctx, m.tx, m.environmentID, m.id, true)
}

// free tells whether a message can take effect at once.
func (m *mutation) free() (bool, error) {
	if m.status != api.SessionIdle || m.blocking != "[]" {
		return false, nil
	}
	var waiting int
	err := m.tx.QueryRow(m.ctx, "SELECT COUNT(*) FROM events WHERE session_id = ? AND processed_at IS NULL", m.id).Scan(&waiting)
	return waiting == 0, err
}

// acceptInterrupt queues an interrupt for the brain to apply, or just logs it
// when there is nothing to interrupt.
func (m *mutation) acceptInterrupt(path string, e *api.InterruptEvent) (string, bool, error) {
	if e.SessionThreadID != nil && *e.SessionThreadID != m.threadID {
		return "", false, api.Invalid(path+".session_thread_id", "session %s has no thread %.80q", m.id, *e.SessionThreadID)
	}
	free, err := m.free()
	if err != nil {
		return "", false, err
	}
	if free || m.held {
		err := m.append(e, nil)
		return e.ID, false, err
	}
	m.makeDue(m.now)
	_, err = m.enqueue(e)
	return e.ID, false, err
}

// callRow is what is known of one call.
type callRow struct {
	Call
	state, answer, resultID, confirmationID string
}

func (m *mutation) call(field, id string) (*callRow, error) {
	c := callRow{Call: Call{ID: id}}
	err := m.tx.QueryRow(m.ctx, "SELECT kind, name, permission, state, answer, result_id, confirmation_id FROM tool_calls WHERE id = ? AND session_id = ?", id, m.id).
		Scan(&c.Kind, &c.Name, &c.Permission, &c.state, &c.answer, &c.resultID, &c.confirmationID)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, api.Invalid(field, "session %s has made no tool call %.80q", m.id, id)
	}
	if err != nil {
		return nil, fmt.Errorf("read call %s: %w", id, err)
	}
	c.Confirmed = c.confirmationID != ""
	return &c, nil
}

// acceptResult lets the first result of an open call win. The same again is
// answered alike; anything else is refused and changes nothing.
func (m *mutation) acceptResult(field, callID string, kind CallKind, event headed, print string) (string, bool, error) {
	c, err := m.call(field, callID)
	if err != nil {
		return "", false, err
	}
	switch {
	case c.Kind != kind:
		return "", false, api.Invalid(field, "call %s of %s is not answered by this type of event", callID, c.Name)
	case c.state == callAnswered && c.answer == print:
		return c.resultID, false, nil
	case c.state == callAnswered:
		return "", false, api.Invalid(field, "call %s has already been answered, with another result", callID)
	case c.state == callDenied:
		return "", false, api.Invalid(field, "call %s was denied and takes no result", callID)
	case c.state == callMoot:
		return "", false, api.Invalid(field, "call %s was interrupted and takes no result", callID)
	case kind == CallHands && !c.runnable():
		return "", false, api.Invalid(field, "call %s waits for a user.tool_confirmation and takes no result before it", callID)
	}
	if err := m.append(event, nil); err != nil {
		return "", false, err
	}
	return event.Head().ID, true, m.closeCall(callID, callAnswered, print, event.Head().ID)
}

func (m *mutation) closeCall(id, state, print, resultID string) error {
	_, err := m.tx.Exec(m.ctx, "UPDATE tool_calls SET state = ?, answer = ?, result_id = ? WHERE id = ?", state, print, resultID, id)
	if err != nil {
		return fmt.Errorf("close call %s: %w", id, err)
	}
	return nil
}

// acceptConfirmation lets a held call run, or answers it with the refusal.
func (m *mutation) acceptConfirmation(path string, e *api.ToolConfirmationEvent) (string, bool, error) {
	field := path + ".tool_use_id"
	c, err := m.call(field, e.ToolUseID)
	if err != nil {
		return "", false, err
	}
	print := e.Result
	if e.DenyMessage != nil {
		print += " " + *e.DenyMessage
	}
	switch {
	case c.Kind != CallHands || c.Permission != api.PermissionAsk:
		return "", false, api.Invalid(field, "call %s of %s does not wait for a confirmation", c.ID, c.Name)
	case c.Confirmed && (c.state == callDenied) == (e.Result == "deny") && (e.Result == "allow" || c.answer == print):
		return c.confirmationID, false, nil
	case c.Confirmed:
		return "", false, api.Invalid(field, "call %s has already been confirmed, with another result", c.ID)
	case c.state == callMoot:
		return "", false, api.Invalid(field, "call %s was interrupted and takes no confirmation", c.ID)
	}
	if err := m.append(e, nil); err != nil {
		return "", false, err
	}
	if _, err := m.tx.Exec(m.ctx, "UPDATE tool_calls SET confirmation_id = ? WHERE id = ?", e.ID, c.ID); err != nil {
		return "", false, fmt.Errorf("confirm call %s: %w", c.ID, err)
	}
	if e.Result == "allow" {
		return e.ID, true, nil
	}
	return e.ID, true, m.deny(c.ID, e, print)
}

// deny answers a call in the server's name.
func (m *mutation) deny(callID string, e *api.ToolConfirmationEvent, print string) error {
	text := "The user denied this call."
	if e.DenyMessage != nil && *e.DenyMessage != "" {
		text += " They said: " + *e.DenyMessage
	}
	failed := true
	result := &api.ToolResultEvent{
		EventHead: api.EventHead{Type: api.EventAgentToolResult},
		ToolUseID: callID, Content: []api.Block{api.TextBlock(text)}, IsError: &failed,
	}
	if err := m.append(result, nil); err != nil {
		return err
	}
	return m.closeCall(callID, callDenied, print, result.ID)
}

// fingerprint tells whether two results are the same.
func fingerprint(isError *bool, content []api.Block) string {
	raw, _ := json.Marshal(struct {
		IsError bool
		Content []api.Block
	}{isError != nil && *isError, append([]api.Block{}, content...)}) // decoded from JSON, so it encodes
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// eventsByID reads events as they are stored now, in the order of ids.
func (m *mutation) eventsByID(ids []string) ([]json.RawMessage, error) {
	stored := make([]json.RawMessage, len(ids))
	for i, id := range ids {
		var raw string
		if err := m.tx.QueryRow(m.ctx, "SELECT json FROM events WHERE session_id = ? AND id = ?", m.id, id).Scan(&raw); err != nil {
			return nil, fmt.Errorf("read event %s: %w", id, err)
		}
		stored[i] = json.RawMessage(raw)
	}
	return stored, nil
}
