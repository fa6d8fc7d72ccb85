package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// thread is one line of thought of a session, with its own log and its own run.
// The primary thread's is kept in the row of its session and shares the
// session's log; those of the agents it calls on have rows of their own.
type thread struct {
	id        string
	sessionID string
	number    int64  // 0 for the primary thread, then as they were made
	name      string // of its agent; of the primary thread, in the session's agent
	agent     string // JSON of an api.ThreadAgent or api.Advisor; likewise
	status    api.SessionStatus
	blocking  string // JSON array of the call ids the thread waits for
	halted    bool   // an interrupt waits to be applied
	rested    bool   // it has been idle after it ran
	held      bool   // the session's budget has stopped its turn

	created, updated int64
	archived         sql.NullInt64

	seq, epoch    int64 // the last event of its log, the last run
	due, runUntil sql.NullInt64
	spanID        string // of the model request in flight, or ""
	failures      int64
	runningSince  sql.NullInt64
	active        int64 // microseconds spent running, the current stretch not included

	consumed // of threads with rows of their own; the primary thread's is what is left of the session's
}

func (t *thread) primary() bool { return t.number == 0 }

// log is the id of the thread's log.
func (t *thread) log() string {
	if t.primary() {
		return t.sessionID
	}
	return t.id
}

// callsID is how tool_calls names the thread.
func (t *thread) callsID() string {
	if t.primary() {
		return ""
	}
	return t.id
}

// busy tells whether the thread is not at rest: it runs, or waits for an answer.
func (t *thread) busy() bool {
	return t.status == api.SessionRunning || t.status == api.SessionRescheduling || t.blocking != "[]"
}

// resting tells whether the thread has nothing to do, and nothing to stop.
func (t *thread) resting() bool {
	return t.status == api.SessionIdle && t.blocking == "[]" && !t.halted
}

// waitsFor lists the calls the thread waits for.
func (t *thread) waitsFor() (ids []string) {
	_ = json.Unmarshal([]byte(t.blocking), &ids) // it was encoded here
	return ids
}

// makeDue has the brain look at the thread at the given time, or earlier if it
// was to do so anyway.
func (t *thread) makeDue(at time.Time) {
	if !t.due.Valid || t.due.Int64 > at.UnixMicro() {
		t.due = micros(at)
	}
}

func (t *thread) release() { t.runUntil = sql.NullInt64{} }

// setBlocking records the calls waited for and tells whether they differ.
func (t *thread) setBlocking(ids []string) bool {
	raw := encodeIDs(ids)
	changed := raw != t.blocking
	t.blocking = raw
	return changed
}

func encodeIDs(ids []string) string {
	if ids == nil {
		ids = []string{}
	}
	raw, _ := json.Marshal(ids) // strings always encode
	return string(raw)
}

// boolean is a yes or no, which both databases keep as a number.
type boolean struct{ to *bool }

