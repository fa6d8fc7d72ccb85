package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// ErrStale is returned by a write of a run that is no longer the thread's run.
var ErrStale = errors.New("another run of this thread has begun")

// Run is a lease on thinking for one thread of a session. Every write through
// it carries its epoch and fails with ErrStale once another run has begun.
type Run struct {
	SessionID string
	ThreadID  string // "" for the primary thread
	Epoch     int64
	store     *Store
}

// LogID is the id of the log the run writes.
func (r *Run) LogID() string {
	if r.ThreadID == "" {
		return r.SessionID
	}
	return r.ThreadID
}

// row names the table and the id of the row the lease is kept in.
func (r *Run) row() (table, id string) {
	if r.ThreadID == "" {
		return "sessions", r.SessionID
	}
	return "threads", r.ThreadID
}

// Due is signalled when some thread may have become due, by this process or another.
func (s *Store) Due() (wake <-chan string, cancel func()) { return s.db.Subscribe(dueTopic) }

// NextDue says when the earliest thread is due: at its time, or when the lease
// of the run that holds it lapses. It is zero when none is.
func (s *Store) NextDue(ctx context.Context) (time.Time, error) {
	var due [4]sql.NullInt64
	err := s.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, `SELECT (SELECT MIN(due_at) FROM sessions WHERE due_at IS NOT NULL AND run_until IS NULL),
			(SELECT MIN(run_until) FROM sessions WHERE run_until IS NOT NULL),
			(SELECT MIN(due_at) FROM threads WHERE due_at IS NOT NULL AND run_until IS NULL),
			(SELECT MIN(run_until) FROM threads WHERE run_until IS NOT NULL)`).Scan(&due[0], &due[1], &due[2], &due[3])
	})
	var earliest sql.NullInt64
	for _, one := range due {
		if one.Valid && (!earliest.Valid || one.Int64 < earliest.Int64) {
			earliest = one
		}
	}
	if err != nil || !earliest.Valid {
		return time.Time{}, err
	}
	return at(earliest.Int64), nil
}

// Claim leases the thread that has been due longest, or one whose run has
// lapsed; nil when there is none.
func (s *Store) Claim(ctx context.Context) (*Run, error) {
	var r *Run
	err := s.db.Write(ctx, func(tx db.Tx) error {
		r = &Run{store: s}
		now := s.now()
		tables := []string{"sessions", "threads"}
		var primary, other sql.NullInt64
		err := tx.QueryRow(ctx, `SELECT (SELECT MIN(due_at) FROM sessions WHERE due_at IS NOT NULL AND run_until IS NULL),
			(SELECT MIN(due_at) FROM threads WHERE due_at IS NOT NULL AND run_until IS NULL)`).Scan(&primary, &other)
		if err != nil {
			return err
		}
		if other.Valid && (!primary.Valid || other.Int64 < primary.Int64) {
			tables = []string{"threads", "sessions"}
		}
		for _, where := range []string{"due_at <= ? AND run_until IS NULL ORDER BY due_at", "run_until <= ? ORDER BY run_until"} {
			for _, table := range tables {
				err := r.claim(ctx, tx, table, where, now)
				if err == nil || !errors.Is(err, sql.ErrNoRows) {
					return err
				}
			}
		}
		return sql.ErrNoRows
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claim a due thread: %w", err)
	}
	return r, nil
}

// claim leases a thread kept in a table.
func (r *Run) claim(ctx context.Context, tx db.Tx, table, where string, now time.Time) error {
	ids, to := "id, ''", []any{&r.SessionID, &r.ThreadID, &r.Epoch}
	if table == "threads" {
		ids = "session_id, id"
	}
	return tx.QueryRow(ctx, `UPDATE `+table+` SET due_at = NULL, run_until = ?, epoch = epoch + 1
		WHERE id = (SELECT id FROM `+table+` WHERE `+where+` LIMIT 1`+tx.SkipLocked()+`) RETURNING `+ids+`, epoch`,
		now.Add(r.store.runTTL).UnixMicro(), now.UnixMicro()).Scan(to...)
}

// mutate is the store's, fenced by the run's epoch.
func (r *Run) mutate(ctx context.Context, fn func(*mutation) error) error {
	_, err := r.store.mutate(ctx, r.SessionID, func(m *mutation) error {
		t, err := m.thread(r.ThreadID)
		if err != nil {
			return err
		}
		if t == nil || t.epoch != r.Epoch || !t.runUntil.Valid {
			return ErrStale
		}
		return m.on(t, func() error { return fn(m) })
	})
	return err
}

// Renew extends the lease.
func (r *Run) Renew(ctx context.Context) error {
	table, id := r.row()
	return r.store.db.Write(ctx, func(tx db.Tx) error {
		result, err := tx.Exec(ctx, "UPDATE "+table+" SET run_until = ? WHERE id = ? AND epoch = ? AND run_until IS NOT NULL",
			r.store.now().Add(r.store.runTTL).UnixMicro(), id, r.Epoch)
		if err != nil {
			return fmt.Errorf("renew the run of %s: %w", id, err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(ErrStale, err)
		}
		return nil
	})
}

// Release gives the lease back; the thread is due again at the given time or,
// when that is zero, only once something happens.
func (r *Run) Release(ctx context.Context, at time.Time) error {
	return r.mutate(ctx, func(m *mutation) error {
		if !at.IsZero() {
			m.t.makeDue(at)
		}
		m.t.release()
		return nil
	})
}

// Interrupted tells whether an interrupt waits to be applied.
func (r *Run) Interrupted(ctx context.Context) (halted bool, err error) {
	table, id := r.row()
	err = r.store.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, "SELECT halted FROM "+table+" WHERE id = ?", id).Scan(boolean{&halted})
	})
	return halted, err
}

