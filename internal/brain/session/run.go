package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// ErrStale is returned by a write of a run that is no longer the session's run.
var ErrStale = errors.New("another run of this session has begun")

// Run is a lease on thinking for one session. Every write through it carries
// its epoch and fails with ErrStale once another run has begun.
type Run struct {
	SessionID string
	Epoch     int64
	store     *Store
}

// Due is signalled when some session may have become due, by this process or another.
func (s *Store) Due() (wake <-chan string, cancel func()) { return s.db.Subscribe(dueTopic) }

// NextDue says when the earliest session is due: at its time, or when the lease
// of the run that holds it lapses. It is zero when none is.
func (s *Store) NextDue(ctx context.Context) (time.Time, error) {
	var earliest sql.NullInt64
	err := s.db.Read(ctx, func(tx db.Tx) error {
		var due, lapse sql.NullInt64
		if err := tx.QueryRow(ctx, "SELECT MIN(due_at) FROM sessions WHERE due_at IS NOT NULL AND run_until IS NULL").Scan(&due); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT MIN(run_until) FROM sessions WHERE run_until IS NOT NULL").Scan(&lapse); err != nil {
			return err
		}
		earliest = due
		if lapse.Valid && (!due.Valid || lapse.Int64 < due.Int64) {
			earliest = lapse
		}
		return nil
	})
	if err != nil || !earliest.Valid {
		return time.Time{}, err
	}
	return at(earliest.Int64), nil
}

// Claim leases the session that has been due longest, or one whose run has
// lapsed; nil when there is none.
func (s *Store) Claim(ctx context.Context) (*Run, error) {
	r := &Run{store: s}
	err := s.db.Write(ctx, func(tx db.Tx) error {
		now := s.now().UnixMicro()
		claim := func(where string) error {
			return tx.QueryRow(ctx, `UPDATE sessions SET due_at = NULL, run_until = ?, epoch = epoch + 1
				WHERE id = (SELECT id FROM sessions WHERE `+where+` LIMIT 1`+tx.SkipLocked()+`) RETURNING id, epoch`,
				now+s.runTTL.Microseconds(), now).Scan(&r.SessionID, &r.Epoch)
		}
		err := claim("due_at <= ? AND run_until IS NULL ORDER BY due_at")
		if errors.Is(err, sql.ErrNoRows) {
			err = claim("run_until <= ? ORDER BY run_until")
		}
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claim a due session: %w", err)
	}
	return r, nil
}

// mutate is the store's, fenced by the run's epoch.
func (r *Run) mutate(ctx context.Context, fn func(*mutation) error) error {
	_, err := r.store.mutate(ctx, r.SessionID, func(m *mutation) error {
		if m.epoch != r.Epoch || !m.runUntil.Valid {
			return ErrStale
		}
		return fn(m)
	})
	return err
}

// Renew extends the lease.
func (r *Run) Renew(ctx context.Context) error {
	return r.store.db.Write(ctx, func(tx db.Tx) error {
		result, err := tx.Exec(ctx, "UPDATE sessions SET run_until = ? WHERE id = ? AND epoch = ? AND run_until IS NOT NULL",
			r.store.now().Add(r.store.runTTL).UnixMicro(), r.SessionID, r.Epoch)
		if err != nil {
			return fmt.Errorf("renew the run of session %s: %w", r.SessionID, err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(ErrStale, err)
		}
		return nil
	})
}

// Release gives the lease back; the session is due again at the given time or,
// when that is zero, only once something happens.
func (r *Run) Release(ctx context.Context, at time.Time) error {
	return r.mutate(ctx, func(m *mutation) error {
		if !at.IsZero() {
			m.makeDue(at)
		}
		m.release()
		return nil
	})
}

func (m *mutation) release() { m.runUntil = sql.NullInt64{} }

// Interrupted tells whether an interrupt waits to be applied.
func (r *Run) Interrupted(ctx context.Context) (bool, error) {
	var n int
	err := r.store.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, "SELECT COUNT(*) FROM events WHERE session_id = ? AND processed_at IS NULL AND type = ?", r.SessionID, api.EventUserInterrupt).Scan(&n)
	})
	return n > 0, err
}

// Watch is signalled when something happens to the session.
func (r *Run) Watch() (signal <-chan string, cancel func()) {
	return r.store.db.Subscribe(topic(r.SessionID))
}

// Snapshot is all a step needs to know.
type Snapshot struct {
	Session         api.Session
	EnvironmentType string
	ThreadID        string // the primary thread
	// Log holds the events that took effect, in order.
	Log []LogEvent
	// Inbox holds clients' events that wait to take effect, in order of arrival.
	Inbox []LogEvent
	// Open holds the calls without an answer.
	Open []Call
	// Failures counts the model requests that failed since the last that did not.
	Failures int
}

// Interrupted tells whether an interrupt waits to be applied.
func (s *Snapshot) Interrupted() bool {
	for _, e := range s.Inbox {
		if e.Type == api.EventUserInterrupt {
			return true
		}
	}
	return false
}

