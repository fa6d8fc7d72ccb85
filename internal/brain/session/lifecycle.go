package session

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"hearth/api"
	"hearth/internal/db"
)

// CreateParams of a session. All in it is resolved and valid, except the
// initial events and the metadata, which Create checks.
type CreateParams struct {
	WorkspaceID     string
	Agent           api.SessionAgent
	EnvironmentID   string
	EnvironmentType string // api.EnvironmentSelfHosted or api.EnvironmentCloud
	Title           *string
	Metadata        map[string]string
	VaultIDs        []string
	Resources       []json.RawMessage
	ResourceTokens  map[string]string // sealed, by resource id
	MemoryStoreIDs  []string          // those among the resources
	InitialEvents   []json.RawMessage // user.message only
	Budget          json.RawMessage   // nil for none
	// ID, if it was chosen before, makes Create repeatable: the second time it
	// returns what the first has made.
	ID           string
	DeploymentID string // of the deployment that starts it, or ""
}

// Create makes a session: idle, or running when it has initial events.
func (s *Store) Create(ctx context.Context, p CreateParams) (api.Session, error) {
	inputs, err := s.check(ctx, p)
	if err != nil {
		return api.Session{}, err
	}
	fresh, err := newRow(p, s.now())
	if err != nil {
		return api.Session{}, err
	}
	if p.Budget != nil {
		if fresh.limit, err = parseBudget(p.Budget); err != nil {
			return api.Session{}, err
		}
		if err := s.budgetable(p.Agent); err != nil {
			return api.Session{}, err
		}
	}
	var r row
	err = s.db.Write(ctx, func(tx db.Tx) error {
		if there, err := existing(ctx, tx, p.ID, &r); err != nil || there {
			return err
		}
		r = *fresh
		if err := r.insert(ctx, tx); err != nil {
			return fmt.Errorf("create a session: %w", err)
		}
		for resource, sealed := range p.ResourceTokens {
			if err := setToken(ctx, tx, r.id, resource, sealed); err != nil {
				return fmt.Errorf("keep a token: %w", err)
			}
		}
		for _, store := range p.MemoryStoreIDs {
			if _, err := tx.Exec(ctx, "INSERT INTO session_memory_stores (memory_store_id, session_id) VALUES (?, ?)", store, r.id); err != nil {
				return fmt.Errorf("note the memory stores of a session: %w", err)
			}
		}
		m := s.mutation(ctx, tx, &r)
		m.happened = append(m.happened, api.Happened("session.created", r.id))
		for _, in := range inputs {
			if err := m.append(in.event, nil); err != nil {
				return err
			}
		}
		if len(inputs) > 0 {
			if err := m.start(); err != nil {
				return err
			}
		}
		return m.save()
	})
	if err != nil {
		return api.Session{}, err
	}
	return r.session(s.now())
}

// check checks what is not resolved yet, and parses the initial events.
func (s *Store) check(ctx context.Context, p CreateParams) (inputs []input, err error) {
	if len(p.InitialEvents) > 0 {
		if inputs, err = parseInputs("initial_events", p.InitialEvents, SenderClient); err != nil {
			return nil, err
		}
	}
	for _, in := range inputs {
		if t := in.event.Head().Type; !p.allowedAtFirst(t) {
			return nil, api.Invalid(in.path+".type", "%s is not allowed in initial_events, only user.message is", t)
		}
	}
	if err := checkTitle(p.Title); err != nil {
		return nil, err
	}
	if err := api.CheckMetadata(p.Metadata); err != nil {
		return nil, err
	}
	return inputs, s.checkFiles(ctx, p.WorkspaceID, filesOf(inputs))
}

