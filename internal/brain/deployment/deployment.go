// Package deployment keeps deployments, agents with all they need to run on
// their own, and starts their sessions: when their schedules say so, and when
// asked to. It owns the tables deployments and deployment_runs and may call
// outbox and db. Sessions are started by what its Config is given.
package deployment

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"time"

	"hearth/api"
	"hearth/internal/brain/outbox"
	"hearth/internal/db"
)

// Session is a session to be started.
type Session struct {
	ID           string // starting it twice starts one
	DeploymentID string
	Title        string

	Agent         json.RawMessage
	EnvironmentID string
	InitialEvents []json.RawMessage
	Resources     []json.RawMessage
	VaultIDs      []string
	Budget        json.RawMessage // nil for none
}

// Sessions starts sessions.
type Sessions interface {
	// CheckDeployed tells whether the session could be started now, and finds the
	// agent and the version that it would have.
	CheckDeployed(ctx context.Context, workspaceID string, s Session) (api.AgentReference, error)
	// StartDeployed starts it, unless a session with its id was started before.
	StartDeployed(ctx context.Context, workspaceID string, s Session) error
}

// Sealer keeps the tokens of resources.
type Sealer interface {
	Seal(place, text string) string
	Open(ctx context.Context, place, sealed string) (string, error)
}

// Config of a Store. DB, Sessions and Sealer are required.
type Config struct {
	DB       *db.DB
	Sessions Sessions
	Sealer   Sealer
	Log      *slog.Logger // default slog.Default()
	// Now is the clock of the schedules. Default time.Now.
	Now func() time.Time
	// Jitter is how long after its tick a deployment runs, given the time until
	// the tick after it. Default: up to 15 % of that, at least 5 s and at most 9
	// minutes of it, always the same part for one deployment.
	Jitter func(deploymentID string, interval time.Duration) time.Duration
}

// Store is every deployment.
type Store struct {
	Config
	out outbox.Sender
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the store and migrates its tables. Run fires the schedules.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Jitter == nil {
		cfg.Jitter = jitter
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := cfg.DB.Migrate(ctx, "deployment", dir); err != nil {
		return nil, err
	}
	return &Store{Config: cfg}, nil
}

// UseOutbox tells the store who is told what happens.
func (s *Store) UseOutbox(o outbox.Outbox) { s.out.UseOutbox(o) }

func jitter(id string, interval time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	most := min(max(interval*15/100, 5*time.Second), 9*time.Minute)
	return most * time.Duration(h.Sum32()%1000) / 1000
}

func (s *Store) now() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// record is a deployment as it is kept.
type record struct {
	api.Deployment
	workspaceID string
	tokens      map[int]token // by place in Resources
	tick, due   sql.NullInt64 // the next tick, and when it fires; null when none does
}

// token is the token of a resource, sealed for a place of its own.
type token struct {
	Place  string `json:"place"`
	Sealed string `json:"sealed"`
}

const columns = "workspace_id, json, tokens, tick_at, due_at"

func scan(row interface{ Scan(...any) error }) (*record, error) {
	var r record
	var raw, tokens string
	if err := row.Scan(&r.workspaceID, &raw, &tokens, &r.tick, &r.due); err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(raw), &r.Deployment); err != nil {
		return nil, fmt.Errorf("decode a deployment: %w", err)
	}
	return &r, json.Unmarshal([]byte(tokens), &r.tokens)
}

func get(ctx context.Context, tx db.Tx, workspaceID, id, lock string) (*record, error) {
	r, err := scan(tx.QueryRow(ctx, "SELECT "+columns+" FROM deployments WHERE id = ? AND workspace_id = ?"+lock, id, workspaceID))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, api.NotFound("deployment", id)
	}
	if err != nil {
		return nil, fmt.Errorf("read deployment %s: %w", id, err)
	}
	return r, nil
}

func (r *record) encode() (raw, tokens string, err error) {
	body, err := json.Marshal(r.Deployment)
	if err != nil {
		return "", "", err
	}
	secrets, err := json.Marshal(r.tokens)
	return string(body), string(secrets), err
}