// Watch is signalled when something happens to the thread.
func (r *Run) Watch() (signal <-chan string, cancel func()) {
	return r.store.db.Subscribe(topic(r.LogID()))
}

// Snapshot is all a step needs to know.
type Snapshot struct {
	Session         api.Session
	WorkspaceID     string
	EnvironmentType string
	// Thread is the one to think for, and Agent its agent.
	Thread Standing
	Agent  api.SessionAgent
	// Primary tells whether it is the primary thread.
	Primary bool
	// Halted tells whether an interrupt waits to be applied.
	Halted bool
	// Log holds the events of the thread that took effect, in order.
	Log []LogEvent
	// Inbox holds clients' messages to the thread that wait to take effect, in
	// order of arrival.
	Inbox []LogEvent
	// Undelivered counts the messages of other threads that wait likewise.
	Undelivered int
	// Open holds the thread's calls without an answer.
	Open []Call
	// Failures counts the model requests that failed since the last that did not.
	Failures int
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
		t := &sr.primary
		if r.ThreadID != "" {
			if t, err = threadOf(ctx, tx, r.SessionID, r.ThreadID); err != nil {
				return err
			}
		}
		out.WorkspaceID = sr.workspaceID
		out.EnvironmentType, out.Failures, out.Halted, out.Primary = sr.environmentType, int(t.failures), t.halted, t.primary()
		out.Thread = Standing{ID: t.id, Name: t.name, Status: t.status, Waits: t.blocking != "[]"}
		if out.Agent, err = t.thinker(out.Session.Agent); err != nil {
			return err
		}
		if out.Open, err = readCalls(ctx, tx, "session_id = ? AND thread_id = ? AND state = 'open' ORDER BY seq", r.SessionID, t.callsID()); err != nil {
			return err
		}
		if out.Log, err = r.store.log(ctx, tx, t.log()); err != nil {
			return err
		}
		if sr.children > 0 {
			if err = tx.QueryRow(ctx, "SELECT COUNT(*) FROM deliveries WHERE log_id = ?", t.log()).Scan(&out.Undelivered); err != nil {
				return err
			}
		}
		if out.Inbox = nil; t.primary() {
			out.Inbox, err = inbox(ctx, tx, r.SessionID)
			out.Inbox = slices.DeleteFunc(out.Inbox, isInterrupt)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read session %s: %w", r.SessionID, err)
	}
	r.store.recent.put(r.LogID(), out.Log)
	return &out, nil
}

func isInterrupt(e LogEvent) bool { return e.Type == api.EventUserInterrupt }