func newRow(p CreateParams, now time.Time) (*row, error) {
	r := &row{
		id: cmp.Or(p.ID, api.NewID(api.PrefixSession)), deploymentID: sql.NullString{String: p.DeploymentID, Valid: p.DeploymentID != ""},
		workspaceID: p.WorkspaceID, environmentID: p.EnvironmentID, environmentType: p.EnvironmentType,
		primary: thread{id: api.NewID(api.PrefixThread), status: api.SessionIdle, blocking: "[]"}, agentID: p.Agent.ID, agentVersion: p.Agent.Version,
		status: api.SessionIdle, blocking: "[]", title: nullString(p.Title), created: now.UnixMicro(), updated: now.UnixMicro(),
	}
	r.primary.sessionID = r.id
	if p.Metadata == nil {
		p.Metadata = map[string]string{}
	}
	if p.VaultIDs == nil {
		p.VaultIDs = []string{}
	}
	if p.Resources == nil {
		p.Resources = []json.RawMessage{}
	}
	for _, part := range []struct {
		from any
		to   *string
	}{{p.Agent, &r.agent}, {p.Metadata, &r.metadata}, {p.VaultIDs, &r.vaultIDs}, {p.Resources, &r.resources}} {
		raw, err := json.Marshal(part.from)
		if err != nil {
			return nil, fmt.Errorf("encode a session: %w", err)
		}
		*part.to = string(raw)
	}
	return r, nil
}

func nullString(s *string) sql.NullString {
	if s == nil {
		return sql.NullString{}
	}
	return sql.NullString{String: *s, Valid: true}
}

// maxTitle bounds a title, in characters.
const maxTitle = 512

func checkTitle(title *string) error {
	if title != nil && utf8.RuneCountInString(*title) > maxTitle {
		return api.Invalid("title", "has %d characters, at most %d are allowed", utf8.RuneCountInString(*title), maxTitle)
	}
	return nil
}

// UpdateParams: nil fields stay. Title points to a nil pointer to clear it. A
// Metadata value of nil deletes its key. Budget is null to remove it.
type UpdateParams struct {
	Title    **string
	Metadata map[string]*string
	VaultIDs *[]string
	Budget   api.Optional[json.RawMessage]
	// Agent changes the session's agent, which must be idle for it. It is called
	// under the session's lock, maybe more than once.
	Agent func(*api.SessionAgent) error
}

// Update changes a session and logs session.updated with what changed. Agent and
// vaults change only while the session is idle. A budget that allows more lets
// turns go on that the one before had stopped.
func (s *Store) Update(ctx context.Context, workspaceID, id string, p UpdateParams) (api.Session, error) {
	if p.Title != nil {
		if err := checkTitle(*p.Title); err != nil {
			return api.Session{}, err
		}
	}
	r, err := s.mutate(ctx, id, func(m *mutation) error {
		if m.workspaceID != workspaceID {
			return api.NotFound("session", id)
		}
		if m.status == api.SessionTerminated {
			return api.Conflict("session %s is over and cannot be changed", id)
		}
		return m.update(p)
	})
	if err != nil {
		return api.Session{}, err
	}
	return r.session(s.now())
}

func (m *mutation) update(p UpdateParams) error {
	event := &api.SessionUpdatedEvent{EventHead: api.EventHead{Type: api.EventSessionUpdated}}
	changed := false
	if p.Title != nil && nullString(*p.Title) != m.title {
		m.title, event.Title, changed = nullString(*p.Title), p.Title, true
	}
	for _, part := range []func(UpdateParams, *api.SessionUpdatedEvent) (bool, error){m.updateMetadata, m.updateBudget, m.updateAgent} {
		also, err := part(p, event)
		if err != nil {
			return err
		}
		changed = changed || also
	}
	if p.VaultIDs != nil {
		raw, err := json.Marshal(*p.VaultIDs)
		if err != nil {
			return err
		}
		if string(raw) != m.vaultIDs {
			if m.status != api.SessionIdle {
				return api.Invalid("vault_ids", "can only be changed while the session is idle; it is %s", m.status)
			}
			m.vaultIDs, event.VaultIDs, changed = string(raw), *p.VaultIDs, true
		}
	}
	if !changed {
		return nil
	}
	_, err := m.tx.Exec(m.ctx, "UPDATE sessions SET title = ?, metadata = ?, agent = ?, vault_ids = ? WHERE id = ?", m.title, m.metadata, m.agent, m.vaultIDs, m.id)
	if err != nil {
		return fmt.Errorf("update session %s: %w", m.id, err)
	}
	if err := m.append(event, nil); err != nil {
		return err
	}
	return m.resume()
}

