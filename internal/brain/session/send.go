package session

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

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
	if files := filesOf(inputs); len(files) > 0 {
		place, err := s.PlaceOf(ctx, id)
		if err != nil {
			return nil, err
		}
		if err := s.checkFiles(ctx, place.WorkspaceID, files); err != nil {
			return nil, err
		}
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
	var settles []*thread
	var ids []string
	for _, in := range inputs {
		// Events are read back at the end, when all that they cause is known.
		id, answers, err := m.acceptOne(in, from)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
		if answers != nil && !slices.Contains(settles, answers) {
			settles = append(settles, answers)
		}
	}
	for _, t := range settles {
		if err := m.on(t, m.settle); err != nil {
			return nil, err
		}
	}
	return m.eventsByID(ids)
}

// acceptOne takes one input in. It returns the id of the stored event and, when
// calls were answered, the thread that made them, which must be settled.
func (m *mutation) acceptOne(in input, from Sender) (id string, answers *thread, err error) {
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
				return "", nil, api.Invalid(in.path+".type", "user.tool_result is for self_hosted environments; in a cloud environment the server's own workers answer")
			}
			e.Type = api.EventAgentToolResult
		}
		return m.acceptResult(in.path+".tool_use_id", e.ToolUseID, CallHands, e, fingerprint(e.IsError, e.Content))
	case *api.CustomToolResultEvent:
		return m.acceptResult(in.path+".custom_tool_use_id", e.CustomToolUseID, CallCustom, e, fingerprint(e.IsError, e.Content))
	}
	return "", nil, fmt.Errorf("no way to accept a %T", in.event)
}

// acceptMessage starts a turn of the primary thread when it is free, else queues
// the message. Somebody cares then what keeps it waiting, so workers are offered
// the session anew, even if they had been given up on.
func (m *mutation) acceptMessage(e *api.ContentEvent) (string, *thread, error) {
	free, err := m.free()
	if err != nil {
		return "", nil, err
	}
	if !free {
		if _, err := m.enqueue(e); err != nil {
			return "", nil, err
		}
		calls, err := m.openCalls()
		if err != nil {
			return "", nil, err
		}
		return e.ID, nil, m.offer(calls)
	}
	if err := m.append(e, nil); err != nil {
		return "", nil, err
	}
	return e.ID, nil, m.start()
}

// start begins a turn: hands are offered the session while the brain thinks.
func (m *mutation) start() error {
	if err := m.change(causeInput, api.StopReason{}, nil); err != nil {
		return err
	}
	m.t.makeDue(m.now)
	return m.store.queue.Offer(m.ctx, m.tx, m.environmentID, m.id, true)
}

// free tells whether a message to the thread can take effect at once.
func (m *mutation) free() (bool, error) {
	if !m.t.resting() {
		return false, nil
	}
	if stopping, err := m.stopping(); stopping || err != nil {
		return false, err
	}
	waiting, err := m.waiting()
	return !waiting, err
}

// stopping tells whether an interrupt of all threads waits for some of them to
// stop. Nothing begins until it has taken effect: workers drop whatever was
// called before it did.
func (m *mutation) stopping() (bool, error) {
	if m.children == 0 {
		return m.primary.halted, nil
	}
	inbox, err := m.inbox()
	return slices.ContainsFunc(inbox, func(e LogEvent) bool { return isInterrupt(e) && e.Event.SessionThreadID == nil }), err
}

// acceptInterrupt queues an interrupt for the runs of the threads it is for to
// apply, or just logs it when there is nothing to interrupt.
func (m *mutation) acceptInterrupt(path string, e *api.InterruptEvent) (string, *thread, error) {
	targets := append([]*thread{&m.primary}, m.inOrder()...)
	if e.SessionThreadID != nil {
		t, err := m.thread(*e.SessionThreadID)
		if err != nil {
			return "", nil, err
		}
		if t == nil || *e.SessionThreadID == "" || t.status == api.SessionTerminated {
			return "", nil, api.Invalid(path+".session_thread_id", "session %s has no thread %.80q, or it is over", m.id, *e.SessionThreadID)
		}
		targets = []*thread{t}
	}
	queued := false
	for _, t := range targets {
		if t.resting() {
			continue
		}
		queued, t.halted = true, true
		t.makeDue(m.now)
		_ = m.on(t, func() error { m.grew(); return nil }) // a run that listens to its model looks up
	}
	if queued {
		_, err := m.enqueue(e)
		return e.ID, nil, err
	}
	if err := m.append(e, nil); err != nil {
		return "", nil, err
	}
	if t := targets[0]; !t.primary() {
		return e.ID, nil, m.on(t, func() error { return m.append(e, nil) })
	}
	return e.ID, nil, nil
}

// callRow is what is known of one call.
type callRow struct {
	Call
	threadID                                string // "" for the primary thread
	state, answer, resultID, confirmationID string
}