// Snapshot reads the session.
func (r *Run) Snapshot(ctx context.Context) (*Snapshot, error) {
	var out Snapshot
	err := r.store.db.Read(ctx, func(tx db.Tx) error {
		var sr row
		err := tx.QueryRow(ctx, "SELECT "+columns+" FROM sessions WHERE id = ? AND deleted_at IS NULL", r.SessionID).Scan(sr.fields()...)
		if err != nil {
			return err
		}
		if out.Session, err = sr.session(r.store.now()); err != nil {
			return err
		}
		out.EnvironmentType, out.ThreadID, out.Failures = sr.environmentType, sr.threadID, int(sr.failures)
		if out.Open, err = openCalls(ctx, tx, r.SessionID); err != nil {
			return err
		}
		if out.Log, err = r.store.log(ctx, tx, r.SessionID); err != nil {
			return err
		}
		out.Inbox, err = readEvents(ctx, tx, "session_id = ? AND processed_at IS NULL ORDER BY seq", r.SessionID)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read session %s: %w", r.SessionID, err)
	}
	r.store.recent.put(r.SessionID, out.Log)
	return &out, nil
}

// log is the events that took effect: those remembered and those since.
func (s *Store) log(ctx context.Context, tx db.Tx, sessionID string) ([]LogEvent, error) {
	known := s.recent.get(sessionID)
	last := int64(0)
	if n := len(known); n > 0 {
		last = known[n-1].Seq
	}
	since, err := readEvents(ctx, tx, "session_id = ? AND seq > ? AND processed_at IS NOT NULL ORDER BY seq", sessionID, last)
	return append(known, since...), err
}

// CallKind is who answers a call.
type CallKind string

// A call is answered by the hands or by the application.
const (
	CallHands  CallKind = "hands"
	CallCustom CallKind = "custom"
)

// Call is a tool call of the model. ID is the id of its event.
type Call struct {
	ID         string
	Kind       CallKind
	Name       string
	Permission string // allow or ask, as evaluated when the model made it
	Confirmed  bool   // a person has answered
}

// Draft is an event the loop wants logged. Its head needs only a type, and an
// id where previews have named one.
type Draft struct {
	Event   interface{ Head() *api.EventHead }
	Private json.RawMessage
	// Call is set when the event opens a call; its ID is filled in.
	Call *Call
}

// BeginRequest fails with ErrBudgetReached, and makes the session idle, when its
// budget is reached. Otherwise it takes the queued messages into the log, makes the session
// running if it is not, ends a span that a dead run left open, and logs
// span.model_request_start, whose id it returns with the messages taken.
func (r *Run) BeginRequest(ctx context.Context) (spanID string, taken []LogEvent, err error) {
	reached := false
	err = r.mutate(ctx, func(m *mutation) error {
		if err := m.endSpan(true, api.ModelUsage{}); err != nil {
			return err
		}
		if reached = m.exhausted(); reached {
			return m.hold()
		}
		if m.status != api.SessionRunning {
			if err := m.change(causeInput, api.StopReason{}, nil); err != nil {
				return err
			}
		}
		inbox, err := m.inbox()
		if err != nil {
			return err
		}
		taken = nil
		for _, e := range inbox {
			if e.Type == api.EventUserInterrupt {
				continue
			}
			if err := m.takeEffect(e); err != nil {
				return err
			}
			taken = append(taken, e)
		}
		span := &api.MarkerEvent{EventHead: api.EventHead{Type: api.EventModelRequestStart}}
		if err := m.append(span, nil); err != nil {
			return err
		}
		m.spanID, spanID = span.ID, span.ID
		return nil
	})
	if err == nil && reached {
		err = ErrBudgetReached
	}
	return spanID, taken, err
}

// endSpan logs the end of the model request in flight, if there is one.
func (m *mutation) endSpan(failed bool, usage api.ModelUsage) error {
	if m.spanID == "" {
		return nil
	}
	end := &api.ModelRequestEndEvent{
		EventHead:           api.EventHead{Type: api.EventModelRequestEnd},
		ModelRequestStartID: m.spanID, IsError: &failed, ModelUsage: usage,
	}
	m.spanID = ""
	if err := m.spend(usage); err != nil {
		return err
	}
	return m.append(end, nil)
}

// log appends drafts and opens their calls.
func (m *mutation) log(drafts []Draft) error {
	for _, d := range drafts {
		if err := m.append(d.Event, d.Private); err != nil {
			return err
		}
		if d.Call == nil {
			continue
		}
		_, err := m.tx.Exec(m.ctx, `INSERT INTO tool_calls (id, session_id, seq, kind, name, permission, state, answer, result_id, confirmation_id)
			VALUES (?, ?, ?, ?, ?, ?, 'open', '', '', '')`, d.Event.Head().ID, m.id, m.seq, d.Call.Kind, d.Call.Name, d.Call.Permission)
		if err != nil {
			return fmt.Errorf("open call %s: %w", d.Event.Head().ID, err)
		}
	}
	return nil
}

// Completion is how a model request ended well.
type Completion struct {
	Drafts []Draft
	Usage  api.ModelUsage
	// Stop is why the turn ends, if no calls are open and no message is queued.
	// Empty means end_turn.
	Stop        string
	StopDetails *api.RefusalDetails
	// Continue asks for another request at once, after a call that was denied, say.
	Continue bool
}

// CompleteRequest logs what a request brought, with its span and usage, moves
// the session to where it now stands (waiting for answers, idle, or still
// running when more is to be done) and releases the run.
func (r *Run) CompleteRequest(ctx context.Context, c Completion) error {
	return r.mutate(ctx, func(m *mutation) error {
		if err := m.log(c.Drafts); err != nil {
			return err
		}
		if err := m.endSpan(false, c.Usage); err != nil {
			return err
		}
		m.failures = 0
		m.release()
		calls, err := m.openCalls()
		if err != nil {
			return err
		}
		if len(calls) > 0 {
			return m.settle()
		}
		inbox, err := m.inbox()
		if err != nil {
			return err
		}
		if c.Continue || len(inbox) > 0 {
			m.makeDue(m.now)
			return nil
		}
		stop := c.Stop
		if stop == "" {
			stop = api.StopEndTurn
		}
		return m.change(causeEnd, api.StopReason{Type: stop}, c.StopDetails)
	})
}

// FailRequest logs a failed request. With retry status retrying the session is
// rescheduled and due at retryAt; exhausted ends the turn, and what was queued
// with it; terminal ends the session. Usage is what the provider has counted all
// the same. It releases the run.
func (r *Run) FailRequest(ctx context.Context, e api.SessionError, usage api.ModelUsage, retryAt time.Time) error {
	return r.mutate(ctx, func(m *mutation) error {
		if err := m.endSpan(true, usage); err != nil {
			return err
		}
		if err := m.append(&api.SessionErrorEvent{EventHead: api.EventHead{Type: api.EventSessionError}, Error: e}, nil); err != nil {
			return err
		}
		m.release()
		switch e.RetryStatus.Type {
		case api.RetryRetrying:
			m.failures++
			m.makeDue(retryAt)
			return m.change(causeRetry, api.StopReason{}, nil)
		case api.RetryTerminal:
			return m.terminate(causeFatal)
		}
		m.failures = 0
		if err := m.flush(); err != nil {
			return err
		}
		return m.change(causeEnd, api.StopReason{Type: api.StopRetriesExhausted}, nil)
	})
}

// flush takes everything queued into the log, for a turn that ends without it.
func (m *mutation) flush() error {
	inbox, err := m.inbox()
	if err != nil {
		return err
	}
	for _, e := range inbox {
		if err := m.takeEffect(e); err != nil {
			return err
		}
	}
	return nil
}

// ApplyInterrupt takes the queued interrupts into the log: what the model had
// said so far is kept, the span ends, open calls are answered in the server's
// name and take no other result, and the session goes idle with end_turn.
// Messages queued meanwhile then start the next turn. It releases the run.
func (r *Run) ApplyInterrupt(ctx context.Context, partial []Draft, usage api.ModelUsage) error {
	return r.mutate(ctx, func(m *mutation) error {
		if err := m.log(partial); err != nil {
			return err
		}
		if err := m.endSpan(len(partial) == 0, usage); err != nil {
			return err
		}
		inbox, err := m.inbox()
		if err != nil {
			return err
		}
		messages := false
		for _, e := range inbox {
			if e.Type != api.EventUserInterrupt {
				messages = true
			} else if err := m.takeEffect(e); err != nil {
				return err
			}
		}
		if err := m.interruptCalls(); err != nil {
			return err
		}
		m.setBlocking(nil)
		m.due, m.failures = sql.NullInt64{}, 0
		m.release()
		if err := m.change(causeEnd, api.StopReason{Type: api.StopEndTurn}, nil); err != nil {
			return err
		}
		if messages {
			return m.start()
		}
		return nil
	})
}

// interruptCalls answers the open calls with word of the interrupt. Without an
// answer in the log, of the kind they look for, the official TypeScript workers
// would run them again whenever they come back to the session.
func (m *mutation) interruptCalls() error {
	calls, err := m.openCalls()
	if err != nil {
		return err
	}
	failed := true
	content := []api.Block{api.TextBlock("The user interrupted before this call had finished. It may have run in part.")}
	for _, c := range calls {
		var answer headed
		switch {
		case c.Kind == CallCustom:
			answer = &api.CustomToolResultEvent{EventHead: api.EventHead{Type: api.EventUserCustomToolResult}, CustomToolUseID: c.ID, Content: content, IsError: &failed}
		case m.environmentType == api.EnvironmentCloud:
			answer = &api.ToolResultEvent{EventHead: api.EventHead{Type: api.EventAgentToolResult}, ToolUseID: c.ID, Content: content, IsError: &failed}
		default:
			answer = &api.ToolResultEvent{EventHead: api.EventHead{Type: api.EventUserToolResult}, ToolUseID: c.ID, Content: content, IsError: &failed}
		}
		if err := m.append(answer, nil); err != nil {
			return err
		}
		if err := m.closeCall(c.ID, callMoot, "", answer.Head().ID); err != nil {
			return err
		}
	}
	return nil
}
