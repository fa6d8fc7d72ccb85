// Package agent keeps agents: versioned, immutable configurations of who
// thinks, with which tools. It owns the tables agents and agent_versions and
// may call db, outbox and skill.
package agent

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"hearth/api"
	"hearth/internal/brain/outbox"
	"hearth/internal/brain/skill"
	"hearth/internal/db"
)

// Store is every agent.
type Store struct {
	db     *db.DB
	now    func() time.Time
	skills *skill.Store // nil for no check of skills
	outbox.Sender
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the store and migrates its tables.
func New(ctx context.Context, d *db.DB) (*Store, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := d.Migrate(ctx, "agent", dir); err != nil {
		return nil, err
	}
	return &Store{db: d, now: time.Now}, nil
}

// UseSkills has the skills of agents checked against those that are kept.
func (s *Store) UseSkills(skills *skill.Store) { s.skills = skills }

// checkSkills checks that the skills asked for are there.
func (s *Store) checkSkills(ctx context.Context, workspaceID string, p Params) error {
	if s.skills == nil || !p.Skills.Given() {
		return nil
	}
	if err := checkSkills(p.Skills.Value); err != nil {
		return err
	}
	return s.skills.Check(ctx, workspaceID, p.Skills.Value)
}

// Create makes an agent, at version 1.
func (s *Store) Create(ctx context.Context, workspaceID string, p Params) (api.Agent, error) {
	now := s.now().UTC().Truncate(time.Microsecond)
	a := api.Agent{
		ID: api.NewID(api.PrefixAgent), Type: "agent", Version: 1, CreatedAt: now, UpdatedAt: now,
		Tools: []api.Tool{}, MCPServers: []api.MCPServer{}, Skills: []api.Skill{}, Metadata: map[string]string{},
		Multiagent: json.RawMessage("null"), ExecutionIdentity: json.RawMessage(`{"type":"service_account"}`),
	}
	if !p.Name.Given() {
		return a, api.Invalid("name", "is required")
	}
	if !p.Model.Given() {
		return a, api.Invalid("model", "is required")
	}
	if err := p.apply(&a); err != nil {
		return a, err
	}
	if err := s.checkSkills(ctx, workspaceID, p); err != nil {
		return a, err
	}
	err := s.db.Write(ctx, func(tx db.Tx) error {
		if err := p.applyRoster(ctx, tx, workspaceID, &a); err != nil {
			return err
		}
		raw, err := json.Marshal(a)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO agents (id, workspace_id, version, created_at, json) VALUES (?, ?, ?, ?, ?)", a.ID, workspaceID, a.Version, now.UnixMicro(), string(raw))
		if err != nil {
			return err
		}
		if err := insertVersion(ctx, tx, a, raw); err != nil {
			return err
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened("agent.created", a.ID))
	})
	var refused *api.Error
	if err != nil && !errors.As(err, &refused) {
		return a, fmt.Errorf("create an agent: %w", err)
	}
	if err != nil {
		return a, err
	}
	return a, nil
}

func insertVersion(ctx context.Context, tx db.Tx, a api.Agent, raw []byte) error {
	_, err := tx.Exec(ctx, "INSERT INTO agent_versions (agent_id, version, json) VALUES (?, ?, ?)", a.ID, a.Version, string(raw))
	return err
}

// Get returns an agent at a version, or at its latest when version is 0.
func (s *Store) Get(ctx context.Context, workspaceID, id string, version int64) (a api.Agent, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		a, err = getVersion(ctx, tx, workspaceID, id, version)
		return err
	})
	return a, err
}

func getVersion(ctx context.Context, tx db.Tx, workspaceID, id string, version int64) (api.Agent, error) {
	a, err := get(ctx, tx, workspaceID, id, "")
	if err != nil || version == 0 || version == a.Version {
		return a, err
	}
	archived := a.ArchivedAt
	var raw string
	err = tx.QueryRow(ctx, "SELECT json FROM agent_versions WHERE agent_id = ? AND version = ?", id, version).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return a, api.NotFound("agent version", fmt.Sprintf("%s version %d", id, version))
	}
	if err != nil {
		return a, err
	}
	a = api.Agent{}
	err = json.Unmarshal([]byte(raw), &a)
	a.ArchivedAt = archived
	return a, err
}

func get(ctx context.Context, tx db.Tx, workspaceID, id, lock string) (api.Agent, error) {
	var raw string
	err := tx.QueryRow(ctx, "SELECT json FROM agents WHERE id = ? AND workspace_id = ?"+lock, id, workspaceID).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return api.Agent{}, api.NotFound("agent", id)
	}
	if err != nil {
		return api.Agent{}, fmt.Errorf("read agent %s: %w", id, err)
	}
	var a api.Agent
	return a, json.Unmarshal([]byte(raw), &a)
}

