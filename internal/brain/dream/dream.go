// Package dream keeps dreams: jobs that read a memory store and past sessions,
// to write a better ordered memory store. Nothing in it runs them; one that
// nobody has begun after a while has failed. It owns the tables dreams and
// dream_stores and may call db and session.
package dream

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"hearth/api"
	"hearth/internal/brain/session"
	"hearth/internal/db"
)

// The limits of dreams.
const (
	maxSessions     = 100
	maxInstructions = 4096
	maxModel        = 256
)

// startWithin is how long a dream waits to be begun. Until then it can be
// canceled; after it, it has failed.
const startWithin = 10 * time.Second

// notBegun is why a dream that nobody has begun has failed.
var notBegun = api.DreamError{
	Type:    "not_supported",
	Message: "this server keeps dreams and does not run them yet, so nothing was read and nothing was written; it says so under Divergences in its documentation",
}

// Memories looks up memory stores.
type Memories interface {
	// Resource fails for a store that is not there or archived.
	Resource(ctx context.Context, workspaceID, id string) (api.MemoryResource, error)
}

// Sessions looks up sessions.
type Sessions interface {
	PlaceOf(ctx context.Context, id string) (session.Place, error)
}

// Config is what a store needs.
type Config struct {
	DB       *db.DB
	Memories Memories // nil: there are no memory stores
	Sessions Sessions
}

