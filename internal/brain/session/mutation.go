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
	t      *thread   // the one it is about, the primary thread unless said otherwise
	others []*thread // loaded so far; all that are busy are
	ctx    context.Context
	tx     db.Tx
	store  *Store
	now    time.Time // no earlier than any time in the log
	// moving is true while several threads change together, and the session is
	// to follow only once all have.
	moving bool
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
		if err := m.loadBusy(); err != nil {
			return err
		}
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
	return &mutation{row: r, t: &r.primary, ctx: ctx, tx: tx, store: s, now: at(now)}
}

func (m *mutation) save() error {
	m.updated = m.now.UnixMicro()
	due := m.primary.due.Valid
	for _, t := range m.others {
		due = due || t.due.Valid
		if err := t.save(m.ctx, m.tx); err != nil {
			return err
		}
	}
	if due {
		m.tx.Notify(dueTopic, "")
	}
	if err := m.store.Announce(m.ctx, m.tx, m.workspaceID, m.happened...); err != nil {
		return err
	}
	return m.row.save(m.ctx, m.tx)
}

// inOrder is the threads loaded, as they were made, without the primary one.
func (m *mutation) inOrder() []*thread {
	slices.SortFunc(m.others, func(a, b *thread) int { return int(a.number - b.number) })
	return m.others
}

// headed is any of the api's event structs, by pointer.
type headed interface{ Head() *api.EventHead }

// append logs an event of the thread as of now, giving it an id where it has none.
func (m *mutation) append(event headed, private json.RawMessage) error {
	head := event.Head()
	if head.ID == "" {
		head.ID = api.NewID(api.PrefixEvent)
	}
	head.ProcessedAt = &m.now
	_, err := m.insertEvent(event, private)
	return err
}

// post logs an event of the session.
func (m *mutation) post(event headed) error {
	return m.on(&m.primary, func() error { return m.append(event, nil) })
}

// crossPost repeats an event that was appended to a thread's log in the
// session's, for those who follow only that: clients and workers see there what
// a thread asks them for, and what becomes of it.
func (m *mutation) crossPost(event headed) error {
	if m.t.primary() {
		return nil
	}
	return m.post(event)
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
	m.t.seq++
	m.t.updated = m.now.UnixMicro()
	_, err = m.tx.Exec(m.ctx, "INSERT INTO events (log_id, seq, id, type, processed_at, json, private) VALUES (?, ?, ?, ?, ?, ?, ?)",
		m.t.log(), m.t.seq, head.ID, head.Type, processed, string(raw), sql.NullString{String: string(private), Valid: private != nil})
	if err != nil {
		return nil, fmt.Errorf("append %s to session %s: %w", head.Type, m.id, err)
	}
	m.grew()
	return raw, m.tell(head.Type, raw)
}

func (m *mutation) grew() { m.tx.Notify(topic(m.t.log()), strconv.FormatInt(m.t.seq, 10)) }

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
	m.t.seq++
	_, err = m.tx.Exec(m.ctx, "UPDATE events SET seq = ?, processed_at = ?, json = ? WHERE log_id = ? AND seq = ?",
		m.t.seq, m.now.UnixMicro(), string(raw), m.t.log(), e.Seq)
	if err != nil {
		return fmt.Errorf("take event %s into the log: %w", e.ID, err)
	}
	m.grew()
	return nil
}

// inbox reads the events of clients that have yet to take effect, in order of
// arrival. They are in the session's log, messages all for the primary thread.
func (m *mutation) inbox() ([]LogEvent, error) { return inbox(m.ctx, m.tx, m.id) }

func inbox(ctx context.Context, tx db.Tx, sessionID string) ([]LogEvent, error) {
	return readEvents(ctx, tx, "log_id = ? AND processed_at IS NULL ORDER BY seq", sessionID)
}

// --- status ---

// change moves the thread and logs that it moved, and moves the session where
// its threads now leave it. Stop is for idle only.
func (m *mutation) change(c cause, stop api.StopReason, details *api.RefusalDetails) error {
	t := m.t
	to, err := next(t.status, c)
	if err != nil {
		return fmt.Errorf("thread %s of session %s: %w", t.id, m.id, err)
	}
	spend(m.now, to, &t.runningSince, &t.active)
	t.status = to
	if to != api.SessionIdle {
		t.held = false // whatever it was started by: a budget that still does not allow it holds it anew
	}
	var moved headed
	switch name := m.agentName(); to {
	case api.SessionIdle:
		t.rested = true
		moved = &api.ThreadIdleEvent{EventHead: api.EventHead{Type: api.EventThreadStatusIdle}, AgentName: name, SessionThreadID: t.id, StopReason: stop, StopDetails: details}
	default:
		moved = &api.ThreadStatusEvent{EventHead: api.EventHead{Type: threadEvents[to]}, AgentName: name, SessionThreadID: t.id}
	}
	log := func() error {
		if err := m.append(moved, nil); err != nil {
			return err
		}
		return m.crossPost(moved)
	}
	if to == api.SessionRunning {
		// The session says that it runs before its thread does, and that it is
		// idle after it.
		if err := m.follow(stop, details); err != nil {
			return err
		}
		return log()
	}
	if err := log(); err != nil {
		return err
	}
	return m.follow(stop, details)
}

