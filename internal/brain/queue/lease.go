package queue

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// HeartbeatParams are those of a heartbeat.
type HeartbeatParams struct {
	EnvironmentID, WorkID string
	// Expected is the heartbeat to compare with; nil compares with nothing.
	Expected *string
	// DesiredTTL is how long the lease should last; zero keeps it as it is.
	DesiredTTL time.Duration
	// Claim is the claim number of the sessions token used, 0 with another credential.
	Claim int64
}

// The bounds of a lease that a client may ask for.
const (
	minTTL = 2 * time.Second
	maxTTL = 5 * time.Minute
)

// Heartbeat takes or extends a lease by compare-and-set. A mismatch is the 412
// the official workers expect, with the current state in its details.
func (q *Queue) Heartbeat(ctx context.Context, p HeartbeatParams) (api.Heartbeat, error) {
	var beat api.Heartbeat
	_, err := q.change(ctx, p.EnvironmentID, p.WorkID, func(tx db.Tx, it *item) error {
		if it.state == api.WorkStopping || it.state == api.WorkStopped {
			beat = it.heartbeat(false)
			return nil
		}
		now := q.now().UnixMicro()
		switch {
		case it.state == api.WorkQueued, p.Claim != 0 && p.Claim != it.claim:
			return it.precondition()
		case p.Expected == nil, it.matches(*p.Expected):
			it.beatAt(now)
		case !it.repeats(p, now):
			return it.precondition()
		}
		if p.DesiredTTL > 0 {
			it.ttl = min(max(p.DesiredTTL, minTTL), maxTTL).Microseconds()
		}
		it.expires = valid(now + it.ttl)
		beat = it.heartbeat(true)
		return it.save(ctx, tx)
	})
	return beat, err
}

// matches compares the expected heartbeat with the last one.
func (it *item) matches(expected string) bool {
	if !it.last.Valid {
		return expected == api.NoHeartbeat
	}
	return expected == it.last.String
}

// repeats tells a beat whose answer was lost, and which the client's transport
// sent again, from the beat of another worker: it comes from the same claim,
// expects what the last beat replaced, and follows it soon.
func (it *item) repeats(p HeartbeatParams, now int64) bool {
	previous := api.NoHeartbeat
	if it.previous.Valid {
		previous = it.previous.String
	}
	soon := min(it.ttl/2, (10 * time.Second).Microseconds())
	return p.Claim != 0 && *p.Expected == previous && it.beat.Valid && now-it.beat.Int64 < soon
}

// beatAt records a beat. The string is a time that only ever grows.
func (it *item) beatAt(now int64) {
	if it.beat.Valid {
		now = max(now, it.beat.Int64+1)
	}
	it.previous = it.last
	it.last = sql.NullString{String: time.UnixMicro(now).UTC().Format("2006-01-02T15:04:05.000000Z"), Valid: true}
	it.beat = valid(now)
	if !it.started.Valid {
		it.started = valid(now)
	}
	it.state = api.WorkActive
}

func (it *item) heartbeat(extended bool) api.Heartbeat {
	return api.Heartbeat{
		Type: "work_heartbeat", LastHeartbeat: it.last.String, LeaseExtended: extended, State: it.state,
		TTLSeconds: max(1, it.ttl/time.Second.Microseconds()),
	}
}

// precondition is the 412, with what the worker needs to understand it.
func (it *item) precondition() error {
	var last any
	if it.last.Valid {
		last = it.last.String
	}
	return &api.Error{
		Status: http.StatusPreconditionFailed, Type: api.ErrInvalidRequest,
		Message: fmt.Sprintf("expected_last_heartbeat: is not the last heartbeat of work item %s, which is %s; another worker may hold its lease", it.id, it.state),
		Details: map[string]any{
			"error_code": "heartbeat_precondition_failed",
			"current_state": map[string]any{
				"last_heartbeat": last, "lease_extended": false, "state": it.state,
				"ttl_seconds": max(1, it.ttl/time.Second.Microseconds()),
			},
		},
	}
}

// Run takes back leases that have lapsed, until ctx ends.
func (q *Queue) Run(ctx context.Context) error {
	for {
		next, err := q.sweep(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			q.Log.Error("could not take back lapsed leases; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

// sweep takes back what has lapsed and says how long to wait before looking
// again: until the next lease could lapse, one taken meanwhile included.
func (q *Queue) sweep(ctx context.Context) (time.Duration, error) {
	wait := min(q.LeaseTTL, minTTL) / 2
	var due []struct{ environment, id string }
	err := q.DB.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, "SELECT environment_id, id FROM work WHERE expires_at <= ? ORDER BY expires_at LIMIT 1000", q.now().UnixMicro())
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var d struct{ environment, id string }
			if err := rows.Scan(&d.environment, &d.id); err != nil {
				return err
			}
			due = append(due, d)
		}
		return rows.Err()
	})
	for _, d := range due {
		if err == nil {
			_, err = q.finish(ctx, d.environment, d.id, func(tx db.Tx, it *item) error { return q.lapse(ctx, tx, it) })
		}
	}
	return wait, err
}

// lapse takes back a lease, if it really has lapsed: a beat, or another server,
// may have come first.
func (q *Queue) lapse(ctx context.Context, tx db.Tx, it *item) error {
	now := q.now().UnixMicro()
	if !it.expires.Valid || it.expires.Int64 > now {
		return nil
	}
	q.Log.Warn("a worker's lease has lapsed", "work", it.id, "session", it.sessionID, "state", it.state)
	if it.state == api.WorkStopping {
		return q.end(ctx, tx, it)
	}
	again, at, err := q.again(ctx, tx, it)
	if err != nil {
		return err
	}
	it.expires = sql.NullInt64{}
	if !again {
		it.state, it.stopped = api.WorkStopped, valid(now)
		return it.save(ctx, tx)
	}
	it.state, it.notBefore = api.WorkQueued, at
	it.claimed, it.acked, it.started, it.beat = sql.NullInt64{}, sql.NullInt64{}, sql.NullInt64{}, sql.NullInt64{}
	it.last, it.previous = sql.NullString{}, sql.NullString{}
	tx.Notify(topic(it.environmentID), it.id)
	return it.save(ctx, tx)
}