// Store is every dream.
type Store struct {
	Config
	now func() time.Time
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the store and migrates its tables.
func New(ctx context.Context, cfg Config) (*Store, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := cfg.DB.Migrate(ctx, "dream", dir); err != nil {
		return nil, err
	}
	return &Store{cfg, time.Now}, nil
}

// Params are the fields of a request to create a dream.
type Params struct {
	Inputs         []input              `json:"inputs"`
	Model          api.Optional[model]  `json:"model"`
	Instructions   api.Optional[string] `json:"instructions"`
	OutputBehavior api.Optional[output] `json:"output_behavior"`
}

type input struct {
	Type          string   `json:"type"`
	MemoryStoreID string   `json:"memory_store_id"`
	SessionIDs    []string `json:"session_ids"`
}

type output struct {
	Type          string `json:"type"`
	MemoryStoreID string `json:"memory_store_id"`
}

// model is an id, or an object that has one.
type model struct {
	ID    string  `json:"id"`
	Speed *string `json:"speed"`
}

func (m *model) UnmarshalJSON(raw []byte) error {
	if raw[0] == '"' {
		return json.Unmarshal(raw, &m.ID)
	}
	type plain model
	return json.Unmarshal(raw, (*plain)(m))
}

// job is what a request asks for, checked as far as it can be without looking
// anything up.
type job struct {
	store    string
	sessions []string
	dream    api.Dream
}

func (p Params) job() (j job, err error) {
	if j.store, j.sessions, err = inputs(p.Inputs); err != nil {
		return j, err
	}
	if j.dream.Model, err = p.model(); err != nil {
		return j, err
	}
	if j.dream.OutputBehavior, err = p.output(j.store); err != nil {
		return j, err
	}
	if p.Instructions.Given() {
		if n := utf8.RuneCountInString(p.Instructions.Value); n == 0 || n > maxInstructions {
			return j, api.Invalid("instructions", "has %d characters, want 1 to %d", n, maxInstructions)
		}
	}
	j.dream.Instructions = p.Instructions.Pointer()
	for _, v := range []any{
		map[string]any{"type": api.DreamInputMemory, "memory_store_id": j.store},
		map[string]any{"type": api.DreamInputSessions, "session_ids": j.sessions},
	} {
		raw, err := json.Marshal(v)
		if err != nil {
			return j, err
		}
		j.dream.Inputs = append(j.dream.Inputs, raw)
	}
	return j, nil
}

// inputs finds the one store and the sessions, sorted.
func inputs(given []input) (store string, sessions []string, err error) {
	seen := map[string]bool{}
	for i, in := range given {
		field := fmt.Sprintf("inputs[%d].", i)
		switch {
		case in.Type != api.DreamInputMemory && in.Type != api.DreamInputSessions:
			return "", nil, api.Invalid(field+"type", "must be %s or %s, not %.40q", api.DreamInputMemory, api.DreamInputSessions, in.Type)
		case seen[in.Type]:
			return "", nil, api.Invalid(field+"type", "%s is given twice", in.Type)
		case in.Type == api.DreamInputMemory:
			if store = in.MemoryStoreID; store == "" {
				return "", nil, api.Invalid(field+"memory_store_id", "is required")
			}
		default:
			if sessions, err = sessionIDs(field+"session_ids", in.SessionIDs); err != nil {
				return "", nil, err
			}
		}
		seen[in.Type] = true
	}
	if len(seen) != 2 {
		return "", nil, api.Invalid("inputs", "must be one entry of the type %s and one of the type %s", api.DreamInputMemory, api.DreamInputSessions)
	}
	return store, sessions, nil
}

func sessionIDs(field string, ids []string) ([]string, error) {
	if n := len(ids); n == 0 || n > maxSessions {
		return nil, api.Invalid(field, "has %d ids, want 1 to %d", n, maxSessions)
	}
	sorted := slices.Sorted(slices.Values(ids))
	for i, id := range sorted {
		if id == "" {
			return nil, api.Invalid(field, "must hold ids of sessions, and no empty ones")
		}
		if i > 0 && id == sorted[i-1] {
			return nil, api.Invalid(field, "has %.80q twice", id)
		}
	}
	return sorted, nil
}

func (p Params) model() (api.DreamModel, error) {
	m := api.DreamModel{ID: p.Model.Value.ID}
	if !p.Model.Given() {
		return m, api.Invalid("model", "is required: a model's id, or an object with one")
	}
	if n := utf8.RuneCountInString(m.ID); n == 0 || n > maxModel {
		return m, api.Invalid("model.id", "has %d characters, want 1 to %d", n, maxModel)
	}
	if speed := p.Model.Value.Speed; speed != nil {
		if *speed != "standard" {
			return m, api.Invalid("model.speed", "must be standard, not %.40q", *speed)
		}
		m.Speed = *speed
	}
	return m, nil
}

func (p Params) output(store string) (api.DreamOutput, error) {
	if !p.OutputBehavior.Set {
		return api.DreamOutput{Type: api.DreamCreatesNew}, nil
	}
	o := p.OutputBehavior.Value
	switch {
	case o.Type == api.DreamCreatesNew:
		return api.DreamOutput{Type: o.Type}, nil
	case o.Type != api.DreamUpdatesExisting:
		return api.DreamOutput{}, api.Invalid("output_behavior.type", "must be %s or %s, not %.40q", api.DreamCreatesNew, api.DreamUpdatesExisting, o.Type)
	case o.MemoryStoreID != store:
		return api.DreamOutput{}, api.Invalid("output_behavior.memory_store_id", "must be the memory store in inputs, %.80q", store)
	}
	return api.DreamOutput{Type: o.Type, MemoryStoreID: store}, nil
}

// Create makes a dream that waits to be begun.
func (s *Store) Create(ctx context.Context, workspaceID string, p Params) (api.Dream, error) {
	j, err := p.job()
	if err != nil {
		return api.Dream{}, err
	}
	if err := s.find(ctx, workspaceID, j); err != nil {
		return api.Dream{}, err
	}
	d := j.dream
	d.ID, d.Type, d.Status = api.NewID(api.PrefixDream), "dream", api.DreamPending
	d.Outputs = []json.RawMessage{}
	d.CreatedAt = s.now().UTC().Truncate(time.Microsecond)
	raw, err := json.Marshal(d)
	if err != nil {
		return d, err
	}
	var updates *string
	if d.OutputBehavior.Type == api.DreamUpdatesExisting {
		updates = &j.store
	}
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		if updates != nil {
			if err := s.alone(ctx, tx, j.store); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "INSERT INTO dreams (id, workspace_id, status, updates_store, created_at, json) VALUES (?, ?, ?, ?, ?, ?)",
			d.ID, workspaceID, string(d.Status), updates, d.CreatedAt.UnixMicro(), string(raw))
		return err
	})
	return d, err
}

