// Package session keeps sessions: their event logs, the state machine that
// alone may change their status, the tool calls that wait for answers, and the
// fan-out to subscribers. It owns the tables sessions, events and tool_calls
// and may call queue and db.
package session

import (
	"context"
	"encoding/json"
	"time"

	"hearth/api"
	"hearth/internal/brain/queue"
	"hearth/internal/db"
)

// Config of a Store.
type Config struct {
	DB *db.DB
	// RunTTL is how long a run lease lasts without being renewed. Default 30 s.
	RunTTL time.Duration
}

// Store is every session.
type Store struct{}

// New makes the store and migrates its tables. UseQueue must be called before
// sessions are created.
func New(ctx context.Context, cfg Config) (*Store, error) { panic("stub") }

// UseQueue tells the store where activations are offered.
func (s *Store) UseQueue(q *queue.Queue) { panic("stub") }

// Demand implements queue.Demand: the session waits for a runnable call of a
// hands tool.
func (s *Store) Demand(ctx context.Context, tx db.Tx, sessionID string) (bool, error) {
	panic("stub")
}

// GiveUp implements queue.Config.OnGiveUp: a visible session.error.
func (s *Store) GiveUp(ctx context.Context, tx db.Tx, sessionID string) error { panic("stub") }

// CreateParams of a session; everything in it is resolved and valid except the
// initial events, which Create validates as Send does.
type CreateParams struct {
	WorkspaceID     string
	Agent           api.SessionAgent
	EnvironmentID   string
	EnvironmentType string // api.EnvironmentSelfHosted or api.EnvironmentCloud
	Title           *string
	Metadata        map[string]string
	VaultIDs        []string
	Resources       []json.RawMessage
	InitialEvents   []json.RawMessage
}

// Create makes a session: idle, or running when it has initial events (user.message only).
func (s *Store) Create(ctx context.Context, p CreateParams) (api.Session, error) { panic("stub") }

// Get returns a session; a deleted one is not found.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (api.Session, error) {
	panic("stub")
}

// EnvironmentOf returns the environment a session acts in, for authorisation.
func (s *Store) EnvironmentOf(ctx context.Context, id string) (environmentID string, err error) {
	panic("stub")
}

// Filter selects sessions. Zero fields select all.
type Filter struct {
	WorkspaceID     string
	AgentID         string
	AgentVersion    int64
	Statuses        []api.SessionStatus
	CreatedAfter    Bound
	CreatedBefore   Bound
	IncludeArchived bool
	Ascending       bool
	Limit           int
	// Cursor is the (created_at, id) of the row next to the page: the page
	// holds rows strictly after it in the order, or before it when Backwards.
	CursorTime time.Time
	CursorID   string
	Backwards  bool
}

// Bound is one end of a time range; a zero Time is no bound.
type Bound struct {
	Time      time.Time
	Inclusive bool
}

// List returns a page of sessions in the order asked, and whether more follow
// beyond it in the direction of travel.
func (s *Store) List(ctx context.Context, f Filter) (sessions []api.Session, more bool, err error) {
	panic("stub")
}

// UpdateParams: nil fields stay. A Metadata value of nil deletes its key. Title
// points to a nil pointer to clear it.
type UpdateParams struct {
	Title      **string
	Metadata   map[string]*string
	Tools      *[]api.Tool
	MCPServers *[]api.MCPServer
	VaultIDs   *[]string
}

// Update changes a session and logs session.updated with what changed. Tools
// and servers change only while the session is not running.
func (s *Store) Update(ctx context.Context, workspaceID, id string, p UpdateParams) (api.Session, error) {
	panic("stub")
}

// Archive terminates a session and keeps it readable. A running session is a
// conflict; repeating it is harmless.
func (s *Store) Archive(ctx context.Context, workspaceID, id string) (api.Session, error) {
	panic("stub")
}

// Delete removes a session and its log; open streams end with session.deleted.
// A running session is a conflict.
func (s *Store) Delete(ctx context.Context, workspaceID, id string) error { panic("stub") }

// Sender is who sends events.
type Sender int

// SenderClient holds an API key; SenderWorker an environment key or sessions
// token, and may send only tool results.
const (
	SenderClient Sender = iota
	SenderWorker
)

// Send validates and appends clients' events, all or nothing, and returns them
// as stored. An identical tool result sent again is answered with the first.
func (s *Store) Send(ctx context.Context, id string, from Sender, events []json.RawMessage) ([]json.RawMessage, error) {
	panic("stub")
}

// EventFilter selects events of one session.
type EventFilter struct {
	Types         []api.EventType
	After, Before Bound // by processed_at
	Descending    bool
	Limit         int
	CursorSeq     int64 // events strictly beyond it in the order; 0 for none
}