// thinker is the agent that thinks for the thread; the session's own for the primary one.
func (t *thread) thinker(primary api.SessionAgent) (api.SessionAgent, error) {
	if t.primary() {
		return primary, nil
	}
	var head struct{ Type string }
	if err := json.Unmarshal([]byte(t.agent), &head); err != nil {
		return api.SessionAgent{}, err
	}
	if head.Type == api.RosterAdvisor {
		var advisor api.Advisor
		err := json.Unmarshal([]byte(t.agent), &advisor)
		return api.SessionAgent{Type: head.Type, Name: t.name, Model: api.ModelConfig{ID: advisor.Model}}, err
	}
	var agent api.ThreadAgent
	err := json.Unmarshal([]byte(t.agent), &agent)
	return agent.Session(), err
}

// log is the events that took effect: those remembered and those since.
func (s *Store) log(ctx context.Context, tx db.Tx, logID string) ([]LogEvent, error) {
	known := s.recent.get(logID)
	last := int64(0)
	if n := len(known); n > 0 {
		last = known[n-1].Seq
	}
	since, err := readEvents(ctx, tx, "log_id = ? AND seq > ? AND processed_at IS NOT NULL ORDER BY seq", logID, last)
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
	// Act is set when the event is a call that the brain answers itself: it acts
	// in the transaction that logs the call, and returns the answer. It may be
	// called more than once.
	Act func(Cast) (answer string, failed bool, err error)
}

// BeginRequest fails with ErrBudgetReached, and makes the thread idle, when the
// session's budget is reached. Otherwise it takes the queued messages into the log, makes the thread
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
		if m.t.status != api.SessionRunning {
			if err := m.change(causeInput, api.StopReason{}, nil); err != nil {
				return err
			}
		}
		inbox, err := m.messages()
		if err != nil {
			return err
		}
		taken = nil
		for _, e := range inbox {
			if err := m.takeEffect(e); err != nil {
				return err
			}
			taken = append(taken, e)
		}
		received, err := m.deliver()
		if err != nil {
			return err
		}
		taken = append(taken, received...)
		span := &api.MarkerEvent{EventHead: api.EventHead{Type: api.EventModelRequestStart}}
		if err := m.append(span, nil); err != nil {
			return err
		}
		m.t.spanID, spanID = span.ID, span.ID
		return nil
	})
	if err == nil && reached {
		err = ErrBudgetReached
	}
	return spanID, taken, err
}

// messages reads clients' messages to the thread that have yet to take effect.
func (m *mutation) messages() ([]LogEvent, error) {
	if !m.t.primary() {
		return nil, nil
	}
	inbox, err := m.inbox()
	return slices.DeleteFunc(inbox, isInterrupt), err
}

// waiting tells whether messages of whatever kind wait for the thread.
func (m *mutation) waiting() (bool, error) {
	messages, err := m.messages()
	if err != nil || len(messages) > 0 {
		return true, err
	}
	n, err := m.undelivered()
	return n > 0, err
}

