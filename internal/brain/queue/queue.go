// Package queue is the work queue of an environment: items, claims, leases and
// their secrets. It owns the tables work, work_offers and work_pollers and may
// call db. It knows nothing of sessions but their ids; whether one still needs
// hands it asks a Demand.
package queue

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// Sessions is what the queue must know of the sessions it offers, and tell them.
type Sessions interface {
	// Lock holds off other changes of a session until tx ends. Whoever changes a
	// session and its item locks the session first.
	Lock(ctx context.Context, tx db.Tx, sessionID string) error
	// Demand tells whether a session still waits for something only hands can do.
	Demand(ctx context.Context, tx db.Tx, sessionID string) (bool, error)
	// Unfinished makes it visible that a worker has left a session, of its own
	// accord or not, without doing all it waits for. Again tells that the session
	// is offered to another.
	Unfinished(ctx context.Context, tx db.Tx, sessionID string, again bool) error
}

// Config tunes a Queue; zero fields take the defaults named.
type Config struct {
	DB  *db.DB
	Log *slog.Logger // default slog.Default()
	// LeaseTTL is how long a heartbeat keeps a lease. Default 60 s.
	LeaseTTL time.Duration
	// ReclaimAfter is when a claimed, unacknowledged item is offered again if
	// the poller names no time of its own. Default 5 s.
	ReclaimAfter time.Duration
	// TokenGrace is how long a sessions token outlives its activation. Default 60 s.
	TokenGrace time.Duration
	// SigningKey signs sessions tokens; at least 32 bytes.
	SigningKey []byte
	// Sessions are asked, in the transaction that ends an activation, whether the
	// session must be offered again. Required.
	Sessions Sessions
	// MaxOffers is how many activations in a row may end without the session
	// making progress before it is offered no more. Default 20.
	MaxOffers int
}

// Queue is every environment's work queue.
type Queue struct {
	Config
	now      func() time.Time
	presence presence
}

//go:embed migrations/*.sql
var migrations embed.FS

// New makes the queue and migrates its tables.
func New(ctx context.Context, cfg Config) (*Queue, error) {
	if len(cfg.SigningKey) < 32 {
		return nil, errors.New("queue: the signing key must have at least 32 bytes")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	cfg.LeaseTTL = orDefault(cfg.LeaseTTL, time.Minute)
	cfg.ReclaimAfter = orDefault(cfg.ReclaimAfter, 5*time.Second)
	cfg.TokenGrace = orDefault(cfg.TokenGrace, time.Minute)
	cfg.MaxOffers = orDefault(cfg.MaxOffers, 20)
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := cfg.DB.Migrate(ctx, "queue", dir); err != nil {
		return nil, err
	}
	return &Queue{Config: cfg, now: time.Now, presence: presence{flushed: map[[2]string]time.Time{}}}, nil
}

func orDefault[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// topic is notified when an environment's queue has something new on offer.
func topic(environmentID string) string { return "queue:" + environmentID }

// Offer makes sure that the session has a live item, adding one when it has
// none. Progress forgets the fruitless activations there have been.
func (q *Queue) Offer(ctx context.Context, tx db.Tx, environmentID, sessionID string, progress bool) error {
	now := q.now().UnixMicro()
	if progress {
		if _, err := tx.Exec(ctx, "DELETE FROM work_offers WHERE session_id = ?", sessionID); err != nil {
			return fmt.Errorf("offer session %s: %w", sessionID, err)
		}
	}
	var id, state string
	var notBefore int64
	// Locked, so that an activation that is just ending is seen either as live,
	// and then sees what the session waits for, or as ended.
	err := tx.QueryRow(ctx, "SELECT id, state, not_before FROM work WHERE session_id = ? AND state <> 'stopped'"+tx.ForUpdate(), sessionID).Scan(&id, &state, &notBefore)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		keptFor, err := q.lastWorker(ctx, tx, environmentID, sessionID)
		if err != nil {
			return err
		}
		return q.insert(ctx, tx, environmentID, sessionID, now, keptFor)
	case err != nil:
		return fmt.Errorf("offer session %s: %w", sessionID, err)
	case progress && api.WorkState(state) == api.WorkQueued && notBefore > now:
		if _, err := tx.Exec(ctx, "UPDATE work SET not_before = ? WHERE id = ?", now, id); err != nil {
			return fmt.Errorf("offer session %s: %w", sessionID, err)
		}
		tx.Notify(topic(environmentID), id)
	}
	// An item that is stopping is followed by another when it has stopped, if
	// the session then still waits.
	return nil
}

// lastWorker is the worker that served the session last, and may still have its
// files and its sandbox; "" when there is none, or it asks for work no more.
func (q *Queue) lastWorker(ctx context.Context, tx db.Tx, environmentID, sessionID string) (worker string, err error) {
	err = tx.QueryRow(ctx, `SELECT p.worker_id FROM work_pollers p
		WHERE p.environment_id = ? AND p.seen_at > ? AND p.worker_id = (SELECT worker_id FROM work WHERE session_id = ? ORDER BY id DESC LIMIT 1)`,
		environmentID, q.now().Add(-presenceWindow).UnixMicro(), sessionID).Scan(&worker)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("offer session %s: %w", sessionID, err)
	}
	return worker, nil
}

