package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"hearth/api"
	"hearth/internal/db"
)

// Subscription is a live view of one log. It holds no events: told
// that the log has grown, it reads what it lacks, so it may lag without cost.
// It is for one goroutine.
type Subscription struct {
	store  *Store
	id     string
	last   int64 // seq of the last event delivered
	woken  <-chan string
	cancel func()
	ended  bool // the log's last event was delivered
	behind bool // the log may hold more than last without a new notice
}

// batch is how many events one read delivers at most.
const batch = 256

// Subscribe opens a live view from now on, or, when afterID names an event of
// the log, from the event after it. It delivers every later event at least
// once, in order. An unknown afterID is as none. A session or thread that is
// over delivers its last event, so that nobody waits for ever. The id is that of
// a session, or a thread's log.
func (s *Store) Subscribe(ctx context.Context, id, afterID string) (*Subscription, error) {
	sub := &Subscription{store: s, id: id, behind: true}
	// Listening comes first: what happens after the read below is then noticed.
	sub.woken, sub.cancel = s.db.Subscribe(topic(id))
	err := s.db.Read(ctx, func(tx db.Tx) error {
		end, err := standing(ctx, tx, id)
		if err != nil {
			return err
		}
		sub.last = end.seq
		if end.status == api.SessionTerminated {
			err = tx.QueryRow(ctx, "SELECT seq - 1 FROM events WHERE log_id = ? AND type = ? ORDER BY seq DESC LIMIT 1", id, lastEvents(id)[0]).Scan(&sub.last)
			if err != nil {
				return fmt.Errorf("subscribe to %s: %w", id, err)
			}
		}
		if afterID == "" {
			return nil
		}
		err = tx.QueryRow(ctx, "SELECT seq FROM events WHERE log_id = ? AND id = ?", id, afterID).Scan(&sub.last)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		sub.cancel()
		return nil, err
	}
	return sub, nil
}

// Next waits for what comes next: stored events, or previews (JSON only, no
// Seq), which are best effort. It returns io.EOF after the log's last event.
func (sub *Subscription) Next(ctx context.Context) ([]StoredEvent, error) {
	for {
		if sub.ended {
			return nil, io.EOF
		}
		if sub.behind {
			events, err := sub.read(ctx)
			if len(events) > 0 || err != nil {
				return events, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case notice := <-sub.woken:
			if strings.HasPrefix(notice, "{") {
				return []StoredEvent{{JSON: json.RawMessage(notice)}}, nil
			}
			seq, err := strconv.ParseInt(notice, 10, 64)
			sub.behind = err != nil || seq > sub.last
		}
	}
}

func (sub *Subscription) read(ctx context.Context) ([]StoredEvent, error) {
	var events []StoredEvent
	err := sub.store.db.Read(ctx, func(tx db.Tx) (err error) {
		events, err = storedEvents(ctx, tx, "log_id = ? AND seq > ? ORDER BY seq LIMIT ?", sub.id, sub.last, batch)
		return err
	})
	if err != nil {
		return nil, err
	}
	sub.behind = len(events) == batch
	for i, e := range events {
		sub.last = e.Seq
		if slices.Contains(lastEvents(sub.id), e.Type) {
			sub.ended = true
			return events[:i+1], nil
		}
	}
	return events, nil
}

// Close ends the subscription.
func (sub *Subscription) Close() { sub.cancel() }

// Preview fans out a preview (event_start, event_delta) to the subscribers of a
// log, in this process and in others, best effort.
func (s *Store) Preview(ctx context.Context, logID string, preview any) {
	raw, err := json.Marshal(preview)
	if err != nil {
		return
	}
	_ = s.db.Publish(ctx, topic(logID), string(raw)) // best effort
}