// endSpan logs the end of the model request in flight, if there is one.
func (m *mutation) endSpan(failed bool, usage api.ModelUsage) error {
	if m.t.spanID == "" {
		return nil
	}
	end := &api.ModelRequestEndEvent{
		EventHead:           api.EventHead{Type: api.EventModelRequestEnd},
		ModelRequestStartID: m.t.spanID, IsError: &failed, ModelUsage: usage,
	}
	m.t.spanID = ""
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
		switch {
		case d.Act != nil:
			if err := m.act(d); err != nil {
				return err
			}
		case d.Call != nil:
			if err := m.openCall(d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *mutation) openCall(d Draft) error {
	_, err := m.tx.Exec(m.ctx, `INSERT INTO tool_calls (id, session_id, thread_id, seq, kind, name, permission, state, answer, result_id, confirmation_id)
		VALUES (?, ?, ?, ?, ?, ?, ?, 'open', '', '', '')`, d.Event.Head().ID, m.id, m.t.callsID(), m.t.seq, d.Call.Kind, d.Call.Name, d.Call.Permission)
	if err != nil {
		return fmt.Errorf("open call %s: %w", d.Event.Head().ID, err)
	}
	if m.t.primary() {
		return nil
	}
	// In its own log a call does not name its thread.
	routed(d.Event, &m.t.id)
	defer routed(d.Event, nil)
	return m.post(d.Event)
}

// act answers a call that the brain answers itself.
func (m *mutation) act(d Draft) error {
	answer, failed, err := d.Act(Cast{m})
	if err != nil {
		return err
	}
	return m.append(&api.ToolResultEvent{
		EventHead: api.EventHead{Type: api.EventAgentToolResult}, ToolUseID: d.Event.Head().ID,
		Content: []api.Block{api.TextBlock(answer)}, IsError: &failed,
	}, nil)
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
// the thread to where it now stands (waiting for answers, idle, or still
// running when more is to be done) and releases the run. The last words of a
// turn go to the thread that asked for it.
func (r *Run) CompleteRequest(ctx context.Context, c Completion) error {
	return r.mutate(ctx, func(m *mutation) error {
		if err := m.log(c.Drafts); err != nil {
			return err
		}
		if err := m.endSpan(false, c.Usage); err != nil {
			return err
		}
		m.t.failures = 0
		m.t.release()
		calls, err := m.openCalls()
		if err != nil {
			return err
		}
		if len(calls) > 0 {
			return m.settle()
		}
		waiting, err := m.waiting()
		if err != nil {
			return err
		}
		if c.Continue || waiting || m.t.halted {
			m.t.makeDue(m.now)
			return nil
		}
		stop, words := c.Stop, spoken(c.Drafts)
		switch stop {
		case "":
			stop = api.StopEndTurn
		case api.StopRefusal:
			words += "\n(The agent's model declined to go on.)"
		}
		if err := m.report(strings.TrimSpace(words)); err != nil {
			return err
		}
		return m.change(causeEnd, api.StopReason{Type: stop}, c.StopDetails)
	})
}

// spoken is the text of what was said.
func spoken(drafts []Draft) string {
	var words []string
	for _, d := range drafts {
		if e, ok := d.Event.(*api.ContentEvent); ok {
			for _, b := range e.Content {
				words = append(words, b.Text)
			}
		}
	}
	return strings.Join(words, "\n")
}

// FailRequest logs a failed request. With retry status retrying the thread is
// rescheduled and due at retryAt; exhausted ends the turn, and what was queued
// with it; terminal ends the thread, and with the primary one the session. Usage is
// what the provider has counted all the same. It releases the run.
func (r *Run) FailRequest(ctx context.Context, e api.SessionError, usage api.ModelUsage, retryAt time.Time) error {
	return r.mutate(ctx, func(m *mutation) error {
		if err := m.endSpan(true, usage); err != nil {
			return err
		}
		failure := &api.SessionErrorEvent{EventHead: api.EventHead{Type: api.EventSessionError}, Error: e}
		if err := m.append(failure, nil); err != nil {
			return err
		}
		if err := m.crossPost(failure); err != nil {
			return err
		}
		m.t.release()
		if e.RetryStatus.Type == api.RetryRetrying {
			m.t.failures++
			m.t.makeDue(retryAt)
			return m.change(causeRetry, api.StopReason{}, nil)
		}
		if err := m.report("(The agent could not go on: " + e.Message + ")"); err != nil {
			return err
		}
		switch {
		case e.RetryStatus.Type != api.RetryTerminal:
		case m.t.primary():
			return m.terminate(causeFatal)
		default:
			return m.endThread(causeFatal)
		}
		m.t.failures = 0
		if err := m.flush(); err != nil {
			return err
		}
		if err := m.change(causeEnd, api.StopReason{Type: api.StopRetriesExhausted}, nil); err != nil {
			return err
		}
		return m.goOn()
	})
}

// flush takes everything queued for the thread into its log, for a turn that
// ends without it.
func (m *mutation) flush() error {
	messages, err := m.messages()
	if err != nil {
		return err
	}
	for _, e := range messages {
		if err := m.takeEffect(e); err != nil {
			return err
		}
	}
	if _, err := m.deliver(); err != nil {
		return err
	}
	if err := m.seeInterrupts(); err != nil {
		return err
	}
	m.t.halted = false
	return m.takeInterrupts()
}

// seeInterrupts logs the interrupts that the thread applies in its own log.
func (m *mutation) seeInterrupts() error {
	if m.t.primary() || !m.t.halted {
		return nil // the primary thread's log is the session's, where they are
	}
	inbox, err := m.inbox()
	if err != nil {
		return err
	}
	for _, e := range inbox {
		if to := e.Event.SessionThreadID; isInterrupt(e) && (to == nil || *to == m.t.id) {
			copied := &api.InterruptEvent{EventHead: api.EventHead{ID: e.ID, Type: e.Type}, SessionThreadID: to}
			if err := m.append(copied, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeInterrupts lets the queued interrupts take effect that all threads they
// are for have applied.
func (m *mutation) takeInterrupts() error {
	return m.on(&m.primary, func() error {
		inbox, err := m.inbox()
		if err != nil {
			return err
		}
		for _, e := range inbox {
			if !isInterrupt(e) || m.pending(e) {
				continue
			}
			if err := m.takeEffect(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// pending tells whether a thread has yet to apply an interrupt.
func (m *mutation) pending(e LogEvent) bool {
	for _, t := range append([]*thread{&m.primary}, m.others...) {
		if to := e.Event.SessionThreadID; t.halted && (to == nil || *to == t.id) {
			return true
		}
	}
	return false
}

// ApplyInterrupt applies the queued interrupts: what the model had said so far
// is kept, the span ends, open calls are answered in the server's name and take
// no other result, and the thread goes idle with end_turn. Other threads that
// were interrupted and have no run do so too. Messages of clients that were
// queued meanwhile then start the next turn; those of threads are only logged.
// It releases the run.
func (r *Run) ApplyInterrupt(ctx context.Context, partial []Draft, usage api.ModelUsage) error {
	return r.mutate(ctx, func(m *mutation) error {
		if err := m.log(partial); err != nil {
			return err
		}
		if err := m.endSpan(len(partial) == 0, usage); err != nil {
			return err
		}
		m.t.release()
		m.t.halted = true // whatever made the run stop
		var stopped []*thread
		for _, t := range append([]*thread{&m.primary}, m.inOrder()...) {
			if t.halted && !t.runUntil.Valid {
				stopped = append(stopped, t)
			}
		}
		return m.halt(stopped)
	})
}

// halt stops threads. The interrupts come first in their logs, then what they
// do. The threads go idle together, so that the session says so once.
func (m *mutation) halt(threads []*thread) error {
	each := func(do func() error) error {
		for _, t := range threads {
			if err := m.on(t, do); err != nil {
				return err
			}
		}
		return nil
	}
	err := each(func() error {
		if err := m.endSpan(true, api.ModelUsage{}); err != nil {
			return err
		}
		if err := m.seeInterrupts(); err != nil {
			return err
		}
		m.t.halted, m.t.due, m.t.failures = false, sql.NullInt64{}, 0
		return nil
	})
	if err != nil {
		return err
	}
	if err := m.takeInterrupts(); err != nil {
		return err
	}
	err = each(func() error {
		if err := m.interruptCalls("The user interrupted before this call had finished. It may have run in part."); err != nil {
			return err
		}
		m.t.setBlocking(nil)
		_, err := m.deliver()
		return err
	})
	if err != nil {
		return err
	}
	m.moving = true
	if err := each(func() error { return m.change(causeEnd, api.StopReason{Type: api.StopEndTurn}, nil) }); err != nil {
		return err
	}
	m.moving = false
	if err := m.follow(api.StopReason{Type: api.StopEndTurn}, nil); err != nil {
		return err
	}
	return m.goOn()
}

// goOn has the primary thread take up what came while threads were stopping,
// once they have stopped: messages of clients start a turn, those of threads are
// only logged. A budget that was raised meanwhile lets the turns go on that it
// had held.
func (m *mutation) goOn() error {
	stopping, err := m.stopping()
	if err != nil || stopping {
		return err
	}
	if err := m.resume(); err != nil || !m.primary.resting() || m.primary.held {
		return err
	}
	return m.on(&m.primary, func() error {
		messages, err := m.messages()
		if err != nil {
			return err
		}
		if len(messages) > 0 {
			return m.start()
		}
		_, err = m.deliver()
		return err
	})
}

// interruptCalls answers the thread's open calls with why they are void. Without
// an answer in the log, of the kind they look for, the official TypeScript
// workers would run them again whenever they come back to the session.
func (m *mutation) interruptCalls(why string) error {
	calls, err := m.openCalls()
	if err != nil {
		return err
	}
	failed := true
	content := []api.Block{api.TextBlock(why)}
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
		if _, err := m.answer(&callRow{Call: c, threadID: m.t.callsID()}, answer); err != nil {
			return err
		}
		if err := m.closeCall(c.ID, callMoot, "", answer.Head().ID); err != nil {
			return err
		}
	}
	return nil
}