func (r *record) save(ctx context.Context, tx db.Tx) error {
	raw, tokens, err := r.encode()
	if err != nil {
		return err
	}
	var archived sql.NullInt64
	if r.ArchivedAt != nil {
		archived = sql.NullInt64{Int64: r.ArchivedAt.UnixMicro(), Valid: true}
	}
	_, err = tx.Exec(ctx, "UPDATE deployments SET agent_id = ?, status = ?, archived_at = ?, tick_at = ?, due_at = ?, json = ?, tokens = ? WHERE id = ?",
		r.Agent.ID, r.Status, archived, r.tick, r.due, raw, tokens, r.ID)
	if err != nil {
		return fmt.Errorf("save deployment %s: %w", r.ID, err)
	}
	if r.due.Valid {
		tx.Notify(dueTopic, "")
	}
	return nil
}

// schedule sets the next tick to the first after a time.
func (s *Store) schedule(r *record, after time.Time) error {
	r.tick, r.due = sql.NullInt64{}, sql.NullInt64{}
	if r.Schedule == nil || r.Status != api.DeploymentActive || r.ArchivedAt != nil {
		return nil
	}
	c, zone, err := r.clock()
	if err != nil {
		return err
	}
	if tick := c.next(after, zone); !tick.IsZero() {
		r.tick = sql.NullInt64{Int64: tick.UnixMicro(), Valid: true}
		r.due = sql.NullInt64{Int64: s.due(r.ID, tick, c.next(tick, zone)).UnixMicro(), Valid: true}
	}
	return nil
}

// due is when a tick fires.
func (s *Store) due(id string, tick, following time.Time) time.Time {
	return tick.Add(s.Jitter(id, following.Sub(tick)))
}

func (r *record) clock() (cron, *time.Location, error) {
	c, err := parseCron(r.Schedule.Expression)
	if err != nil {
		return c, nil, err
	}
	zone, err := parseZone(r.Schedule.Timezone)
	return c, zone, err
}

// upcoming is how many ticks to come are shown.
const upcoming = 5

// wire is the deployment as of now.
func (s *Store) wire(r *record) (api.Deployment, error) {
	out := r.Deployment
	if out.Schedule == nil {
		return out, nil
	}
	schedule := *out.Schedule
	out.Schedule, schedule.UpcomingRunsAt = &schedule, []time.Time{}
	if r.ArchivedAt != nil {
		return out, nil
	}
	c, zone, err := r.clock()
	if err != nil {
		return out, err
	}
	for at := c.next(s.now(), zone); !at.IsZero() && len(schedule.UpcomingRunsAt) < upcoming; at = c.next(at, zone) {
		schedule.UpcomingRunsAt = append(schedule.UpcomingRunsAt, at)
	}
	return out, nil
}

// maxDeployments is how many deployments that are not archived a workspace has.
const maxDeployments = 1000

// Create makes a deployment. It checks all that a session of it would be
// checked for now.
func (s *Store) Create(ctx context.Context, workspaceID string, p Params) (api.Deployment, error) {
	now := s.now()
	r := &record{workspaceID: workspaceID, tokens: map[int]token{}, Deployment: api.Deployment{
		ID: api.NewID(api.PrefixDeployment), Type: "deployment", Status: api.DeploymentActive, Metadata: map[string]string{}, Budget: json.RawMessage("null"),
		Resources: []json.RawMessage{}, VaultIDs: []string{}, CreatedAt: now, UpdatedAt: now,
	}}
	for _, required := range []struct {
		field string
		given bool
	}{{"name", p.Name.Given()}, {"agent", p.Agent.Given()}, {"environment_id", p.EnvironmentID.Given()}, {"initial_events", p.InitialEvents.Given()}} {
		if !required.given {
			return api.Deployment{}, api.Invalid(required.field, "is required")
		}
	}
	if err := s.apply(ctx, p, r); err != nil {
		return api.Deployment{}, err
	}
	if err := s.schedule(r, now); err != nil {
		return api.Deployment{}, err
	}
	raw, tokens, err := r.encode()
	if err != nil {
		return api.Deployment{}, err
	}
	err = s.DB.Write(ctx, func(tx db.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM deployments WHERE workspace_id = ? AND archived_at IS NULL", workspaceID).Scan(&n); err != nil {
			return err
		}
		if n >= maxDeployments {
			return api.BadRequest("there are %d deployments, and no more are allowed; archive one first", n)
		}
		_, err := tx.Exec(ctx, "INSERT INTO deployments (id, workspace_id, agent_id, status, created_at, tick_at, due_at, json, tokens) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
			r.ID, workspaceID, r.Agent.ID, r.Status, now.UnixMicro(), r.tick, r.due, raw, tokens)
		if err != nil {
			return err
		}
		tx.Notify(dueTopic, "")
		return s.out.Announce(ctx, tx, workspaceID, api.Happened("deployment.created", r.ID))
	})
	if err != nil {
		return api.Deployment{}, err
	}
	return s.wire(r)
}