// Scan implements sql.Scanner.
func (f boolean) Scan(from any) error {
	n, ok := from.(int64)
	if !ok {
		return fmt.Errorf("a yes or no is a number, not a %T", from)
	}
	*f.to = n != 0
	return nil
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

const threadColumns = `id, session_id, number, name, agent, status, blocking, halted, rested, created_at, updated_at, archived_at, seq, epoch, due_at, run_until,
	span_id, failures, running_since, active, held, ` + consumedColumns

func (t *thread) fields() []any {
	return append([]any{&t.id, &t.sessionID, &t.number, &t.name, &t.agent, &t.status, &t.blocking, boolean{&t.halted}, boolean{&t.rested}, &t.created, &t.updated, &t.archived, &t.seq, &t.epoch, &t.due, &t.runUntil,
		&t.spanID, &t.failures, &t.runningSince, &t.active, boolean{&t.held}}, t.consumed.fields()...)
}

func (t *thread) insert(ctx context.Context, tx db.Tx) error {
	const marks = "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, " + consumedMarks
	_, err := tx.Exec(ctx, "INSERT INTO threads ("+threadColumns+") VALUES ("+marks+")",
		append([]any{t.id, t.sessionID, t.number, t.name, t.agent, t.status, t.blocking, number(t.halted), number(t.rested), t.created, t.updated, t.archived, t.seq, t.epoch, t.due, t.runUntil,
			t.spanID, t.failures, t.runningSince, t.active, number(t.held)}, t.consumed.values()...)...)
	if err != nil {
		return fmt.Errorf("make thread %s: %w", t.id, err)
	}
	return nil
}

func (t *thread) save(ctx context.Context, tx db.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE threads SET status = ?, blocking = ?, halted = ?, rested = ?, updated_at = ?, archived_at = ?, seq = ?, epoch = ?, due_at = ?, run_until = ?,
		span_id = ?, failures = ?, running_since = ?, active = ?, held = ?, `+consumedSet+` WHERE id = ?`,
		slices.Concat([]any{t.status, t.blocking, number(t.halted), number(t.rested), t.updated, t.archived, t.seq, t.epoch, t.due, t.runUntil,
			t.spanID, t.failures, t.runningSince, t.active, number(t.held)}, t.consumed.values(), []any{t.id})...)
	if err != nil {
		return fmt.Errorf("save thread %s: %w", t.id, err)
	}
	return nil
}

// spend counts the time a thread, or a session, runs.
func spend(now time.Time, to api.SessionStatus, since *sql.NullInt64, active *int64) {
	running := to == api.SessionRunning
	switch {
	case running && !since.Valid:
		*since = micros(now)
	case !running && since.Valid:
		*active += max(0, now.UnixMicro()-since.Int64)
		*since = sql.NullInt64{}
	}
}

// --- threads of a mutation ---

const busyThreads = "(status IN ('running', 'rescheduling') OR blocking <> '[]' OR held <> 0)"

// loadBusy loads the threads on which the session's status depends.
func (m *mutation) loadBusy() error {
	if m.children == 0 {
		return nil
	}
	return m.load(busyThreads)
}

// loadLive loads all threads that are not over.
func (m *mutation) loadLive() error {
	if m.children == 0 {
		return nil
	}
	return m.load("status <> 'terminated'")
}

// load locks the threads that meet a condition. Their session is locked first,
// so it is only runs being claimed and renewed that this waits for.
func (m *mutation) load(where string, args ...any) error {
	rows, err := m.tx.Query(m.ctx, "SELECT "+threadColumns+" FROM threads WHERE session_id = ? AND "+where+" ORDER BY number"+m.tx.ForUpdate(), append([]any{m.id}, args...)...)
	if err != nil {
		return fmt.Errorf("read the threads of session %s: %w", m.id, err)
	}
	defer rows.Close()
	for rows.Next() {
		t := &thread{}
		if err := rows.Scan(t.fields()...); err != nil {
			return err
		}
		if m.loaded(t.id) == nil {
			m.others = append(m.others, t)
		}
	}
	return rows.Err()
}

func (m *mutation) loaded(id string) *thread {
	if id == "" || id == m.primary.id {
		return &m.primary
	}
	for _, t := range m.others {
		if t.id == id {
			return t
		}
	}
	return nil
}

// thread is the thread with an id, "" for the primary one; nil when the session
// has none such.
func (m *mutation) thread(id string) (*thread, error) {
	if t := m.loaded(id); t != nil {
		return t, nil
	}
	if m.children == 0 {
		return nil, nil
	}
	err := m.load("id = ?", id)
	return m.loaded(id), err
}

// on does something to another thread than the one the mutation is about.
func (m *mutation) on(t *thread, do func() error) error {
	before := m.t
	m.t = t
	defer func() { m.t = before }()
	return do()
}

// --- messages between threads ---

// MaxThreads is how many threads of a session may be at work at once, the
// primary one not counted.
const MaxThreads = 25

// Cast is what a coordinator's call may do to the threads of its session, in
// the transaction that logs the call.
type Cast struct{ m *mutation }

// Members are the agents a thread can be made of, as the session holds them.
func (c Cast) Members() ([]Member, error) {
	var agent api.SessionAgent
	if err := json.Unmarshal([]byte(c.m.agent), &agent); err != nil {
		return nil, fmt.Errorf("decode session %s: %w", c.m.id, err)
	}
	return Roster(agent)
}

// Member is an agent of a session's roster.
type Member struct {
	ID          string // "" for an advisor
	Name        string
	Description string
	raw         json.RawMessage
}

// Roster is whom an agent of a session may call on; nobody, unless it coordinates.
func Roster(a api.SessionAgent) ([]Member, error) {
	var held *api.Multiagent
	if len(a.Multiagent) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(a.Multiagent, &held); err != nil || held == nil {
		return nil, err
	}
	var out []Member
	for _, raw := range held.Agents {
		var one struct {
			Type, ID, Name string
			Description    *string
		}
		if err := json.Unmarshal(raw, &one); err != nil {
			return nil, fmt.Errorf("decode a roster: %w", err)
		}
		member := Member{ID: one.ID, Name: one.Name, raw: raw}
		switch {
		case one.Type == api.RosterAdvisor:
			member.Name, member.Description = api.AdvisorName, "a model to ask for advice; it has no tools"
		case one.Description != nil:
			member.Description = *one.Description
		}
		out = append(out, member)
	}
	return out, nil
}

// Standing is how a thread stands.
type Standing struct {
	ID, Name string
	Status   api.SessionStatus
	Waits    bool // for an answer from outside the session
}

// Threads lists the threads that are not over, as they were made.
func (c Cast) Threads() ([]Standing, error) {
	if err := c.m.loadLive(); err != nil {
		return nil, err
	}
	var out []Standing
	for _, t := range c.m.inOrder() {
		if t.status != api.SessionTerminated {
			out = append(out, Standing{ID: t.id, Name: t.name, Status: t.status, Waits: t.blocking != "[]"})
		}
	}
	return out, nil
}

// Why a message cannot be sent.
var (
	ErrInterrupted = errors.New("the user has interrupted")
	ErrThreadOver  = errors.New("there is no such thread, or it is over")
	ErrTooMany     = errors.New("too many threads are at work")
)

// Start makes a thread of a member, with its first message, and returns its id.
func (c Cast) Start(member Member, message string) (string, error) {
	m := c.m
	if err := c.mayWork(nil); err != nil {
		return "", err
	}
	m.children++
	t := &thread{
		id: api.NewID(api.PrefixThread), sessionID: m.id, number: m.children, name: member.Name, agent: string(member.raw),
		status: api.SessionIdle, blocking: "[]", created: m.now.UnixMicro(), updated: m.now.UnixMicro(),
	}
	if err := t.insert(m.ctx, m.tx); err != nil {
		return "", err
	}
	m.others = append(m.others, t)
	if err := m.append(&api.ThreadCreatedEvent{EventHead: api.EventHead{Type: api.EventThreadCreated}, AgentName: t.name, SessionThreadID: t.id}, nil); err != nil {
		return "", err
	}
	return t.id, m.message(m.t, t, message)
}

// Send sends a message to a thread there is.
func (c Cast) Send(threadID, message string) (name string, err error) {
	t, err := c.m.thread(threadID)
	if err != nil {
		return "", err
	}
	if t == nil || t.primary() || t.status == api.SessionTerminated {
		return "", ErrThreadOver
	}
	if err := c.mayWork(t); err != nil {
		return "", err
	}
	return t.name, c.m.message(c.m.t, t, message)
}

// mayWork tells whether t, or one more thread, may be set to work.
func (c Cast) mayWork(t *thread) error {
	if c.m.t.halted {
		return ErrInterrupted
	}
	if t != nil && t.busy() {
		return nil
	}
	n := 0
	for _, other := range c.m.others {
		if other.busy() {
			n++
		}
	}
	if n >= MaxThreads {
		return ErrTooMany
	}
	return nil
}

// message logs that a thread sends another a message, and delivers it: at once
// when the other is free, or when it next asks its model.
func (m *mutation) message(from, to *thread, text string) error {
	content := []api.Block{api.TextBlock(text)}
	sent := &api.ThreadMessageSentEvent{EventHead: api.EventHead{Type: api.EventThreadMessageSent}, Content: content, ToSessionThreadID: to.id}
	received := &api.ThreadMessageReceivedEvent{
		EventHead: api.EventHead{ID: api.NewID(api.PrefixEvent), Type: api.EventThreadMessageReceived}, Content: content, FromSessionThreadID: from.id,
	}
	if !to.primary() {
		sent.ToAgentName = to.name
	}
	if !from.primary() {
		received.FromAgentName = from.name
	}
	if err := m.on(from, func() error { return m.append(sent, nil) }); err != nil {
		return err
	}
	return m.on(to, func() error {
		free, err := m.free()
		if err != nil {
			return err
		}
		if !free {
			return m.deliverLater(received)
		}
		if err := m.append(received, nil); err != nil {
			return err
		}
		return m.start()
	})
}

// deliverLater keeps a message for when the thread next asks its model.
func (m *mutation) deliverLater(e *api.ThreadMessageReceivedEvent) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = m.tx.Exec(m.ctx, "INSERT INTO deliveries (log_id, seq, json) SELECT CAST(? AS TEXT), COALESCE(MAX(seq), 0) + 1, CAST(? AS TEXT) FROM deliveries WHERE log_id = ?", m.t.log(), string(raw), m.t.log())
	if err != nil {
		return fmt.Errorf("keep a message for thread %s: %w", m.t.id, err)
	}
	return nil
}

// undelivered counts the messages kept for the thread.
func (m *mutation) undelivered() (n int, err error) {
	if m.children == 0 {
		return 0, nil
	}
	err = m.tx.QueryRow(m.ctx, "SELECT COUNT(*) FROM deliveries WHERE log_id = ?", m.t.log()).Scan(&n)
	return n, err
}

// deliver logs the messages kept for the thread.
func (m *mutation) deliver() (taken []LogEvent, err error) {
	if m.children == 0 {
		return nil, nil
	}
	received, err := db.Objects[api.ThreadMessageReceivedEvent](m.tx.Query(m.ctx, "SELECT json FROM deliveries WHERE log_id = ? ORDER BY seq", m.t.log()))
	if err != nil || len(received) == 0 {
		return nil, err
	}
	for i := range received {
		e := &received[i]
		if err := m.append(e, nil); err != nil {
			return nil, err
		}
		event := api.Event{EventHead: e.EventHead, Content: e.Content, FromSessionThreadID: e.FromSessionThreadID, FromAgentName: e.FromAgentName}
		taken = append(taken, LogEvent{StoredEvent: StoredEvent{Seq: m.t.seq, ID: e.ID, Type: e.Type}, Event: event})
	}
	_, err = m.tx.Exec(m.ctx, "DELETE FROM deliveries WHERE log_id = ?", m.t.log())
	return taken, err
}

// report tells the primary thread how the turn of another ended, which wakes it.
func (m *mutation) report(text string) error {
	if m.t.primary() {
		return nil
	}
	if text == "" {
		text = "(The agent ended its turn without a word.)"
	}
	return m.message(m.t, &m.primary, text)
}

// --- reading ---

// threadOf reads a thread that is not the primary one.
func threadOf(ctx context.Context, tx db.Tx, sessionID, id string) (*thread, error) {
	var t thread
	err := tx.QueryRow(ctx, "SELECT "+threadColumns+" FROM threads WHERE session_id = ? AND id = ?", sessionID, id).Scan(t.fields()...)
	if err != nil {
		return nil, fmt.Errorf("read thread %s: %w", id, err)
	}
	return &t, nil
}

// Thread returns a thread of a session.
func (s *Store) Thread(ctx context.Context, workspaceID, sessionID, id string) (api.Thread, error) {
	threads, _, err := s.Threads(ctx, ThreadFilter{WorkspaceID: workspaceID, SessionID: sessionID, After: -1, Limit: 1, id: id})
	if err != nil {
		return api.Thread{}, err
	}
	if len(threads) == 0 {
		return api.Thread{}, api.NotFound("thread", id)
	}
	return threads[0], nil
}

// ThreadFilter selects threads of a session.
type ThreadFilter struct {
	WorkspaceID, SessionID string
	Statuses               []api.SessionStatus
	After                  int64 // threads made after the one with this number; -1 for all
	Limit                  int

	id string
}

// Threads returns a page of a session's threads as they were made, the primary
// one first, and the number of the page's last when more follow, else -1.
func (s *Store) Threads(ctx context.Context, f ThreadFilter) (threads []api.Thread, last int64, err error) {
	var primary *thread
	var found []*thread
	var startup float64
	err = s.db.Read(ctx, func(tx db.Tx) error {
		var r row
		err := tx.QueryRow(ctx, "SELECT "+columns+" FROM sessions WHERE id = ? AND workspace_id = ? AND deleted_at IS NULL", f.SessionID, f.WorkspaceID).Scan(r.fields()...)
		if errors.Is(err, sql.ErrNoRows) {
			return api.NotFound("session", f.SessionID)
		}
		if err != nil {
			return fmt.Errorf("read session %s: %w", f.SessionID, err)
		}
		if primary, err = r.primaryThread(ctx, tx); err != nil {
			return err
		}
		if startup, err = r.startup(ctx, tx); err != nil {
			return err
		}
		found, err = f.read(ctx, tx)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	if f.selects(primary) {
		found = append([]*thread{primary}, found...)
	}
	last = -1
	if len(found) > f.Limit {
		found = found[:f.Limit]
		last = found[f.Limit-1].number
	}
	now := s.now()
	for _, t := range found {
		one := t.wire(now, primary.id)
		if t.primary() && one.Stats != nil {
			one.Stats.StartupSeconds = startup
		}
		threads = append(threads, one)
	}
	return threads, last, nil
}

// selects tells whether the primary thread is asked for.
func (f ThreadFilter) selects(primary *thread) bool {
	if f.id != "" {
		return f.id == primary.id
	}
	return f.After < 0 && (len(f.Statuses) == 0 || slices.Contains(f.Statuses, primary.status))
}

// read reads the threads that are not the primary one.
func (f ThreadFilter) read(ctx context.Context, tx db.Tx) ([]*thread, error) {
	c := conditions{sql: "session_id = ? AND number > ?", args: []any{f.SessionID, f.After}}
	if f.id != "" {
		c.add("id = ?", f.id)
	}
	c.in("status", anys(f.Statuses))
	rows, err := tx.Query(ctx, "SELECT "+threadColumns+" FROM threads WHERE "+c.sql+" ORDER BY number LIMIT ?", append(c.args, f.Limit+1)...)
	if err != nil {
		return nil, fmt.Errorf("read the threads of session %s: %w", f.SessionID, err)
	}
	defer rows.Close()
	var found []*thread
	for rows.Next() {
		t := &thread{}
		if err := rows.Scan(t.fields()...); err != nil {
			return nil, err
		}
		found = append(found, t)
	}
	return found, rows.Err()
}

// primaryThread is the primary thread with all that a thread has: what its
// session has used and the other threads have not is its own.
func (r *row) primaryThread(ctx context.Context, tx db.Tx) (*thread, error) {
	t := r.primary
	var agent api.SessionAgent
	if err := json.Unmarshal([]byte(r.agent), &agent); err != nil {
		return nil, fmt.Errorf("decode session %s: %w", r.id, err)
	}
	raw, err := json.Marshal(agent.Thread())
	if err != nil {
		return nil, err
	}
	t.name, t.agent = agent.Name, string(raw)
	t.created, t.updated, t.archived = r.created, r.updated, r.archived
	t.consumed = r.consumed
	if r.children == 0 {
		return &t, nil
	}
	var others consumed
	err = tx.QueryRow(ctx, `SELECT CAST(SUM(input_tokens) AS BIGINT), CAST(SUM(output_tokens) AS BIGINT), CAST(SUM(cache_read_tokens) AS BIGINT), CAST(SUM(cache_write_tokens) AS BIGINT),
		CAST(SUM(cache_write_1h_tokens) AS BIGINT), CAST(SUM(web_searches) AS BIGINT), CAST(SUM(web_fetches) AS BIGINT), CAST(SUM(cost) AS BIGINT)
		FROM threads WHERE session_id = ?`, r.id).Scan(&others.inputTokens, &others.outputTokens, &others.cacheRead, &others.cacheWrite,
		&others.cacheWrite1h, &others.webSearches, &others.webFetches, &others.cost)
	if err != nil {
		return nil, fmt.Errorf("sum up the threads of session %s: %w", r.id, err)
	}
	t.consumed = r.without(others)
	return &t, nil
}

// startup is how many seconds a session took to begin running, 0 if it has not.
func (r *row) startup(ctx context.Context, tx db.Tx) (float64, error) {
	var began int64
	err := tx.QueryRow(ctx, "SELECT processed_at FROM events WHERE log_id = ? AND type = ? ORDER BY seq LIMIT 1", r.id, api.EventThreadStatusRunning).Scan(&began)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return float64(began-r.created) / 1e6, err
}

// wire is the thread on the wire, as of now. A thread that was made but not by
// the client began at once.
func (t *thread) wire(now time.Time, primaryID string) api.Thread {
	out := api.Thread{
		ID: t.id, Type: "session_thread", SessionID: t.sessionID, Agent: json.RawMessage(t.agent), Status: t.status,
		CreatedAt: at(t.created), UpdatedAt: at(t.updated),
	}
	if !t.primary() {
		out.ParentThreadID = &primaryID
	}
	end := now
	if t.archived.Valid {
		archived := at(t.archived.Int64)
		out.ArchivedAt = &archived
	}
	if t.status == api.SessionTerminated {
		end = at(t.updated)
	}
	usage := t.usage(now, t.active, t.runningSince)
	if t.status != api.SessionIdle || t.rested {
		out.Stats = &api.ThreadStats{ActiveSeconds: usage.ActiveSeconds, DurationSeconds: max(0, end.Sub(out.CreatedAt).Seconds())}
	}
	if t.rested {
		out.Usage = &usage
	}
	return out
}

// LogOf tells which log is a thread's, for Events and Subscribe.
func (s *Store) LogOf(ctx context.Context, workspaceID, sessionID, threadID string) (string, error) {
	t, err := s.Thread(ctx, workspaceID, sessionID, threadID)
	if err != nil {
		return "", err
	}
	if t.ParentThreadID == nil {
		return sessionID, nil
	}
	return threadID, nil
}

// ArchiveThread ends a thread of an agent the coordinator has called on, and
// keeps it readable. One that is running must be interrupted first. Repeating
// it is harmless.
func (s *Store) ArchiveThread(ctx context.Context, workspaceID, sessionID, id string) (api.Thread, error) {
	_, err := s.mutate(ctx, sessionID, func(m *mutation) error {
		if m.workspaceID != workspaceID {
			return api.NotFound("session", sessionID)
		}
		t, err := m.thread(id)
		switch {
		case err != nil:
			return err
		case t == nil:
			return api.NotFound("thread", id)
		case t.primary():
			return api.BadRequest("thread %s is the session's primary thread, which ends with its session; archive session %s", id, sessionID)
		case t.archived.Valid:
			return nil
		case t.status == api.SessionRunning || t.status == api.SessionRescheduling:
			return api.BadRequest("thread %s is %s and cannot be archived; send a user.interrupt with its session_thread_id and wait until it is idle", id, t.status)
		}
		t.archived = micros(m.now)
		if t.status == api.SessionTerminated {
			return nil
		}
		return m.on(t, func() error { return m.endThread(causeArchive) })
	})
	if err != nil {
		return api.Thread{}, err
	}
	return s.Thread(ctx, workspaceID, sessionID, id)
}

// endThread ends the thread for good: what it waits for is moot, what was sent
// to it is void, and interrupts have nothing left to stop.
func (m *mutation) endThread(c cause) error {
	t := m.t
	t.due, t.halted = sql.NullInt64{}, false
	t.release()
	if _, err := m.tx.Exec(m.ctx, "DELETE FROM deliveries WHERE log_id = ?", t.log()); err != nil {
		return err
	}
	if err := m.interruptCalls("The thread that made this call has ended. The call may have run in part."); err != nil {
		return err
	}
	t.setBlocking(nil)
	if err := m.takeInterrupts(); err != nil {
		return err
	}
	if err := m.change(c, api.StopReason{Type: api.StopEndTurn}, nil); err != nil {
		return err
	}
	return m.goOn()
}