func (m *mutation) updateMetadata(p UpdateParams, event *api.SessionUpdatedEvent) (changed bool, err error) {
	if len(p.Metadata) == 0 {
		return false, nil
	}
	metadata := map[string]string{}
	if err := json.Unmarshal([]byte(m.metadata), &metadata); err != nil {
		return false, err
	}
	if err := api.MergeMetadata(metadata, p.Metadata); err != nil {
		return false, err
	}
	raw, err := json.Marshal(metadata)
	if err != nil || string(raw) == m.metadata {
		return false, err
	}
	m.metadata, event.Metadata = string(raw), metadata
	return true, nil
}

func (m *mutation) updateBudget(p UpdateParams, event *api.SessionUpdatedEvent) (changed bool, err error) {
	if !p.Budget.Set {
		return false, nil
	}
	if changed, err = m.setBudget(p.Budget); changed {
		event.Budget = m.budget()
	}
	return changed, err
}

func (m *mutation) updateAgent(p UpdateParams, event *api.SessionUpdatedEvent) (changed bool, err error) {
	if p.Agent == nil {
		return false, nil
	}
	if m.status != api.SessionIdle {
		return false, api.Invalid("agent", "tools and mcp_servers can only be changed while the session is idle; it is %s", m.status)
	}
	var agent api.SessionAgent
	if err := json.Unmarshal([]byte(m.agent), &agent); err != nil {
		return false, err
	}
	if err := p.Agent(&agent); err != nil {
		return false, err
	}
	raw, err := json.Marshal(agent)
	if err != nil || string(raw) == m.agent {
		return false, err
	}
	m.agent, event.Agent = string(raw), &agent
	return true, nil
}

// Archive terminates a session and keeps it readable. A session that is
// running must be interrupted first. Repeating it is harmless.
func (s *Store) Archive(ctx context.Context, workspaceID, id string) (api.Session, error) {
	r, err := s.mutate(ctx, id, func(m *mutation) error {
		if err := m.endable(workspaceID, "archived"); err != nil {
			return err
		}
		if m.archived.Valid {
			return nil
		}
		m.archived = micros(m.now)
		m.happened = append(m.happened, api.Happened("session.archived", id))
		return m.terminate(causeArchive)
	})
	if err != nil {
		return api.Session{}, err
	}
	return r.session(s.now())
}

// terminate ends a session for good, and the runs that may be thinking for it.
func (m *mutation) terminate(c cause) error {
	if err := m.loadLive(); err != nil {
		return err
	}
	if _, err := m.tx.Exec(m.ctx, "UPDATE tool_calls SET state = 'moot' WHERE session_id = ? AND state = 'open'", m.id); err != nil {
		return err
	}
	if err := m.store.queue.Retire(m.ctx, m.tx, m.id); err != nil {
		return err
	}
	for _, t := range append(m.inOrder(), &m.primary) {
		t.due, t.halted = sql.NullInt64{}, false
		t.release()
		t.setBlocking(nil)
		if t.status == api.SessionTerminated {
			continue
		}
		end := c
		if t.status == api.SessionRunning || t.status == api.SessionRescheduling {
			end = causeFatal
		}
		if err := m.on(t, func() error { return m.change(end, api.StopReason{}, nil) }); err != nil {
			return err
		}
	}
	return nil
}

func (m *mutation) endable(workspaceID, done string) error {
	if m.workspaceID != workspaceID {
		return api.NotFound("session", m.id)
	}
	if m.status == api.SessionRunning || m.status == api.SessionRescheduling {
		return api.BadRequest("session %s is %s and cannot be %s; send a user.interrupt and wait until it is idle", m.id, m.status, done)
	}
	return nil
}

// tombstoneLife is how long the last event of a deleted session is kept, for
// streams that have yet to deliver it.
const tombstoneLife = time.Hour

