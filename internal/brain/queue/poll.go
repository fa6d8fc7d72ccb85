package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"hearth/api"
	"hearth/internal/db"
)

// PollParams are those of a poll.
type PollParams struct {
	EnvironmentID string
	WorkerID      string
	Block         time.Duration // zero: answer at once
	ReclaimAfter  time.Duration // zero: the default
}

// Poll claims the oldest item on offer, waiting up to Block for one; nil when
// there is none. The item carries its secret. When ctx ends first, so does Poll,
// with nothing claimed.
func (q *Queue) Poll(ctx context.Context, p PollParams) (*api.Work, error) {
	p.ReclaimAfter = orDefault(p.ReclaimAfter, q.ReclaimAfter)
	if err := q.seen(ctx, p.EnvironmentID, p.WorkerID); err != nil {
		return nil, err
	}
	woken, cancel := q.DB.Subscribe(topic(p.EnvironmentID))
	defer cancel()
	deadline := q.now().Add(p.Block)
	for {
		next, err := q.nextOffer(ctx, p)
		if err != nil {
			return nil, err
		}
		now := q.now()
		if !next.IsZero() && !next.After(now) {
			w, err := q.claim(ctx, p)
			if w != nil || err != nil {
				return w, err
			}
			continue // another poll was faster
		}
		if !now.Before(deadline) {
			return nil, nil
		}
		if next.IsZero() || next.After(deadline) {
			next = deadline
		}
		timer := time.NewTimer(next.Sub(now))
		select {
		case <-woken:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, nil
		}
		timer.Stop()
	}
}

// nextOffer is when the next item can be claimed; zero when none is queued.
func (q *Queue) nextOffer(ctx context.Context, p PollParams) (time.Time, error) {
	var at sql.NullInt64
	err := q.DB.Read(ctx, func(tx db.Tx) error {
		// A claim never precedes not_before, so a claimed item is on offer when
		// its claim is old enough.
		return tx.QueryRow(ctx, `SELECT MIN(CASE WHEN claimed_at IS NOT NULL THEN claimed_at + ? WHEN kept_for IN ('', ?) THEN not_before ELSE kept_until END)
			FROM work WHERE environment_id = ? AND state = 'queued'`, p.ReclaimAfter.Microseconds(), p.WorkerID, p.EnvironmentID).Scan(&at)
	})
	if err != nil && ctx.Err() == nil {
		return time.Time{}, fmt.Errorf("poll %s: %w", p.EnvironmentID, err)
	}
	if !at.Valid {
		return time.Time{}, nil
	}
	return time.UnixMicro(at.Int64), nil
}

func (q *Queue) claim(ctx context.Context, p PollParams) (*api.Work, error) {
	var it item
	err := q.DB.Write(ctx, func(tx db.Tx) error {
		now := q.now().UnixMicro()
		it = item{}
		return it.scan(tx.QueryRow(ctx, `UPDATE work SET claimed_at = ?, claim = claim + 1, worker_id = ?, kept_for = '' WHERE id = (
				SELECT id FROM work WHERE environment_id = ? AND state = 'queued' AND not_before <= ?
				AND (claimed_at IS NULL OR claimed_at <= ?) AND (kept_for IN ('', ?) OR kept_until <= ?) ORDER BY not_before, id LIMIT 1`+tx.SkipLocked()+`
			) RETURNING `+columns, now, p.WorkerID, p.EnvironmentID, now, now-p.ReclaimAfter.Microseconds(), p.WorkerID, now))
	})
	if errors.Is(err, sql.ErrNoRows) || errors.Is(err, context.Canceled) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("claim work of %s: %w", p.EnvironmentID, err)
	}
	w, err := it.work()
	if err != nil {
		return nil, err
	}
	secret, err := q.secret(&it)
	if err != nil {
		return nil, err
	}
	w.Secret = &secret
	return &w, nil
}

// presence remembers which workers polled, writing each down at most once per
// presenceFlush.
type presence struct {
	mu      sync.Mutex
	flushed map[[2]string]time.Time // by environment and worker; guarded by mu
}

// firstRefusal is how long an item is kept for the worker that served its session
// last and still asks for work.
const firstRefusal = 2 * time.Second

const (
	presenceWindow = 30 * time.Second
	presenceFlush  = 10 * time.Second
	maxWorkerID    = 256
)

func (q *Queue) seen(ctx context.Context, environmentID, workerID string) error {
	if workerID == "" {
		return nil
	}
	if len(workerID) > maxWorkerID {
		return api.Invalid("Anthropic-Worker-ID", "is longer than %d bytes", maxWorkerID)
	}
	if !q.presence.due(environmentID, workerID, q.now()) {
		return nil
	}
	return q.DB.Write(ctx, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO work_pollers (environment_id, worker_id, seen_at) VALUES (?, ?, ?)
			ON CONFLICT (environment_id, worker_id) DO UPDATE SET seen_at = excluded.seen_at`, environmentID, workerID, q.now().UnixMicro())
		return err
	})
}

func (p *presence) due(environmentID, workerID string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, at := range p.flushed {
		if now.Sub(at) > 2*presenceWindow {
			delete(p.flushed, key)
		}
	}
	key := [2]string{environmentID, workerID}
	if at, ok := p.flushed[key]; ok && now.Sub(at) < presenceFlush {
		return false
	}
	p.flushed[key] = now
	return true
}
