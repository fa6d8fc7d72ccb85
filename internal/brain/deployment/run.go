package deployment

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"hearth/api"
	"hearth/internal/db"
)

const (
	// dueTopic is notified when a schedule may have become due.
	dueTopic = "deployments:due"
	// lookEvery is how often a server looks for itself, besides being told.
	lookEvery = 30 * time.Second
	// tickRetry is when a server looks again after the database has failed.
	tickRetry = time.Second
	// lease is how long starting a session may take before another server does it.
	lease = time.Minute
	// concurrency is how many sessions a server starts at once.
	concurrency = 8
	// maxTries is how often a run is tried for which this server is to blame.
	maxTries = 5
)

// run is a run as it is kept. It is shown once it has ended.
type run struct {
	id, workspaceID, deploymentID string
	agent                         api.AgentReference
	cause                         string
	scheduled                     sql.NullInt64
	sessionID                     string // chosen before there is one
	created                       int64
	finished                      sql.NullInt64
	lease, tries                  int64
	failure                       sql.NullString // JSON
}

const runColumns = "id, workspace_id, deployment_id, agent, cause, scheduled_at, session_id, created_at, finished_at, lease, tries, error"

func scanRun(row interface{ Scan(...any) error }) (*run, error) {
	var r run
	var agent string
	err := row.Scan(&r.id, &r.workspaceID, &r.deploymentID, &agent, &r.cause, &r.scheduled, &r.sessionID, &r.created, &r.finished, &r.lease, &r.tries, &r.failure)
	if err != nil {
		return nil, err
	}
	return &r, json.Unmarshal([]byte(agent), &r.agent)
}

func (r *run) wire() (api.DeploymentRun, error) {
	out := api.DeploymentRun{
		ID: r.id, Type: "deployment_run", DeploymentID: r.deploymentID, Agent: r.agent, TriggerContext: api.TriggerContext{Type: r.cause},
		CreatedAt: time.UnixMicro(r.created).UTC(),
	}
	if r.scheduled.Valid {
		at := time.UnixMicro(r.scheduled.Int64).UTC()
		out.TriggerContext.ScheduledAt = &at
	}
	if r.failure.Valid {
		return out, json.Unmarshal([]byte(r.failure.String), &out.Error)
	}
	out.SessionID = &r.sessionID
	return out, nil
}

// Run fires schedules until ctx ends. Several servers may do so at once.
func (s *Store) Run(ctx context.Context) error {
	wake, cancel := s.DB.Subscribe(dueTopic)
	defer cancel()
	for {
		wait, err := s.Tick(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.Log.Error("could not fire schedules; trying again", "error", err, "next_try_in", tickRetry)
			wait = tickRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-time.After(wait):
		}
	}
}

// Tick starts the sessions of all schedules that are due, and of runs that were
// begun and not ended, and tells how long nothing will be due.
func (s *Store) Tick(ctx context.Context) (wait time.Duration, err error) {
	var group errgroup.Group
	group.SetLimit(concurrency)
	for {
		var r *run
		if r, wait, err = s.claim(ctx); err != nil || r == nil {
			break
		}
		group.Go(func() error { return s.execute(ctx, r) })
	}
	return wait, errors.Join(err, group.Wait())
}