// Get returns a deployment.
func (s *Store) Get(ctx context.Context, workspaceID, id string) (api.Deployment, error) {
	r, err := s.read(ctx, workspaceID, id)
	if err != nil {
		return api.Deployment{}, err
	}
	return s.wire(r)
}

func (s *Store) read(ctx context.Context, workspaceID, id string) (r *record, err error) {
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		r, err = get(ctx, tx, workspaceID, id, "")
		return err
	})
	return r, err
}

// Filter selects deployments. Zero fields select all.
type Filter struct {
	WorkspaceID      string
	AgentID          string
	Status           string
	IncludeArchived  bool
	Earliest, Latest time.Time // bounds of created_at, inclusive
	After            string    // id of the last one of the page before
	Limit            int
}

// List returns a page of deployments, newest first, and whether more follow.
func (s *Store) List(ctx context.Context, f Filter) (list []api.Deployment, more bool, err error) {
	query, args := "SELECT "+columns+" FROM deployments WHERE workspace_id = ?", []any{f.WorkspaceID}
	and := func(given bool, condition string, arg ...any) {
		if given {
			query, args = query+" AND "+condition, append(args, arg...)
		}
	}
	and(f.AgentID != "", "agent_id = ?", f.AgentID)
	and(f.Status != "", "status = ?", f.Status)
	and(!f.IncludeArchived, "archived_at IS NULL")
	and(!f.Earliest.IsZero(), "created_at >= ?", f.Earliest.UnixMicro())
	and(!f.Latest.IsZero(), "created_at <= ?", f.Latest.UnixMicro())
	and(f.After != "", "id < ?", f.After)
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, query+" ORDER BY id DESC LIMIT ?", append(args, f.Limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			r, err := scan(rows)
			if err != nil {
				return err
			}
			if more = len(list) == f.Limit; more {
				return nil
			}
			one, err := s.wire(r)
			if err != nil {
				return err
			}
			list = append(list, one)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, false, fmt.Errorf("list deployments: %w", err)
	}
	return list, more, nil
}

// change has fn change a deployment, and tells what happened if it did.
func (s *Store) change(ctx context.Context, workspaceID, id, happened string, fn func(*record) error) (api.Deployment, error) {
	var r *record
	err := s.DB.Write(ctx, func(tx db.Tx) (err error) {
		if r, err = get(ctx, tx, workspaceID, id, tx.ForUpdate()); err != nil {
			return err
		}
		before, tokens, err := r.encode()
		if err != nil {
			return err
		}
		if err := fn(r); err != nil {
			return err
		}
		after, tokensAfter, err := r.encode()
		if err != nil || before == after && tokens == tokensAfter {
			return err
		}
		r.UpdatedAt = s.now()
		if err := r.save(ctx, tx); err != nil {
			return err
		}
		return s.out.Announce(ctx, tx, workspaceID, api.Happened(happened, id))
	})
	if err != nil {
		return api.Deployment{}, err
	}
	return s.wire(r)
}