// insert adds an item, which is kept for a worker for a short while unless that
// is "".
func (q *Queue) insert(ctx context.Context, tx db.Tx, environmentID, sessionID string, notBefore int64, keptFor string) error {
	id := api.NewID(api.PrefixWork)
	_, err := tx.Exec(ctx, `INSERT INTO work (id, environment_id, session_id, state, metadata, created_at, not_before, claim, ttl, kept_for, kept_until)
		VALUES (?, ?, ?, 'queued', '{}', ?, ?, 0, ?, ?, ?)`,
		id, environmentID, sessionID, q.now().UnixMicro(), notBefore, q.LeaseTTL.Microseconds(), keptFor, notBefore+firstRefusal.Microseconds())
	if err != nil {
		return fmt.Errorf("offer session %s: %w", sessionID, err)
	}
	tx.Notify(topic(environmentID), id)
	return nil
}

// Retire stops the session's live items, for a session that is over.
func (q *Queue) Retire(ctx context.Context, tx db.Tx, sessionID string) error {
	// A worker that holds the lease learns it from its next heartbeat.
	_, err := tx.Exec(ctx, "UPDATE work SET state = 'stopped', stopped_at = ?, expires_at = NULL WHERE session_id = ? AND state <> 'stopped'",
		q.now().UnixMicro(), sessionID)
	if err != nil {
		return fmt.Errorf("retire session %s: %w", sessionID, err)
	}
	return nil
}

// item is a row of work.
type item struct {
	id, environmentID, sessionID, metadata string
	state                                  api.WorkState
	claim, created, notBefore, ttl         int64
	claimed, acked, started, beat          sql.NullInt64
	expires, stopRequested, stopped        sql.NullInt64
	last, previous                         sql.NullString
}

const columns = `id, environment_id, session_id, state, metadata, created_at, not_before, claim, claimed_at,
	acknowledged_at, started_at, last_heartbeat, previous_heartbeat, beat_at, ttl, expires_at, stop_requested_at, stopped_at`

func (it *item) scan(row interface{ Scan(...any) error }) error {
	return row.Scan(&it.id, &it.environmentID, &it.sessionID, &it.state, &it.metadata, &it.created, &it.notBefore, &it.claim, &it.claimed,
		&it.acked, &it.started, &it.last, &it.previous, &it.beat, &it.ttl, &it.expires, &it.stopRequested, &it.stopped)
}

// work is the item on the wire, without its secret.
func (it *item) work() (api.Work, error) {
	w := api.Work{
		ID: it.id, Type: "work", EnvironmentID: it.environmentID, State: it.state,
		Data:           api.WorkData{Type: "session", ID: it.sessionID},
		CreatedAt:      *stamp(sql.NullInt64{Int64: it.created, Valid: true}),
		AcknowledgedAt: stamp(it.acked), StartedAt: stamp(it.started), LatestHeartbeatAt: stamp(it.beat),
		StopRequestedAt: stamp(it.stopRequested), StoppedAt: stamp(it.stopped),
	}
	if err := json.Unmarshal([]byte(it.metadata), &w.Metadata); err != nil {
		return api.Work{}, fmt.Errorf("metadata of work item %s: %w", it.id, err)
	}
	return w, nil
}

func stamp(micros sql.NullInt64) *time.Time {
	if !micros.Valid {
		return nil
	}
	at := time.UnixMicro(micros.Int64).UTC()
	return &at
}