// Delete removes a session and its log; open streams end with session.deleted.
// A session that is running must be interrupted first.
func (s *Store) Delete(ctx context.Context, workspaceID, id string) error {
	_, err := s.mutate(ctx, id, func(m *mutation) error {
		if err := m.endable(workspaceID, "deleted"); err != nil {
			return err
		}
		if err := m.store.queue.Retire(m.ctx, m.tx, m.id); err != nil {
			return err
		}
		if err := m.loadLive(); err != nil {
			return err
		}
		m.deleted = micros(m.now)
		old := m.now.Add(-tombstoneLife).UnixMicro()
		for _, purge := range []struct {
			query string
			arg   any
		}{
			{"DELETE FROM events WHERE log_id = ?", m.id},
			{"DELETE FROM events WHERE log_id IN (SELECT id FROM threads WHERE session_id = ?)", m.id},
			{"DELETE FROM deliveries WHERE log_id = ?", m.id},
			{"DELETE FROM deliveries WHERE log_id IN (SELECT id FROM threads WHERE session_id = ?)", m.id},
			{"DELETE FROM tool_calls WHERE session_id = ?", m.id},
			{"DELETE FROM resource_tokens WHERE session_id = ?", m.id},
			{"DELETE FROM session_memory_stores WHERE session_id = ?", m.id},
			{"DELETE FROM events WHERE log_id IN (SELECT id FROM sessions WHERE deleted_at < ?)", old},
			{"DELETE FROM events WHERE log_id IN (SELECT threads.id FROM threads JOIN sessions ON sessions.id = session_id WHERE deleted_at < ?)", old},
			{"DELETE FROM threads WHERE session_id IN (SELECT id FROM sessions WHERE deleted_at < ?)", old},
			{"DELETE FROM sessions WHERE deleted_at < ?", old},
		} {
			if _, err := m.tx.Exec(ctx, purge.query, purge.arg); err != nil {
				return fmt.Errorf("delete session %s: %w", id, err)
			}
		}
		for _, t := range append(m.inOrder(), &m.primary) {
			t.due = sql.NullInt64{}
			t.release()
			if err := m.on(t, func() error { return m.append(marker(api.EventSessionDeleted), nil) }); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// Lock implements queue.Sessions.
func (s *Store) Lock(ctx context.Context, tx db.Tx, sessionID string) error {
	if tx.ForUpdate() == "" {
		return nil // there is one writer at a time
	}
	var id string
	err := tx.QueryRow(ctx, "SELECT id FROM sessions WHERE id = ?"+tx.ForUpdate(), sessionID).Scan(&id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("lock session %s: %w", sessionID, err)
	}
	return nil
}

// Demand implements queue.Sessions: the session waits for a call that hands may run.
func (s *Store) Demand(ctx context.Context, tx db.Tx, sessionID string) (bool, error) {
	calls, err := forHands(ctx, tx, sessionID)
	return len(calls) > 0, err
}

// forHands reads the calls that hands may run now.
func forHands(ctx context.Context, tx db.Tx, sessionID string) ([]Call, error) {
	calls, err := readCalls(ctx, tx, "session_id = ? AND state = 'open' ORDER BY thread_id, seq", sessionID)
	return slices.DeleteFunc(calls, func(c Call) bool { return !c.runnable() }), err
}

// Unfinished implements queue.Sessions: the log shows that a worker has left
// calls without an answer, so that one that runs a second time is on record.
func (s *Store) Unfinished(ctx context.Context, tx db.Tx, sessionID string, again bool) error {
	var r row
	err := tx.QueryRow(ctx, "SELECT "+columns+" FROM sessions WHERE id = ?"+tx.ForUpdate(), sessionID).Scan(r.fields()...)
	if err != nil {
		return fmt.Errorf("lock session %s: %w", sessionID, err)
	}
	calls, err := forHands(ctx, tx, sessionID)
	if err != nil {
		return err
	}
	failure := api.SessionError{Type: api.SessionErrorUnknown, Message: unanswered(calls), RetryStatus: api.RetryStatus{Type: api.RetryRetrying}}
	if again {
		failure.Message += " They are offered to the next worker; what had been begun may run a second time."
	} else {
		failure.RetryStatus.Type = api.RetryExhausted
		failure.Message += " So did those before it, and they are offered no more. Look at the workers' logs; a message has them offered again, an interrupt ends them."
	}
	m := s.mutation(ctx, tx, &r)
	if err := m.post(&api.SessionErrorEvent{EventHead: api.EventHead{Type: api.EventSessionError}, Error: failure}); err != nil {
		return err
	}
	return m.save()
}

// unanswered names the calls that a worker has left.
func unanswered(calls []Call) string {
	names := make([]string, len(calls))
	for i, c := range calls {
		names[i] = fmt.Sprintf("%s (%s)", c.ID, c.Name)
	}
	return "The worker of this session stopped or was lost before it had answered these calls: " + strings.Join(names, ", ") + "."
}