func (r *record) notArchived() error {
	if r.ArchivedAt != nil {
		return api.BadRequest("deployment %s is archived", r.ID)
	}
	return nil
}

// Update changes a deployment; sessions it has started stay as they are. A new
// schedule counts from now.
func (s *Store) Update(ctx context.Context, workspaceID, id string, p Params) (api.Deployment, error) {
	// What is referred to is looked up before, not in, the transaction.
	checked, err := s.read(ctx, workspaceID, id)
	if err == nil {
		err = checked.notArchived()
	}
	if err == nil {
		err = s.apply(ctx, p, checked)
	}
	if err != nil {
		return api.Deployment{}, err
	}
	return s.change(ctx, workspaceID, id, "deployment.updated", func(r *record) error {
		if err := r.notArchived(); err != nil {
			return err
		}
		if err := p.set(r, s.Sealer); err != nil {
			return err
		}
		if p.Agent.Given() {
			r.Agent = checked.Agent
		}
		if p.Schedule.Set {
			return s.schedule(r, s.now())
		}
		return nil
	})
}

// Pause stops the schedule of a deployment. Repeating it is harmless.
func (s *Store) Pause(ctx context.Context, workspaceID, id string) (api.Deployment, error) {
	return s.change(ctx, workspaceID, id, "deployment.paused", func(r *record) error {
		if err := r.notArchived(); err != nil || r.Status == api.DeploymentPaused {
			return err
		}
		return s.pause(r, api.PausedReason{Type: "manual"})
	})
}

func (s *Store) pause(r *record, why api.PausedReason) error {
	r.Status, r.PausedReason = api.DeploymentPaused, &why
	return s.schedule(r, s.now())
}

// Unpause has the schedule go on from now; what it missed stays missed.
func (s *Store) Unpause(ctx context.Context, workspaceID, id string) (api.Deployment, error) {
	return s.change(ctx, workspaceID, id, "deployment.unpaused", func(r *record) error {
		if err := r.notArchived(); err != nil || r.Status == api.DeploymentActive {
			return err
		}
		r.Status, r.PausedReason = api.DeploymentActive, nil
		return s.schedule(r, s.now())
	})
}

// Archive ends a deployment for good. Repeating it is harmless.
func (s *Store) Archive(ctx context.Context, workspaceID, id string) (api.Deployment, error) {
	return s.change(ctx, workspaceID, id, "deployment.archived", func(r *record) error {
		if r.ArchivedAt == nil {
			s.archive(r)
		}
		return nil
	})
}

func (s *Store) archive(r *record) {
	now := s.now()
	r.ArchivedAt, r.Status, r.PausedReason = &now, api.DeploymentActive, nil
	r.tick, r.due = sql.NullInt64{}, sql.NullInt64{}
	r.tokens = map[int]token{}
}

// Announce implements outbox.Outbox: with an agent, its deployments are archived.
func (s *Store) Announce(ctx context.Context, tx db.Tx, workspaceID string, events ...api.WebhookData) error {
	for _, e := range events {
		if e.Type != "agent.archived" && e.Type != "agent.deleted" {
			continue
		}
		ids, err := db.Strings(tx.Query(ctx, "SELECT id FROM deployments WHERE agent_id = ? AND workspace_id = ? AND archived_at IS NULL ORDER BY id"+tx.ForUpdate(), e.ID, workspaceID))
		if err != nil {
			return fmt.Errorf("find the deployments of agent %s: %w", e.ID, err)
		}
		for _, id := range ids {
			r, err := get(ctx, tx, workspaceID, id, "")
			if err != nil {
				return err
			}
			s.archive(r)
			r.UpdatedAt = *r.ArchivedAt
			if err := r.save(ctx, tx); err != nil {
				return err
			}
			if err := s.out.Announce(ctx, tx, workspaceID, api.Happened("deployment.archived", id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// isNull tells whether JSON is null or absent.
func isNull(raw json.RawMessage) bool { return len(raw) == 0 || bytes.Equal(raw, []byte("null")) }