// find checks that what a dream reads is there.
func (s *Store) find(ctx context.Context, workspaceID string, j job) error {
	if s.Memories == nil {
		return api.NotFound("memory store", j.store)
	}
	if _, err := s.Memories.Resource(ctx, workspaceID, j.store); err != nil {
		return err
	}
	for _, id := range j.sessions {
		place, err := s.Sessions.PlaceOf(ctx, id)
		if err != nil {
			return err
		}
		if place.WorkspaceID != workspaceID {
			return api.NotFound("session", id)
		}
	}
	return nil
}

// alone fails when another dream may write to a store. Until the transaction
// ends, no other can begin to.
func (s *Store) alone(ctx context.Context, tx db.Tx, store string) error {
	if _, err := tx.Exec(ctx, "INSERT INTO dream_stores (memory_store_id) VALUES (?) ON CONFLICT (memory_store_id) DO NOTHING", store); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, "SELECT memory_store_id FROM dream_stores WHERE memory_store_id = ?"+tx.ForUpdate(), store).Scan(&store); err != nil {
		return err
	}
	var other string
	err := tx.QueryRow(ctx, "SELECT id FROM dreams WHERE updates_store = ? AND (status = ? OR status = ? AND created_at > ?) LIMIT 1",
		store, string(api.DreamRunning), string(api.DreamPending), s.overdue()).Scan(&other)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return api.Conflict("output_behavior: dream %s already updates memory store %s; wait until it has ended, or cancel it", other, store)
}

// overdue is when a dream was created that should have begun by now, in
// microseconds since 1970.
func (s *Store) overdue() int64 { return s.now().Add(-startWithin).UnixMicro() }

// Get returns a dream.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (d api.Dream, err error) {
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		d, err = s.get(ctx, tx, workspaceID, id, "")
		return err
	})
	return d, err
}

func (s *Store) get(ctx context.Context, tx db.Tx, workspaceID, id, lock string) (d api.Dream, err error) {
	var raw string
	err = tx.QueryRow(ctx, "SELECT json FROM dreams WHERE id = ? AND workspace_id = ?"+lock, id, workspaceID).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return d, api.NotFound("dream", id)
	}
	if err != nil {
		return d, fmt.Errorf("read dream %s: %w", id, err)
	}
	err = json.Unmarshal([]byte(raw), &d)
	return s.asOfNow(d), err
}

// asOfNow is a dream as it is once its time to begin is over. Nothing has to
// write that down, so no server has to be there for it.
func (s *Store) asOfNow(d api.Dream) api.Dream {
	if d.Status == api.DreamPending && d.CreatedAt.UnixMicro() <= s.overdue() {
		ended := d.CreatedAt.Add(startWithin)
		d.Status, d.EndedAt, d.Error = api.DreamFailed, &ended, &notBegun
	}
	return d
}

// Query says which page of dreams to list.
type Query struct {
	WorkspaceID   string
	Statuses      []string  // none: all
	After, Before time.Time // when created, exclusive; zero: whenever
	Archived      bool
	Beyond        string // the last id of the page before, "" for the first
	Limit         int
}