// claim takes the next run there is to make: one whose maker is gone, or one of
// a schedule that is due, which then has its next tick.
func (s *Store) claim(ctx context.Context) (r *run, wait time.Duration, err error) {
	err = s.DB.Write(ctx, func(tx db.Tx) (err error) {
		now := s.now()
		r, err = scanRun(tx.QueryRow(ctx, "UPDATE deployment_runs SET lease = ?, tries = tries + 1 WHERE id = (SELECT id FROM deployment_runs WHERE finished_at IS NULL AND lease <= ? ORDER BY lease LIMIT 1"+
			tx.SkipLocked()+") RETURNING "+runColumns, now.Add(lease).UnixMicro(), now.UnixMicro()))
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		for r = nil; r == nil; {
			due, err := scan(tx.QueryRow(ctx, "SELECT "+columns+" FROM deployments WHERE due_at <= ? ORDER BY due_at LIMIT 1"+tx.SkipLocked(), now.UnixMicro()))
			if errors.Is(err, sql.ErrNoRows) {
				wait, err = nextDue(ctx, tx, now)
				return err
			}
			if err != nil {
				return err
			}
			if r, err = s.fire(ctx, tx, due, now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, tickRetry, fmt.Errorf("claim a run: %w", err)
	}
	return r, wait, nil
}

func nextDue(ctx context.Context, tx db.Tx, now time.Time) (time.Duration, error) {
	wait := lookEvery
	for _, query := range []string{"SELECT MIN(due_at) FROM deployments WHERE due_at IS NOT NULL", "SELECT MIN(lease) FROM deployment_runs WHERE finished_at IS NULL"} {
		var due sql.NullInt64
		if err := tx.QueryRow(ctx, query).Scan(&due); err != nil {
			return 0, err
		}
		if due.Valid {
			wait = min(wait, max(time.UnixMicro(due.Int64).Sub(now), time.Millisecond))
		}
	}
	return wait, nil
}

// fire begins the run of a schedule that is due, and sets its next tick. It
// returns nil if the tick has had a run.
func (s *Store) fire(ctx context.Context, tx db.Tx, r *record, now time.Time) (*run, error) {
	c, zone, err := r.clock()
	if err != nil {
		return nil, err
	}
	tick := s.latest(r, c, zone, now)
	if err := s.schedule(r, tick); err != nil {
		return nil, err
	}
	if err := r.save(ctx, tx); err != nil {
		return nil, err
	}
	made := newRun(r, api.TriggerSchedule, now)
	made.scheduled = sql.NullInt64{Int64: tick.UnixMicro(), Valid: true}
	began, err := made.insert(ctx, tx)
	if err != nil || !began {
		return nil, err
	}
	return made, s.out.Announce(ctx, tx, r.workspaceID, api.Happened("deployment_run.started", made.id))
}

// latest is the last of the ticks that are due. Those before it, which no server
// was there to see, are skipped.
func (s *Store) latest(r *record, c cron, zone *time.Location, now time.Time) time.Time {
	tick := time.UnixMicro(r.tick.Int64).UTC()
	isDue := func(t time.Time) bool { return !t.IsZero() && !s.due(r.ID, t, c.next(t, zone)).After(now) }
	const far = 48 * time.Hour
	if now.Sub(tick) > far {
		if near := c.next(now.Add(-far), zone); isDue(near) {
			tick = near
		}
	}
	for following := c.next(tick, zone); isDue(following); following = c.next(tick, zone) {
		tick = following
	}
	return tick
}

func newRun(r *record, cause string, now time.Time) *run {
	return &run{
		id: api.NewID(api.PrefixRun), workspaceID: r.workspaceID, deploymentID: r.ID, agent: r.Agent, cause: cause,
		sessionID: api.NewID(api.PrefixSession), created: now.UnixMicro(), lease: now.Add(lease).UnixMicro(), tries: 1,
	}
}

// insert keeps a run, unless its tick has one.
func (r *run) insert(ctx context.Context, tx db.Tx) (bool, error) {
	agent, err := json.Marshal(r.agent)
	if err != nil {
		return false, err
	}
	result, err := tx.Exec(ctx, "INSERT INTO deployment_runs ("+runColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (deployment_id, scheduled_at) DO NOTHING",
		r.id, r.workspaceID, r.deploymentID, string(agent), r.cause, r.scheduled, r.sessionID, r.created, r.finished, r.lease, r.tries, r.failure)
	if err != nil {
		return false, fmt.Errorf("begin a run of deployment %s: %w", r.deploymentID, err)
	}
	n, err := result.RowsAffected()
	return n == 1, err
}

// RunNow runs a deployment once, even one that is paused, and returns how that
// went. A run that fails pauses nothing.
func (s *Store) RunNow(ctx context.Context, workspaceID, id string) (api.DeploymentRun, error) {
	var r *run
	err := s.DB.Write(ctx, func(tx db.Tx) error {
		deployment, err := get(ctx, tx, workspaceID, id, "")
		if err == nil {
			err = deployment.notArchived()
		}
		if err != nil {
			return err
		}
		r = newRun(deployment, api.TriggerManual, s.now())
		_, err = r.insert(ctx, tx)
		return err
	})
	if err != nil {
		return api.DeploymentRun{}, err
	}
	// It goes on although whoever asked may go away.
	if err := s.execute(context.WithoutCancel(ctx), r); err != nil {
		return api.DeploymentRun{}, err
	}
	return s.GetRun(ctx, workspaceID, r.id)
}

// execute starts a run's session and keeps how that went.
func (s *Store) execute(ctx context.Context, r *run) error {
	failure := s.start(ctx, r)
	if ctx.Err() != nil {
		return nil // another server goes on with it
	}
	var wire *api.Error
	ours := failure != nil && (!errors.As(failure, &wire) || wire.Status >= 500)
	if ours {
		s.Log.Error("could not start the session of a deployment", "deployment", r.deploymentID, "run", r.id, "try", r.tries, "error", failure)
		if r.cause == api.TriggerSchedule && r.tries < maxTries {
			return s.postpone(ctx, r)
		}
	}
	return s.finish(ctx, r, failure)
}

func (s *Store) start(ctx context.Context, r *run) error {
	deployment, err := s.read(ctx, r.workspaceID, r.deploymentID)
	if err != nil {
		return err
	}
	deployment.Agent = r.agent
	session, err := s.session(ctx, deployment)
	if err != nil {
		return err
	}
	session.ID = r.sessionID
	return s.Sessions.StartDeployed(ctx, r.workspaceID, session)
}

// postpone has a run tried again, later each time.
func (s *Store) postpone(ctx context.Context, r *run) error {
	again := s.now().Add(time.Duration(r.tries*r.tries) * 5 * time.Second)
	return s.DB.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE deployment_runs SET lease = ? WHERE id = ? AND lease = ? AND finished_at IS NULL", again.UnixMicro(), r.id, r.lease)
		return err
	})
}

// finish keeps how a run went. A scheduled one that no later one could do better
// pauses the deployment.
func (s *Store) finish(ctx context.Context, r *run, failure error) error {
	var raw sql.NullString
	what, pauses := classify(failure)
	if what != nil {
		encoded, err := json.Marshal(what)
		if err != nil {
			return err
		}
		raw = sql.NullString{String: string(encoded), Valid: true}
	}
	err := s.DB.Write(ctx, func(tx db.Tx) error {
		deployment, err := get(ctx, tx, r.workspaceID, r.deploymentID, tx.ForUpdate())
		if err != nil {
			return err
		}
		result, err := tx.Exec(ctx, "UPDATE deployment_runs SET finished_at = ?, error = ? WHERE id = ? AND lease = ? AND finished_at IS NULL", s.now().UnixMicro(), raw, r.id, r.lease)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 || r.cause != api.TriggerSchedule {
			return err // another server has gone on with it, or it is not of a schedule
		}
		return s.conclude(ctx, tx, deployment, r, what, pauses)
	})
	if err != nil {
		return fmt.Errorf("end run %s: %w", r.id, err)
	}
	return nil
}

// conclude keeps in the deployment, and tells, how a scheduled run went.
func (s *Store) conclude(ctx context.Context, tx db.Tx, deployment *record, r *run, what *api.RunError, pauses string) error {
	began := time.UnixMicro(r.created).UTC()
	if schedule := deployment.Schedule; schedule != nil && (schedule.LastRunAt == nil || schedule.LastRunAt.Before(began)) {
		schedule.LastRunAt = &began
	}
	told := []api.WebhookData{api.Happened("deployment_run.succeeded", r.id)}
	if what != nil {
		told[0].Type = "deployment_run.failed"
	}
	if pauses != "" && deployment.Status == api.DeploymentActive && deployment.ArchivedAt == nil {
		if err := s.pause(deployment, api.PausedReason{Type: "error", Error: &api.TypeError{Type: pauses}}); err != nil {
			return err
		}
		deployment.UpdatedAt = s.now()
		told = append(told, api.Happened("deployment.paused", deployment.ID))
	}
	if err := deployment.save(ctx, tx); err != nil {
		return err
	}
	return s.out.Announce(ctx, tx, deployment.workspaceID, told...)
}

// The errors of runs.
const (
	errRateLimited = "session_rate_limited_error"
	errRejected    = "session_creation_rejected_error"
	errNoResource  = "session_resource_not_found_error"
	errUnknown     = "unknown_error"
)

// missing are the errors for what is no longer there, by its kind.
var missing = map[string]string{
	"environment": "environment_not_found_error", "vault": "vault_not_found_error", "file": "file_not_found_error", "skill": "skill_not_found_error", "skill version": "skill_not_found_error",
}

// archived are the errors for what is archived, by the code of the API's error.
var archived = []string{"environment_archived", "agent_archived", "vault_archived", "memory_store_archived", "workspace_archived"}

// classify makes a run's error of why its session was not started, and tells
// with which error it pauses the deployment, "" if a later run may go well.
func classify(failure error) (what *api.RunError, pauses string) {
	if failure == nil {
		return nil, ""
	}
	var wire *api.Error
	if !errors.As(failure, &wire) || wire.Status >= 500 {
		return &api.RunError{Type: errUnknown, Message: "the server failed to start the session; its log says why"}, ""
	}
	code, _ := wire.Details["error_code"].(string)
	kind := errRejected
	switch {
	case wire.Status == http.StatusTooManyRequests:
		return &api.RunError{Type: errRateLimited, Message: wire.Message}, ""
	case missing[wire.Missing] != "":
		kind = missing[wire.Missing]
	case wire.Missing != "":
		kind = errNoResource
	default:
		for _, one := range archived {
			if strings.EqualFold(code, one) {
				kind = one + "_error"
			}
		}
	}
	if pauses = kind; kind == errRejected {
		pauses = errUnknown // the wire has no better word for it
	}
	return &api.RunError{Type: kind, Message: wire.Message}, pauses
}

// GetRun returns a run that has ended.
func (s *Store) GetRun(ctx context.Context, workspaceID, id string) (out api.DeploymentRun, err error) {
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		r, err := scanRun(tx.QueryRow(ctx, "SELECT "+runColumns+" FROM deployment_runs WHERE id = ? AND workspace_id = ? AND finished_at IS NOT NULL", id, workspaceID))
		if errors.Is(err, sql.ErrNoRows) {
			return api.NotFound("deployment run", id)
		}
		if err != nil {
			return fmt.Errorf("read run %s: %w", id, err)
		}
		out, err = r.wire()
		return err
	})
	return out, err
}