func (m *mutation) call(field, id string) (*callRow, error) {
	c := callRow{Call: Call{ID: id}}
	err := m.tx.QueryRow(m.ctx, "SELECT thread_id, kind, name, permission, state, answer, result_id, confirmation_id FROM tool_calls WHERE id = ? AND session_id = ?", id, m.id).
		Scan(&c.threadID, &c.Kind, &c.Name, &c.Permission, &c.state, &c.answer, &c.resultID, &c.confirmationID)
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
func (m *mutation) acceptResult(field, callID string, kind CallKind, event headed, print string) (string, *thread, error) {
	c, err := m.call(field, callID)
	if err != nil {
		return "", nil, err
	}
	switch {
	case c.Kind != kind:
		return "", nil, api.Invalid(field, "call %s of %s is not answered by this type of event", callID, c.Name)
	case c.state == callAnswered && c.answer == print:
		return c.resultID, nil, nil
	case c.state == callAnswered:
		return "", nil, api.Invalid(field, "call %s has already been answered, with another result", callID)
	case c.state == callDenied:
		return "", nil, api.Invalid(field, "call %s was denied and takes no result", callID)
	case c.state == callMoot:
		return "", nil, api.Invalid(field, "call %s was interrupted and takes no result", callID)
	case kind == CallHands && !c.runnable():
		return "", nil, api.Invalid(field, "call %s waits for a user.tool_confirmation and takes no result before it", callID)
	}
	t, err := m.answer(c, event)
	if err != nil {
		return "", nil, err
	}
	return event.Head().ID, t, m.closeCall(callID, callAnswered, print, event.Head().ID)
}

// answer logs an event about a call with the thread that made it.
func (m *mutation) answer(c *callRow, event headed) (*thread, error) {
	t, err := m.thread(c.threadID)
	if err == nil && t == nil {
		err = fmt.Errorf("call %s is of thread %s, which session %s does not have", c.ID, c.threadID, m.id)
	}
	if err != nil {
		return nil, err
	}
	return t, m.on(t, func() error {
		if !t.primary() {
			routed(event, &t.id)
		}
		if err := m.append(event, nil); err != nil {
			return err
		}
		return m.crossPost(event)
	})
}

// routed names in an event the thread it goes to or comes from.
func routed(event headed, threadID *string) {
	switch e := event.(type) {
	case *api.ToolUseEvent:
		e.SessionThreadID = threadID
	case *api.CustomToolUseEvent:
		e.SessionThreadID = threadID
	case *api.ToolConfirmationEvent:
		e.SessionThreadID = threadID
	case *api.CustomToolResultEvent:
		e.SessionThreadID = threadID
	case *api.ToolResultEvent:
		if e.Type == api.EventUserToolResult { // its twin has no such field
			e.SessionThreadID = threadID
		}
	}
}

func (m *mutation) closeCall(id, state, print, resultID string) error {
	_, err := m.tx.Exec(m.ctx, "UPDATE tool_calls SET state = ?, answer = ?, result_id = ? WHERE id = ?", state, print, resultID, id)
	if err != nil {
		return fmt.Errorf("close call %s: %w", id, err)
	}
	return nil
}

// acceptConfirmation lets a held call run, or answers it with the refusal.
func (m *mutation) acceptConfirmation(path string, e *api.ToolConfirmationEvent) (string, *thread, error) {
	field := path + ".tool_use_id"
	c, err := m.call(field, e.ToolUseID)
	if err != nil {
		return "", nil, err
	}
	print := e.Result
	if e.DenyMessage != nil {
		print += " " + *e.DenyMessage
	}
	switch {
	case c.Kind != CallHands || c.Permission != api.PermissionAsk:
		return "", nil, api.Invalid(field, "call %s of %s does not wait for a confirmation", c.ID, c.Name)
	case c.Confirmed && (c.state == callDenied) == (e.Result == "deny") && (e.Result == "allow" || c.answer == print):
		return c.confirmationID, nil, nil
	case c.Confirmed:
		return "", nil, api.Invalid(field, "call %s has already been confirmed, with another result", c.ID)
	case c.state == callMoot:
		return "", nil, api.Invalid(field, "call %s was interrupted and takes no confirmation", c.ID)
	}
	t, err := m.answer(c, e)
	if err != nil {
		return "", nil, err
	}
	if _, err := m.tx.Exec(m.ctx, "UPDATE tool_calls SET confirmation_id = ? WHERE id = ?", e.ID, c.ID); err != nil {
		return "", nil, fmt.Errorf("confirm call %s: %w", c.ID, err)
	}
	if e.Result == "allow" {
		return e.ID, t, nil
	}
	return e.ID, t, m.deny(c, e, print)
}

// deny answers a call in the server's name.
func (m *mutation) deny(c *callRow, e *api.ToolConfirmationEvent, print string) error {
	text := "The user denied this call."
	if e.DenyMessage != nil && *e.DenyMessage != "" {
		text += " They said: " + *e.DenyMessage
	}
	failed := true
	result := &api.ToolResultEvent{
		EventHead: api.EventHead{Type: api.EventAgentToolResult},
		ToolUseID: c.ID, Content: []api.Block{api.TextBlock(text)}, IsError: &failed,
	}
	if _, err := m.answer(c, result); err != nil {
		return err
	}
	return m.closeCall(c.ID, callDenied, print, result.ID)
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
		if err := m.tx.QueryRow(m.ctx, "SELECT json FROM events WHERE log_id = ? AND id = ?", m.id, id).Scan(&raw); err != nil {
			return nil, fmt.Errorf("read event %s: %w", id, err)
		}
		stored[i] = json.RawMessage(raw)
	}
	return stored, nil
}