// List returns a page of dreams, newest first, and whether more follow.
func (s *Store) List(ctx context.Context, q Query) (list []api.Dream, more bool, err error) {
	query, args := "SELECT json FROM dreams WHERE workspace_id = ?", []any{q.WorkspaceID}
	and := func(condition string, values ...any) { query, args = query+" AND "+condition, append(args, values...) }
	if q.Beyond != "" {
		and("id < ?", q.Beyond)
	}
	if !q.Archived {
		and("archived_at IS NULL")
	}
	if !q.After.IsZero() {
		and("created_at > ?", q.After.UnixMicro())
	}
	if !q.Before.IsZero() {
		and("created_at < ?", q.Before.UnixMicro())
	}
	if len(q.Statuses) > 0 {
		condition, values, err := s.inStatus(q.Statuses)
		if err != nil {
			return nil, false, err
		}
		and("("+condition+")", values...)
	}
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		list, err = db.Objects[api.Dream](tx.Query(ctx, query+" ORDER BY id DESC LIMIT ?", append(args, q.Limit+1)...))
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("list dreams: %w", err)
	}
	for i, d := range list {
		list[i] = s.asOfNow(d)
	}
	if len(list) > q.Limit {
		return list[:q.Limit], true, nil
	}
	return list, false, nil
}

// inStatus is the condition for dreams that have one of the statuses now.
func (s *Store) inStatus(statuses []string) (condition string, args []any, err error) {
	known := []string{string(api.DreamPending), string(api.DreamRunning), string(api.DreamCompleted), string(api.DreamFailed), string(api.DreamCanceled)}
	var clauses []string
	for _, status := range statuses {
		switch {
		case !slices.Contains(known, status):
			return "", nil, api.Invalid("statuses[]", "must be one of %s, not %.40q", strings.Join(known, ", "), status)
		case status == string(api.DreamPending):
			clauses, args = append(clauses, "status = ? AND created_at > ?"), append(args, status, s.overdue())
		case status == string(api.DreamFailed):
			clauses, args = append(clauses, "status = ? OR status = ? AND created_at <= ?"), append(args, status, string(api.DreamPending), s.overdue())
		default:
			clauses, args = append(clauses, "status = ?"), append(args, status)
		}
	}
	return strings.Join(clauses, " OR "), args, nil
}

// Cancel ends a dream that has not ended. Repeating it is harmless.
func (s *Store) Cancel(ctx context.Context, workspaceID, id string) (api.Dream, error) {
	return s.change(ctx, workspaceID, id, func(d *api.Dream, now time.Time) error {
		if d.Status == api.DreamCanceled {
			return nil
		}
		if d.Status.Ended() {
			return api.BadRequest("dream %s has ended as %s and cannot be canceled", id, d.Status)
		}
		d.Status, d.EndedAt = api.DreamCanceled, &now
		return nil
	})
}

// Archive hides a dream that has ended from lists, for good. Repeating it is
// harmless.
func (s *Store) Archive(ctx context.Context, workspaceID, id string) (api.Dream, error) {
	return s.change(ctx, workspaceID, id, func(d *api.Dream, now time.Time) error {
		if !d.Status.Ended() {
			return api.BadRequest("dream %s is %s and cannot be archived; cancel it first", id, d.Status)
		}
		if d.ArchivedAt == nil {
			d.ArchivedAt = &now
		}
		return nil
	})
}

func (s *Store) change(ctx context.Context, workspaceID, id string, fn func(*api.Dream, time.Time) error) (d api.Dream, err error) {
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		if d, err = s.get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		if err := fn(&d, s.now().UTC().Truncate(time.Microsecond)); err != nil {
			return err
		}
		raw, err := json.Marshal(d)
		if err != nil {
			return err
		}
		var archived sql.NullInt64
		if d.ArchivedAt != nil {
			archived = sql.NullInt64{Int64: d.ArchivedAt.UnixMicro(), Valid: true}
		}
		_, err = tx.Exec(ctx, "UPDATE dreams SET status = ?, archived_at = ?, json = ? WHERE id = ?", string(d.Status), archived, string(raw), id)
		return err
	})
	return d, err
}