// Bound is one end of a time range; a zero Time is no bound.
type Bound struct {
	Time      time.Time
	Inclusive bool
}

// RunFilter selects runs. Zero fields select all.
type RunFilter struct {
	WorkspaceID                 string
	DeploymentID                string
	Trigger                     string
	HasError                    *bool
	CreatedAfter, CreatedBefore Bound
	After                       string // id of the last one of the page before
	Limit                       int
}

// ListRuns returns a page of the runs that have ended, newest first, and whether
// more follow.
func (s *Store) ListRuns(ctx context.Context, f RunFilter) (list []api.DeploymentRun, more bool, err error) {
	query, args := "SELECT "+runColumns+" FROM deployment_runs WHERE workspace_id = ? AND finished_at IS NOT NULL", []any{f.WorkspaceID}
	and := func(given bool, condition string, arg ...any) {
		if given {
			query, args = query+" AND "+condition, append(args, arg...)
		}
	}
	bound := func(operator string, b Bound) {
		if b.Inclusive {
			operator += "="
		}
		and(!b.Time.IsZero(), "created_at "+operator+" ?", b.Time.UnixMicro())
	}
	and(f.DeploymentID != "", "deployment_id = ?", f.DeploymentID)
	and(f.Trigger != "", "cause = ?", f.Trigger)
	and(f.HasError != nil && *f.HasError, "error IS NOT NULL")
	and(f.HasError != nil && !*f.HasError, "error IS NULL")
	bound(">", f.CreatedAfter)
	bound("<", f.CreatedBefore)
	and(f.After != "", "id < ?", f.After)
	err = s.DB.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, query+" ORDER BY id DESC LIMIT ?", append(args, f.Limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			r, err := scanRun(rows)
			if err != nil {
				return err
			}
			if more = len(list) == f.Limit; more {
				return nil
			}
			one, err := r.wire()
			if err != nil {
				return err
			}
			list = append(list, one)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, false, fmt.Errorf("list deployment runs: %w", err)
	}
	return list, more, nil
}