// StoredEvent is an event as the log holds it. JSON is the wire form.
type StoredEvent struct {
	Seq  int64
	ID   string
	Type api.EventType
	JSON json.RawMessage
}

// Events returns a page of a session's log, in order, and whether more follow.
func (s *Store) Events(ctx context.Context, id string, f EventFilter) (events []StoredEvent, more bool, err error) {
	panic("stub")
}

// Subscription is a live view of one session's log.
type Subscription struct{}

// Subscribe opens a live view from now on, or, when afterID names an event of
// the log, from the event after it. It delivers every later event at least once, in order.
func (s *Store) Subscribe(ctx context.Context, id, afterID string) (*Subscription, error) {
	panic("stub")
}

// Next waits for what comes next: stored events, or previews (JSON only, no
// Seq), which are best effort. It returns io.EOF after the session's last event.
func (sub *Subscription) Next(ctx context.Context) ([]StoredEvent, error) { panic("stub") }

// Close ends the subscription.
func (sub *Subscription) Close() { panic("stub") }

// Preview fans out a preview (event_start, event_delta) to subscribers, here
// and in other processes, best effort.
func (s *Store) Preview(sessionID string, v any) { panic("stub") }

// --- the brain's side: runs ---

// Run is a lease on thinking for one session. Every write through it carries
// its epoch and fails with ErrStale once another run has begun.
type Run struct {
	SessionID string
	Epoch     int64
}

// Due is signalled when some session may have become due, by this process or another.
func (s *Store) Due() (wake <-chan struct{}, cancel func()) { panic("stub") }

// NextDue says when the earliest delayed session is due; zero when none is.
func (s *Store) NextDue(ctx context.Context) (time.Time, error) { panic("stub") }

// Claim leases the session that is due longest and that no live run holds; nil when none is.
func (s *Store) Claim(ctx context.Context, owner string) (*Run, error) { panic("stub") }

// Renew extends the lease.
func (r *Run) Renew(ctx context.Context) error { panic("stub") }

// Release gives the lease back without having done anything; the session is
// due again at the given time, or, when zero, only once something happens.
func (r *Run) Release(ctx context.Context, at time.Time) error { panic("stub") }

// Interrupts is signalled when an interrupt may have been queued for the session.
func (r *Run) Interrupts() (signal <-chan struct{}, cancel func()) { panic("stub") }

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

// LogEvent is an event with what only the brain sees of it.
type LogEvent struct {
	StoredEvent
	Event api.Event
	// Private is what the model adapter stored with the event, such as the
	// text and signature of thinking. Clients never see it.
	Private json.RawMessage
}

// Snapshot reads the session.
func (r *Run) Snapshot(ctx context.Context) (*Snapshot, error) { panic("stub") }

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
	Permission string // allow or ask, as evaluated; ask becomes allow once confirmed
	Confirmed  bool
}

// Draft is an event the loop wants logged. Event is one of the api event
// structs by pointer; its head is filled in where empty.
type Draft struct {
	Event   any
	Private json.RawMessage
	// Call is set when the event opens a call.
	Call *Call
}

// BeginRequest takes the inbox (messages, not interrupts) into the log, makes
// the session running if it is not, ends a span that a dead run left open, and
// logs span.model_request_start, whose id it returns.
func (r *Run) BeginRequest(ctx context.Context) (spanID string, err error) { panic("stub") }

// Completion is how a model request ended well.
type Completion struct {
	SpanID string
	Drafts []Draft
	Usage  api.ModelUsage
	// Stop is why the turn ends, unless calls are open or the inbox is not
	// empty. Zero means end_turn. Continue asks for another request at once
	// (for a call that was denied, say).
	Stop        string
	StopDetails *api.RefusalDetails
	Continue    bool
}

// CompleteRequest logs what a request brought, with its span and usage, moves
// the session to where it now stands (waiting for answers, idle, or still
// running when more is to be done) and releases the run.
func (r *Run) CompleteRequest(ctx context.Context, c Completion) error { panic("stub") }

// FailRequest logs a failed request. With retry status retrying the session is
// rescheduled and due at retryAt; exhausted ends the turn; terminal the session.
// It releases the run.
func (r *Run) FailRequest(ctx context.Context, spanID string, e api.SessionError, retryAt time.Time) error {
	panic("stub")
}

// ApplyInterrupt takes the queued interrupts into the log: open calls become
// moot, what the model had said so far is kept, the span (if one is open) ends,
// and the session goes idle with end_turn, or on to the messages that came
// after the interrupt. It releases the run.
func (r *Run) ApplyInterrupt(ctx context.Context, spanID string, partial []Draft, usage api.ModelUsage) error {
	panic("stub")
}
