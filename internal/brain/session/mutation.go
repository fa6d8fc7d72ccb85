package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// mutation is one transaction on one session: its locked row, and what is being
// done to it. Everything that changes a session goes through one.
type mutation struct {
	*row
	ctx   context.Context
	tx    db.Tx
	store *Store
	now   time.Time // no earlier than any time in the log
	// happened is what the outbox is told when the mutation is saved.
	happened []api.WebhookData
}

// mutate locks a session, lets fn change it, and saves it.
func (s *Store) mutate(ctx context.Context, id string, fn func(*mutation) error) (*row, error) {
	var r *row
	err := s.db.Write(ctx, func(tx db.Tx) error {
		r = &row{}
		err := tx.QueryRow(ctx, "SELECT "+columns+" FROM sessions WHERE id = ? AND deleted_at IS NULL"+tx.ForUpdate(), id).Scan(r.fields()...)
		if errors.Is(err, sql.ErrNoRows) {
			return api.NotFound("session", id)
		}
		if err != nil {
			return fmt.Errorf("lock session %s: %w", id, err)
		}
		m := s.mutation(ctx, tx, r)
		if err := fn(m); err != nil {
			return err
		}
		return m.save()
	})
	return r, err
}

func (s *Store) mutation(ctx context.Context, tx db.Tx, r *row) *mutation {
	// Clocks of servers differ; the log must not run backwards.
	now := max(s.now().UnixMicro(), r.updated)
	return &mutation{row: r, ctx: ctx, tx: tx, store: s, now: at(now)}
}

func (m *mutation) save() error {
	m.updated = m.now.UnixMicro()
	if m.due.Valid {
		m.tx.Notify(dueTopic, "")
	}
	if err := m.store.Announce(m.ctx, m.tx, m.workspaceID, m.happened...); err != nil {
		return err
	}
	return m.row.save(m.ctx, m.tx)
}

// headed is any of the api's event structs, by pointer.
type headed interface{ Head() *api.EventHead }

// append logs an event as of now, giving it an id where it has none.
func (m *mutation) append(event headed, private json.RawMessage) error {
	head := event.Head()
	if head.ID == "" {
		head.ID = api.NewID(api.PrefixEvent)
	}
	head.ProcessedAt = &m.now
	_, err := m.insertEvent(event, private)
	return err
}

// enqueue stores a client's event that has yet to take effect.
func (m *mutation) enqueue(event headed) (json.RawMessage, error) {
	head := event.Head()
	head.ID, head.ProcessedAt = api.NewID(api.PrefixEvent), nil
	return m.insertEvent(event, nil)
}

func (m *mutation) insertEvent(event headed, private json.RawMessage) (json.RawMessage, error) {
	head := event.Head()
	raw, err := json.Marshal(event)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", head.Type, err)
	}
	var processed sql.NullInt64
	if head.ProcessedAt != nil {
		processed = micros(*head.ProcessedAt)
	}
	m.seq++
	_, err = m.tx.Exec(m.ctx, "INSERT INTO events (session_id, seq, id, type, processed_at, json, private) VALUES (?, ?, ?, ?, ?, ?, ?)",
		m.id, m.seq, head.ID, head.Type, processed, string(raw), sql.NullString{String: string(private), Valid: private != nil})
	if err != nil {
		return nil, fmt.Errorf("append %s to session %s: %w", head.Type, m.id, err)
	}
	m.grew()
	return raw, m.tell(head.Type, raw)
}

func (m *mutation) grew() { m.tx.Notify(topic(m.id), strconv.FormatInt(m.seq, 10)) }

// takeEffect gives a queued event its place in the log, as of now.
func (m *mutation) takeEffect(e LogEvent) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(e.JSON, &fields); err != nil {
		return fmt.Errorf("decode event %s: %w", e.ID, err)
	}
	stamped, err := json.Marshal(m.now)
	if err != nil {
		return err
	}
	fields["processed_at"] = stamped
	raw, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	m.seq++
	_, err = m.tx.Exec(m.ctx, "UPDATE events SET seq = ?, processed_at = ?, json = ? WHERE session_id = ? AND seq = ?",
		m.seq, m.now.UnixMicro(), string(raw), m.id, e.Seq)
	if err != nil {
		return fmt.Errorf("take event %s into the log: %w", e.ID, err)
	}
	m.grew()
	return nil
}

// inbox reads the events that have yet to take effect, in order of arrival.
func (m *mutation) inbox() ([]LogEvent, error) {
	return readEvents(m.ctx, m.tx, "session_id = ? AND processed_at IS NULL ORDER BY seq", m.id)
}

// --- status ---