// save writes back what a change of state may have changed.
func (it *item) save(ctx context.Context, tx db.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE work SET state = ?, not_before = ?, claimed_at = ?, acknowledged_at = ?, started_at = ?, last_heartbeat = ?,
		previous_heartbeat = ?, beat_at = ?, ttl = ?, expires_at = ?, stop_requested_at = ?, stopped_at = ? WHERE id = ?`,
		it.state, it.notBefore, it.claimed, it.acked, it.started, it.last, it.previous, it.beat, it.ttl, it.expires, it.stopRequested, it.stopped, it.id)
	if err != nil {
		return fmt.Errorf("save work item %s: %w", it.id, err)
	}
	return nil
}

// change locks an item and lets fn change and save it.
func (q *Queue) change(ctx context.Context, environmentID, workID string, fn func(tx db.Tx, it *item) error) (api.Work, error) {
	var it item
	err := q.DB.Write(ctx, func(tx db.Tx) error {
		if err := it.read(ctx, tx, environmentID, workID, tx.ForUpdate()); err != nil {
			return err
		}
		return fn(tx, &it)
	})
	if err != nil {
		return api.Work{}, err
	}
	return it.work()
}

// finish is a change that may end an activation, and so change the session.
func (q *Queue) finish(ctx context.Context, environmentID, workID string, fn func(tx db.Tx, it *item) error) (api.Work, error) {
	var it item
	err := q.DB.Write(ctx, func(tx db.Tx) error {
		if err := it.read(ctx, tx, environmentID, workID, ""); err != nil {
			return err
		}
		if err := q.Sessions.Lock(ctx, tx, it.sessionID); err != nil {
			return err
		}
		if err := it.read(ctx, tx, environmentID, workID, tx.ForUpdate()); err != nil {
			return err
		}
		return fn(tx, &it)
	})
	if err != nil {
		return api.Work{}, err
	}
	return it.work()
}

// read reads an item, locking it where lock says so.
func (it *item) read(ctx context.Context, tx db.Tx, environmentID, workID, lock string) error {
	*it = item{}
	err := it.scan(tx.QueryRow(ctx, "SELECT "+columns+" FROM work WHERE id = ? AND environment_id = ?"+lock, workID, environmentID))
	if errors.Is(err, sql.ErrNoRows) {
		return api.NotFound("work item", workID)
	}
	if err != nil {
		return fmt.Errorf("read work item %s: %w", workID, err)
	}
	return nil
}

// Ack acknowledges a claim: queued becomes starting. Repeating it is harmless.
func (q *Queue) Ack(ctx context.Context, environmentID, workID string) (api.Work, error) {
	return q.change(ctx, environmentID, workID, func(tx db.Tx, it *item) error {
		if it.state != api.WorkQueued {
			return nil
		}
		if !it.claimed.Valid {
			return api.Conflict("work item %s has not been claimed, or its claim was taken back; poll for work again", workID)
		}
		now := q.now().UnixMicro()
		it.state = api.WorkStarting
		it.acked = valid(now)
		it.expires = valid(now + it.ttl)
		return it.save(ctx, tx)
	})
}

func valid(micros int64) sql.NullInt64 { return sql.NullInt64{Int64: micros, Valid: true} }

// Stop ends an activation: gracefully (stopping, until the worker confirms) or,
// forced, at once (stopped). It never ends the session.
func (q *Queue) Stop(ctx context.Context, environmentID, workID string, force bool) (api.Work, error) {
	return q.finish(ctx, environmentID, workID, func(tx db.Tx, it *item) error {
		if it.state == api.WorkStopped {
			return api.Conflict("work item %s has already stopped", workID)
		}
		now := q.now().UnixMicro()
		if !it.stopRequested.Valid {
			it.stopRequested = valid(now)
		}
		// Nobody could confirm the stop of an item on which no lease was taken.
		if force || !it.last.Valid {
			return q.end(ctx, tx, it)
		}
		it.state = api.WorkStopping
		return it.save(ctx, tx)
	})
}

// end stops an item and, if its session still waits, offers it anew.
func (q *Queue) end(ctx context.Context, tx db.Tx, it *item) error {
	it.state = api.WorkStopped
	it.stopped = valid(q.now().UnixMicro())
	it.expires = sql.NullInt64{}
	if err := it.save(ctx, tx); err != nil {
		return err
	}
	again, at, err := q.again(ctx, tx, it)
	if err != nil || !again {
		return err
	}
	return q.insert(ctx, tx, it.environmentID, it.sessionID, at, "")
}

// again decides whether, and from when on, a session whose activation has
// ended is offered again.
func (q *Queue) again(ctx context.Context, tx db.Tx, it *item) (again bool, at int64, err error) {
	waits, err := q.Sessions.Demand(ctx, tx, it.sessionID)
	if err != nil || !waits {
		return false, 0, err
	}
	var fruitless int
	err = tx.QueryRow(ctx, `INSERT INTO work_offers (session_id, fruitless) VALUES (?, 1)
		ON CONFLICT (session_id) DO UPDATE SET fruitless = work_offers.fruitless + 1 RETURNING fruitless`, it.sessionID).Scan(&fruitless)
	if err != nil {
		return false, 0, fmt.Errorf("count offers of session %s: %w", it.sessionID, err)
	}
	if fruitless > q.MaxOffers {
		q.Log.Warn("gave up offering a session: no worker finishes what it waits for", "session", it.sessionID, "offers", fruitless)
		return false, 0, q.Sessions.Unfinished(ctx, tx, it.sessionID, false)
	}
	// Who has not taken the item has begun nothing. Who has may have, before the
	// first heartbeat got through.
	if it.acked.Valid {
		if err := q.Sessions.Unfinished(ctx, tx, it.sessionID, true); err != nil {
			return false, 0, err
		}
	}
	return true, q.now().Add(pause(fruitless)).UnixMicro(), nil
}

// maxPause bounds the pause before a session is offered again.
const maxPause = time.Minute

// pause is none before the first new offer, then 1 s, doubling.
func pause(fruitless int) time.Duration {
	if fruitless <= 1 {
		return 0
	}
	return min(maxPause, time.Second<<min(fruitless-2, 6))
}

// Get returns an item, without its secret.
func (q *Queue) Get(ctx context.Context, environmentID, workID string) (api.Work, error) {
	var it item
	err := q.DB.Read(ctx, func(tx db.Tx) error {
		return it.scan(tx.QueryRow(ctx, "SELECT "+columns+" FROM work WHERE id = ? AND environment_id = ?", workID, environmentID))
	})
	if errors.Is(err, sql.ErrNoRows) {
		return api.Work{}, api.NotFound("work item", workID)
	}
	if err != nil {
		return api.Work{}, fmt.Errorf("read work item %s: %w", workID, err)
	}
	return it.work()
}

// UpdateMetadata merges metadata: a nil value deletes its key.
func (q *Queue) UpdateMetadata(ctx context.Context, environmentID, workID string, patch map[string]*string) (api.Work, error) {
	return q.change(ctx, environmentID, workID, func(tx db.Tx, it *item) error {
		current := map[string]string{}
		if err := json.Unmarshal([]byte(it.metadata), &current); err != nil {
			return fmt.Errorf("metadata of work item %s: %w", it.id, err)
		}
		if err := api.MergeMetadata(current, patch); err != nil {
			return err
		}
		raw, err := json.Marshal(current)
		if err != nil {
			return err
		}
		it.metadata = string(raw)
		_, err = tx.Exec(ctx, "UPDATE work SET metadata = ? WHERE id = ?", it.metadata, it.id)
		return err
	})
}

// List returns a page of items, newest first, and whether more follow. After is
// the id of the last item of the page before, "" for the first.
func (q *Queue) List(ctx context.Context, environmentID, after string, limit int) (items []api.Work, more bool, err error) {
	where, args := "environment_id = ?", []any{environmentID}
	if after != "" {
		where, args = where+" AND id < ?", append(args, after)
	}
	err = q.DB.Read(ctx, func(tx db.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+columns+" FROM work WHERE "+where+" ORDER BY id DESC LIMIT ?", append(args, limit+1)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var it item
			if err := it.scan(rows); err != nil {
				return err
			}
			w, err := it.work()
			if err != nil {
				return err
			}
			items = append(items, w)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, false, fmt.Errorf("list work of %s: %w", environmentID, err)
	}
	if len(items) > limit {
		return items[:limit], true, nil
	}
	return items, false, nil
}

// Stats describes the queue of an environment.
func (q *Queue) Stats(ctx context.Context, environmentID string) (api.WorkStats, error) {
	s := api.WorkStats{Type: "work_queue_stats"}
	var oldest sql.NullInt64
	var polling int64
	err := q.DB.Read(ctx, func(tx db.Tx) error {
		err := tx.QueryRow(ctx, `SELECT COUNT(*) - COUNT(claimed_at), COUNT(claimed_at), MIN(created_at)
			FROM work WHERE environment_id = ? AND state = 'queued'`, environmentID).Scan(&s.Depth, &s.Pending, &oldest)
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT COUNT(*) FROM work_pollers WHERE environment_id = ? AND seen_at > ?",
			environmentID, q.now().Add(-presenceWindow).UnixMicro()).Scan(&polling)
	})
	if err != nil {
		return s, fmt.Errorf("stats of %s: %w", environmentID, err)
	}
	s.OldestQueuedAt, s.WorkersPolling = stamp(oldest), &polling
	return s, nil
}