// Filter selects agents.
type Filter struct {
	WorkspaceID      string
	After            string // id of the last agent of the page before
	Limit            int
	IncludeArchived  bool
	Earliest, Latest time.Time // bounds of created_at, inclusive; zero for none
}

// List returns a page of agents, newest first, and whether more follow.
func (s *Store) List(ctx context.Context, f Filter) ([]api.Agent, bool, error) {
	query, args := "SELECT json FROM agents WHERE workspace_id = ?", []any{f.WorkspaceID}
	and := func(condition string, arg ...any) { query, args = query+" AND "+condition, append(args, arg...) }
	if f.After != "" {
		and("id < ?", f.After)
	}
	if !f.IncludeArchived {
		and("archived_at IS NULL")
	}
	if !f.Earliest.IsZero() {
		and("created_at >= ?", f.Earliest.UnixMicro())
	}
	if !f.Latest.IsZero() {
		and("created_at <= ?", f.Latest.UnixMicro())
	}
	return s.page(ctx, query+" ORDER BY id DESC LIMIT ?", args, f.Limit)
}

// Versions returns a page of an agent's versions, newest first, and whether
// more follow. Before is the last version of the page before, 0 for none.
func (s *Store) Versions(ctx context.Context, workspaceID, id string, before int64, limit int) ([]api.Agent, bool, error) {
	if _, err := s.Get(ctx, workspaceID, id, 0); err != nil {
		return nil, false, err
	}
	query, args := "SELECT json FROM agent_versions WHERE agent_id = ?", []any{id}
	if before != 0 {
		query, args = query+" AND version < ?", append(args, before)
	}
	return s.page(ctx, query+" ORDER BY version DESC LIMIT ?", args, limit)
}

func (s *Store) page(ctx context.Context, query string, args []any, limit int) (agents []api.Agent, more bool, err error) {
	err = s.db.Read(ctx, func(tx db.Tx) error {
		agents, err = db.Objects[api.Agent](tx.Query(ctx, query, append(args, limit+1)...))
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("list agents: %w", err)
	}
	if len(agents) > limit {
		return agents[:limit], true, nil
	}
	return agents, false, nil
}

// Update makes a new version of an agent. Absent fields stay; null clears those
// that can be cleared. Params.Version, when given, must be the current version.
// An update that changes nothing makes no version.
func (s *Store) Update(ctx context.Context, workspaceID, id string, p Params) (api.Agent, error) {
	if p.Version.Given() && p.Version.Value < 1 {
		return api.Agent{}, api.Invalid("version", "must be at least 1")
	}
	if err := s.checkSkills(ctx, workspaceID, p); err != nil {
		return api.Agent{}, err
	}
	var a api.Agent
	err := s.db.Write(ctx, func(tx db.Tx) (err error) {
		if a, err = get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		if a.ArchivedAt != nil {
			return api.Conflict("agent %s is archived and cannot be changed", id)
		}
		if p.Version.Given() && p.Version.Value != a.Version {
			return api.Conflict("version: agent %s is at version %d, not %d; read it again and repeat the change", id, a.Version, p.Version.Value)
		}
		before, err := json.Marshal(a)
		if err != nil {
			return err
		}
		if err := p.apply(&a); err != nil {
			return err
		}
		if err := p.applyRoster(ctx, tx, workspaceID, &a); err != nil {
			return err
		}
		after, err := json.Marshal(a)
		if err != nil || bytes.Equal(before, after) {
			return err
		}
		a.Version++
		if err := pinSelf(&a); err != nil {
			return err
		}
		a.UpdatedAt = s.now().UTC().Truncate(time.Microsecond)
		if err := save(ctx, tx, a); err != nil {
			return err
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened("agent.updated", id))
	})
	return a, err
}

func save(ctx context.Context, tx db.Tx, a api.Agent) error {
	raw, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "UPDATE agents SET version = ?, json = ? WHERE id = ?", a.Version, string(raw), a.ID); err != nil {
		return fmt.Errorf("update agent %s: %w", a.ID, err)
	}
	return insertVersion(ctx, tx, a, raw)
}

// Archive ends an agent for good: no new sessions, no new versions. Repeating
// it is harmless.
func (s *Store) Archive(ctx context.Context, workspaceID, id string) (api.Agent, error) {
	var a api.Agent
	err := s.db.Write(ctx, func(tx db.Tx) (err error) {
		if a, err = get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil || a.ArchivedAt != nil {
			return err
		}
		now := s.now().UTC().Truncate(time.Microsecond)
		a.ArchivedAt, a.UpdatedAt = &now, now
		raw, err := json.Marshal(a)
		if err != nil {
			return err
		}
		if _, err = tx.Exec(ctx, "UPDATE agents SET archived_at = ?, json = ? WHERE id = ?", now.UnixMicro(), string(raw), id); err != nil {
			return err
		}
		return s.Announce(ctx, tx, workspaceID, api.Happened("agent.archived", id))
	})
	return a, err
}
