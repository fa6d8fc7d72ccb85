// Package session keeps sessions: their event logs, the state machine that
// alone may change their status, the tool calls that wait for answers, and the
// fan-out to subscribers. A session has one thread or more, each with its own
// log and its own run. It owns the tables sessions, threads, events, deliveries,
// tool_calls, resource_tokens and session_memory_stores and may call queue, price, outbox and
// db.
package session

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"hearth/api"
	"hearth/internal/brain/outbox"
	"hearth/internal/brain/price"
	"hearth/internal/db"
)

// Offerer is where a session that needs hands is offered: the work queue.
type Offerer interface {
	Offer(ctx context.Context, tx db.Tx, environmentID, sessionID string, progress bool) error
	Retire(ctx context.Context, tx db.Tx, sessionID string) error
}

// Config of a Store.
type Config struct {
	DB *db.DB
	// RunTTL is how long a run lease lasts without being renewed. Default 15 s.
	RunTTL time.Duration
	// Prices are the list prices that requests are counted at. Default
	// price.Default().
	Prices *price.Table
	// Alone tells that no other server uses the database. Runs that are held are
	// then those of an earlier life, and end at once.
	Alone bool
}

// Store is every session.
type Store struct {
	db     *db.DB
	runTTL time.Duration
	queue  Offerer
	prices *price.Table
	now    func() time.Time
	recent *recent
	files  Files // nil where there are none
	outbox.Sender
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the store and migrates its tables. UseQueue must be called before
// sessions are created.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.RunTTL == 0 {
		cfg.RunTTL = 15 * time.Second
	}
	if cfg.Prices == nil {
		cfg.Prices = price.Default()
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := cfg.DB.Migrate(ctx, "session", dir); err != nil {
		return nil, err
	}
	s := &Store{db: cfg.DB, runTTL: cfg.RunTTL, prices: cfg.Prices, now: time.Now, recent: newRecent()}
	if cfg.Alone {
		err = s.db.Write(ctx, func(tx db.Tx) error {
			for _, table := range []string{"sessions", "threads"} {
				if _, err := tx.Exec(ctx, "UPDATE "+table+" SET run_until = 0 WHERE run_until IS NOT NULL"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("end the runs of an earlier life: %w", err)
	}
	return s, nil
}

// UseQueue tells the store where sessions are offered. Queue and store need
// each other, so one of them is told late.
func (s *Store) UseQueue(q Offerer) { s.queue = q }

// row is a row of sessions: the session, and its primary thread.
type row struct {
	id, workspaceID, environmentID, environmentType string
	primary                                         thread
	agentID                                         string
	agentVersion                                    int64
	status                                          api.SessionStatus // what the threads' statuses come to
	blocking                                        string            // JSON array of the call ids that one thread or another waits for
	title                                           sql.NullString
	agent, metadata, vaultIDs, resources            string // JSON
	created, updated                                int64
	archived, deleted                               sql.NullInt64
	runningSince                                    sql.NullInt64
	active                                          int64 // microseconds spent running, the current stretch not included
	children                                        int64 // how many threads were made besides the primary one
	spending
	deploymentID sql.NullString // of the deployment that has started it
}

const columns = `id, workspace_id, environment_id, environment_type, thread_id, agent_id, agent_version, status, blocking, title, agent, metadata,
	vault_ids, resources, created_at, updated_at, archived_at, deleted_at, seq, epoch, due_at, run_until, span_id, failures, running_since, active,
	thread_status, thread_blocking, thread_running_since, thread_active, halted, rested, held, children, deployment_id, ` + spendingColumns

func (r *row) fields() []any {
	return append([]any{sessionID{r}, &r.workspaceID, &r.environmentID, &r.environmentType, &r.primary.id, &r.agentID, &r.agentVersion, &r.status, &r.blocking, &r.title, &r.agent, &r.metadata,
		&r.vaultIDs, &r.resources, &r.created, &r.updated, &r.archived, &r.deleted, &r.primary.seq, &r.primary.epoch, &r.primary.due, &r.primary.runUntil, &r.primary.spanID, &r.primary.failures, &r.runningSince, &r.active,
		&r.primary.status, &r.primary.blocking, &r.primary.runningSince, &r.primary.active,
		boolean{&r.primary.halted}, boolean{&r.primary.rested}, boolean{&r.primary.held}, &r.children, &r.deploymentID}, r.spending.fields()...)
}

// sessionID is the id of a session, which is also the id of its primary
// thread's log.
type sessionID struct{ to *row }

// Scan implements sql.Scanner.
func (s sessionID) Scan(from any) error {
	id, ok := from.(string)
	if !ok {
		return fmt.Errorf("the id of a session is a text, not a %T", from)
	}
	s.to.id, s.to.primary.sessionID = id, id
	return nil
}

func (r *row) insert(ctx context.Context, tx db.Tx) error {
	const marks = "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, " + spendingMarks
	_, err := tx.Exec(ctx, "INSERT INTO sessions ("+columns+") VALUES ("+marks+")",
		append([]any{r.id, r.workspaceID, r.environmentID, r.environmentType, r.primary.id, r.agentID, r.agentVersion, r.status, r.blocking, r.title, r.agent, r.metadata,
			r.vaultIDs, r.resources, r.created, r.updated, r.archived, r.deleted, r.primary.seq, r.primary.epoch, r.primary.due, r.primary.runUntil, r.primary.spanID, r.primary.failures, r.runningSince, r.active,
			r.primary.status, r.primary.blocking, r.primary.runningSince, r.primary.active,
			number(r.primary.halted), number(r.primary.rested), number(r.primary.held), r.children, r.deploymentID}, r.spending.values()...)...)
	return err
}

// save writes back the columns that change as a session lives; those a client
// sets are written by Update.
func (r *row) save(ctx context.Context, tx db.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE sessions SET status = ?, blocking = ?, updated_at = ?, archived_at = ?, deleted_at = ?, seq = ?, epoch = ?, due_at = ?, run_until = ?,
		span_id = ?, failures = ?, running_since = ?, active = ?,
		thread_status = ?, thread_blocking = ?, thread_running_since = ?, thread_active = ?, halted = ?, rested = ?, held = ?, children = ?, `+spendingSet+` WHERE id = ?`,
		slices.Concat([]any{r.status, r.blocking, r.updated, r.archived, r.deleted, r.primary.seq, r.primary.epoch, r.primary.due, r.primary.runUntil,
			r.primary.spanID, r.primary.failures, r.runningSince, r.active,
			r.primary.status, r.primary.blocking, r.primary.runningSince, r.primary.active, number(r.primary.halted), number(r.primary.rested), number(r.primary.held), r.children}, r.spending.values(), []any{r.id})...)
	if err != nil {
		return fmt.Errorf("save session %s: %w", r.id, err)
	}
	return nil
}

// session is the row on the wire, as of now.
func (r *row) session(now time.Time) (api.Session, error) {
	out := api.Session{
		ID: r.id, Type: "session", Status: r.status, EnvironmentID: r.environmentID,
		Budget: r.budget(), OutcomeEvaluations: []json.RawMessage{}, Usage: r.usage(now, r.active, r.runningSince),
		CreatedAt: at(r.created), UpdatedAt: at(r.updated),
	}
	if r.title.Valid {
		out.Title = &r.title.String
	}
	if r.deploymentID.Valid {
		out.DeploymentID = &r.deploymentID.String
	}
	end := now
	if r.status == api.SessionTerminated {
		end = at(r.updated)
	}
	if r.archived.Valid {
		end = at(r.archived.Int64)
		out.ArchivedAt = &end
	}
	out.Stats = api.SessionStats{ActiveSeconds: out.Usage.ActiveSeconds, DurationSeconds: max(0, end.Sub(out.CreatedAt).Seconds())}
	for _, part := range []struct {
		raw string
		to  any
	}{{r.agent, &out.Agent}, {r.metadata, &out.Metadata}, {r.vaultIDs, &out.VaultIDs}, {r.resources, &out.Resources}} {
		if err := json.Unmarshal([]byte(part.raw), part.to); err != nil {
			return api.Session{}, fmt.Errorf("decode session %s: %w", r.id, err)
		}
	}
	return out, nil
}

func at(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

func micros(t time.Time) sql.NullInt64 { return sql.NullInt64{Int64: t.UnixMicro(), Valid: true} }

// topic is notified with the highest seq of a log when it has grown, and with a
// preview, a JSON object, while an event is being written.
func topic(logID string) string { return "session:" + logID }

// dueTopic is notified when some thread has become due.
const dueTopic = "sessions:due"

// Get returns a session; a deleted one is not found.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (api.Session, error) {
	r, err := s.read(ctx, id)
	if err != nil {
		return api.Session{}, err
	}
	if r.workspaceID != workspaceID {
		return api.Session{}, api.NotFound("session", id)
	}
	return r.session(s.now())
}

// Place is where a session belongs, for authorisation.
type Place struct{ WorkspaceID, EnvironmentID string }

// PlaceOf tells where a session belongs.
func (s *Store) PlaceOf(ctx context.Context, id string) (Place, error) {
	var p Place
	err := s.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, "SELECT workspace_id, environment_id FROM sessions WHERE id = ? AND deleted_at IS NULL", id).Scan(&p.WorkspaceID, &p.EnvironmentID)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return p, api.NotFound("session", id)
	}
	if err != nil {
		return p, fmt.Errorf("read session %s: %w", id, err)
	}
	return p, nil
}

// Exists tells whether there is such a session, deleted ones aside.
func (s *Store) Exists(ctx context.Context, id string) (bool, error) {
	_, err := s.PlaceOf(ctx, id)
	var wire *api.Error
	if errors.As(err, &wire) {
		return false, nil
	}
	return err == nil, err
}

func (s *Store) read(ctx context.Context, id string) (*row, error) {
	var r row
	err := s.db.Read(ctx, func(tx db.Tx) error {
		return tx.QueryRow(ctx, "SELECT "+columns+" FROM sessions WHERE id = ? AND deleted_at IS NULL", id).Scan(r.fields()...)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, api.NotFound("session", id)
	}
	if err != nil {
		return nil, fmt.Errorf("read session %s: %w", id, err)
	}
	return &r, nil
}

// Filter selects sessions. Zero fields select all.
type Filter struct {
	WorkspaceID     string
	EnvironmentID   string
	AgentID         string
	AgentVersion    int64
	MemoryStoreID   string
	DeploymentID    string
	Statuses        []api.SessionStatus
	CreatedAfter    Bound
	CreatedBefore   Bound
	IncludeArchived bool
	Ascending       bool
	Limit           int
	// CursorTime and CursorID name the row next to the page: the page holds
	// rows strictly after it in the order, or before it when Backwards.
	CursorTime time.Time
	CursorID   string
	Backwards  bool
}

// Bound is one end of a time range; a zero Time is no bound.
type Bound struct {
	Time      time.Time
	Inclusive bool
}

// conditions collects the parts of a WHERE clause.
type conditions struct {
	sql  string
	args []any
}

func (c *conditions) add(sql string, args ...any) {
	c.sql += " AND " + sql
	c.args = append(c.args, args...)
}

func (c *conditions) bound(column, operator string, b Bound) {
	if b.Time.IsZero() {
		return
	}
	if b.Inclusive {
		operator += "="
	}
	c.add(column+" "+operator+" ?", b.Time.UnixMicro())
}

func (c *conditions) in(column string, values []any) {
	if len(values) == 0 {
		return
	}
	marks := ""
	for range values {
		marks += ", ?"
	}
	c.add(column+" IN ("+marks[2:]+")", values...)
}

// List returns a page of sessions in the order asked, and whether more lie
// beyond it in the direction of travel.
func (s *Store) List(ctx context.Context, f Filter) (sessions []api.Session, more bool, err error) {
	c := conditions{sql: "workspace_id = ? AND deleted_at IS NULL", args: []any{f.WorkspaceID}}
	if !f.IncludeArchived {
		c.add("archived_at IS NULL")
	}
	if f.EnvironmentID != "" {
		c.add("environment_id = ?", f.EnvironmentID)
	}
	if f.AgentID != "" {
		c.add("agent_id = ?", f.AgentID)
	}
	if f.AgentVersion != 0 {
		c.add("agent_version = ?", f.AgentVersion)
	}
	if f.MemoryStoreID != "" {
		c.add("id IN (SELECT session_id FROM session_memory_stores WHERE memory_store_id = ?)", f.MemoryStoreID)
	}
	if f.DeploymentID != "" {
		c.add("deployment_id = ?", f.DeploymentID)
	}
	c.in("status", anys(f.Statuses))
	c.bound("created_at", ">", f.CreatedAfter)
	c.bound("created_at", "<", f.CreatedBefore)
	direction, operator := "ASC", ">"
	if f.Ascending == f.Backwards {
		direction, operator = "DESC", "<"
	}
	if f.CursorID != "" {
		c.add("(created_at, id) "+operator+" (?, ?)", f.CursorTime.UnixMicro(), f.CursorID)
	}
	query := "SELECT " + columns + " FROM sessions WHERE " + c.sql + " ORDER BY created_at " + direction + ", id " + direction + " LIMIT ?"
	now := s.now()
	err = s.db.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, query, append(c.args, f.Limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r row
			if err := rows.Scan(r.fields()...); err != nil {
				return err
			}
			one, err := r.session(now)
			if err != nil {
				return err
			}
			sessions = append(sessions, one)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, false, fmt.Errorf("list sessions: %w", err)
	}
	if more = len(sessions) > f.Limit; more {
		sessions = sessions[:f.Limit]
	}
	if f.Backwards {
		slices.Reverse(sessions)
	}
	return sessions, more, nil
}

func anys[T any](values []T) []any {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = v
	}
	return out
}