// change moves the session and logs that it moved. Stop is for idle only.
func (m *mutation) change(c cause, stop api.StopReason, details *api.RefusalDetails) error {
	to, err := next(m.status, c)
	if err != nil {
		return fmt.Errorf("session %s: %w", m.id, err)
	}
	m.clock(to)
	m.status = to
	name := m.agentName()
	thread := func(t api.EventType) headed {
		return &api.ThreadStatusEvent{EventHead: api.EventHead{Type: t}, AgentName: name, SessionThreadID: m.threadID}
	}
	switch to {
	case api.SessionRunning:
		return m.appendAll(marker(api.EventSessionStatusRunning), thread(api.EventThreadStatusRunning))
	case api.SessionRescheduling:
		return m.appendAll(marker(api.EventSessionStatusRescheduled), thread(api.EventThreadStatusRescheduled))
	case api.SessionTerminated:
		return m.appendAll(thread(api.EventThreadStatusTerminated), marker(api.EventSessionStatusTerminated))
	}
	// The idle event comes last in its turn: workers leave on what it says.
	return m.appendAll(
		&api.ThreadIdleEvent{EventHead: api.EventHead{Type: api.EventThreadStatusIdle}, AgentName: name, SessionThreadID: m.threadID, StopReason: stop, StopDetails: details},
		&api.UsageEvent{EventHead: api.EventHead{Type: api.EventSessionUsage}, Usage: m.usage(m.now)},
		&api.StatusIdleEvent{EventHead: api.EventHead{Type: api.EventSessionStatusIdle}, StopReason: stop, StopDetails: details},
	)
}

// clock counts the time a session runs.
func (m *mutation) clock(to api.SessionStatus) {
	running := to == api.SessionRunning
	switch {
	case running && !m.runningSince.Valid:
		m.runningSince = micros(m.now)
	case !running && m.runningSince.Valid:
		m.active += max(0, m.now.UnixMicro()-m.runningSince.Int64)
		m.runningSince = sql.NullInt64{}
	}
}

func marker(t api.EventType) headed {
	return &api.MarkerEvent{EventHead: api.EventHead{Type: t}}
}

func (m *mutation) appendAll(events ...headed) error {
	for _, e := range events {
		if err := m.append(e, nil); err != nil {
			return err
		}
	}
	return nil
}

func (m *mutation) agentName() string {
	var agent struct{ Name string }
	if err := json.Unmarshal([]byte(m.agent), &agent); err != nil {
		return ""
	}
	return agent.Name
}

// --- calls ---

// The states of a call.
const (
	callOpen     = "open"
	callAnswered = "answered"
	callDenied   = "denied"
	callMoot     = "moot" // an interrupt came first
)

// openCalls reads the calls without an answer, oldest first.
func (m *mutation) openCalls() ([]Call, error) { return openCalls(m.ctx, m.tx, m.id) }

func openCalls(ctx context.Context, tx db.Tx, sessionID string) ([]Call, error) {
	rows, err := tx.Query(ctx, "SELECT id, kind, name, permission, confirmation_id <> '' FROM tool_calls WHERE session_id = ? AND state = 'open' ORDER BY seq", sessionID)
	if err != nil {
		return nil, fmt.Errorf("read open calls of session %s: %w", sessionID, err)
	}
	defer rows.Close()
	var calls []Call
	for rows.Next() {
		var c Call
		if err := rows.Scan(&c.ID, &c.Kind, &c.Name, &c.Permission, &c.Confirmed); err != nil {
			return nil, err
		}
		calls = append(calls, c)
	}
	return calls, rows.Err()
}

// runnable tells whether hands may run the call now.
func (c Call) runnable() bool {
	return c.Kind == CallHands && (c.Permission == api.PermissionAllow || c.Confirmed)
}

// blocks tells whether the session counts as waiting for the call. In a cloud
// environment the server's own hands answer, and nobody outside is asked.
func (c Call) blocks(environmentType string) bool {
	return environmentType != api.EnvironmentCloud || !c.runnable()
}

// settle moves the session to where its open calls leave it: waiting for those
// that block it, running when none does, and due when none is left.
func (m *mutation) settle() error {
	calls, err := m.openCalls()
	if err != nil {
		return err
	}
	if err := m.offer(calls); err != nil {
		return err
	}
	blocking := []string{}
	for _, c := range calls {
		if c.blocks(m.environmentType) {
			blocking = append(blocking, c.ID)
		}
	}
	if len(calls) == 0 {
		m.makeDue(m.now)
	}
	if len(blocking) == 0 {
		m.setBlocking(nil)
		if m.status == api.SessionIdle {
			return m.change(causeInput, api.StopReason{}, nil)
		}
		return nil
	}
	if !m.setBlocking(blocking) && m.status == api.SessionIdle {
		return nil // a confirmation changes nothing for those who wait
	}
	return m.change(causeWait, api.StopReason{Type: api.StopRequiresAction, EventIDs: blocking}, nil)
}

// offer has hands offered the session, if they may run one of the calls.
func (m *mutation) offer(calls []Call) error {
	if !slices.ContainsFunc(calls, Call.runnable) {
		return nil
	}
	return m.store.queue.Offer(m.ctx, m.tx, m.environmentID, m.id, true)
}

// setBlocking records the calls waited for and tells whether they differ.
func (m *mutation) setBlocking(ids []string) bool {
	if ids == nil {
		ids = []string{}
	}
	raw, _ := json.Marshal(ids) // strings always encode
	changed := string(raw) != m.blocking
	m.blocking = string(raw)
	return changed
}

// makeDue has the brain look at the session at the given time, or earlier if it
// was to do so anyway.
func (m *mutation) makeDue(t time.Time) {
	if !m.due.Valid || m.due.Int64 > t.UnixMicro() {
		m.due = micros(t)
	}
}