var threadEvents = map[api.SessionStatus]api.EventType{
	api.SessionRunning:      api.EventThreadStatusRunning,
	api.SessionRescheduling: api.EventThreadStatusRescheduled,
	api.SessionTerminated:   api.EventThreadStatusTerminated,
}

// follow moves the session to where its threads leave it, and logs that it
// moved: running when one of them is, idle when all are. An idle session that
// waits for other calls than before says so too.
func (m *mutation) follow(stop api.StopReason, details *api.RefusalDetails) error {
	if m.moving {
		return nil
	}
	to, blocking := m.standing()
	c := causeEnd
	switch {
	case to == api.SessionRunning:
		c = causeInput
	case to == api.SessionRescheduling:
		c = causeRetry
	case to == api.SessionTerminated:
		c = causeFatal
		if m.archived.Valid {
			c = causeArchive
		}
	case len(blocking) > 0:
		c, stop, details = causeWait, api.StopReason{Type: api.StopRequiresAction, EventIDs: blocking}, nil
	case m.held():
		stop, details = api.StopReason{Type: api.StopBudgetReached}, nil
	}
	if to != api.SessionIdle {
		blocking = nil
	}
	waits := encodeIDs(blocking)
	if to == m.status && (to != api.SessionIdle || waits == m.blocking) {
		return nil
	}
	m.blocking = waits
	if _, err := next(m.status, c); err != nil {
		return fmt.Errorf("session %s: %w", m.id, err)
	}
	spend(m.now, to, &m.runningSince, &m.active)
	m.status = to
	switch to {
	case api.SessionRunning:
		return m.post(marker(api.EventSessionStatusRunning))
	case api.SessionRescheduling:
		return m.post(marker(api.EventSessionStatusRescheduled))
	case api.SessionTerminated:
		return m.post(marker(api.EventSessionStatusTerminated))
	}
	// The idle event comes last in its turn: workers leave on what it says.
	if err := m.post(&api.UsageEvent{EventHead: api.EventHead{Type: api.EventSessionUsage}, Usage: m.usage(m.now, m.active, m.runningSince), Budget: m.budget()}); err != nil {
		return err
	}
	return m.post(&api.StatusIdleEvent{EventHead: api.EventHead{Type: api.EventSessionStatusIdle}, StopReason: stop, StopDetails: details})
}

// standing is what the threads' statuses come to, and the calls they wait for.
// A session whose primary thread is over is over.
func (m *mutation) standing() (status api.SessionStatus, blocking []string) {
	if m.primary.status == api.SessionTerminated {
		return api.SessionTerminated, nil
	}
	status, blocking = m.primary.status, m.primary.waitsFor()
	for _, t := range m.inOrder() {
		blocking = append(blocking, t.waitsFor()...)
		if t.status == api.SessionRunning || t.status == api.SessionRescheduling && status == api.SessionIdle {
			status = t.status
		}
	}
	return status, blocking
}

// held tells whether the budget has stopped the turn of a thread.
func (m *mutation) held() bool {
	return m.primary.held || slices.ContainsFunc(m.others, func(t *thread) bool { return t.held })
}

func marker(t api.EventType) headed {
	return &api.MarkerEvent{EventHead: api.EventHead{Type: t}}
}

func (m *mutation) agentName() string {
	if !m.t.primary() {
		return m.t.name
	}
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

// openCalls reads the thread's calls without an answer, oldest first.
func (m *mutation) openCalls() ([]Call, error) {
	return readCalls(m.ctx, m.tx, "session_id = ? AND thread_id = ? AND state = 'open' ORDER BY seq", m.id, m.t.callsID())
}

func readCalls(ctx context.Context, tx db.Tx, where string, args ...any) ([]Call, error) {
	rows, err := tx.Query(ctx, "SELECT id, kind, name, permission, confirmation_id <> '' FROM tool_calls WHERE "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read open calls: %w", err)
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

// settle moves the thread to where its open calls leave it: waiting for those
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
		m.t.makeDue(m.now)
	}
	if len(blocking) == 0 {
		m.t.setBlocking(nil)
		if m.t.status == api.SessionIdle {
			return m.change(causeInput, api.StopReason{}, nil)
		}
		return nil
	}
	if !m.t.setBlocking(blocking) && m.t.status == api.SessionIdle {
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
