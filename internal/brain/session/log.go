package session

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"hearth/api"
	"hearth/internal/db"
)

// StoredEvent is an event as the log holds it. JSON is the wire form.
type StoredEvent struct {
	Seq  int64
	ID   string
	Type api.EventType
	JSON json.RawMessage
}

// LogEvent is an event with what only the brain sees of it.
type LogEvent struct {
	StoredEvent
	Event api.Event
	// Private is what the model adapter stored with the event, such as the
	// text and signature of thinking. Clients never see it.
	Private json.RawMessage
}

// EventFilter selects events of one log.
type EventFilter struct {
	Types         []api.EventType
	After, Before Bound // by processed_at; leaves out events that are still queued
	Descending    bool
	Limit         int
	CursorSeq     int64 // events strictly beyond it in the order; 0 for none
}

// Events returns a page of a log, in order, and whether more follow. The id of a
// session is that of its log; LogOf tells those of threads.
func (s *Store) Events(ctx context.Context, id string, f EventFilter) (events []StoredEvent, more bool, err error) {
	c := conditions{sql: "log_id = ?", args: []any{id}}
	c.in("type", anys(f.Types))
	c.bound("processed_at", ">", f.After)
	c.bound("processed_at", "<", f.Before)
	order, beyond := "ASC", ">"
	if f.Descending {
		order, beyond = "DESC", "<"
	}
	if f.CursorSeq != 0 {
		c.add("seq "+beyond+" ?", f.CursorSeq)
	}
	err = s.db.Read(ctx, func(tx db.Tx) error {
		if err := exists(ctx, tx, id); err != nil {
			return err
		}
		events, err = storedEvents(ctx, tx, c.sql+" ORDER BY seq "+order+" LIMIT ?", append(c.args, f.Limit+1)...)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	if len(events) > f.Limit {
		return events[:f.Limit], true, nil
	}
	return events, false, nil
}

// exists tells by its error whether there is a log.
func exists(ctx context.Context, tx db.Tx, logID string) error {
	_, err := standing(ctx, tx, logID)
	return err
}

// standing reads the number of the last event of a log, and whether the log has
// come to its end.
func standing(ctx context.Context, tx db.Tx, logID string) (end logEnd, err error) {
	query, kind := "SELECT seq, status FROM sessions WHERE id = ? AND deleted_at IS NULL", "session"
	if isThread(logID) {
		query, kind = "SELECT threads.seq, threads.status FROM threads JOIN sessions ON sessions.id = session_id WHERE threads.id = ? AND deleted_at IS NULL", "thread"
	}
	err = tx.QueryRow(ctx, query, logID).Scan(&end.seq, &end.status)
	if errors.Is(err, sql.ErrNoRows) {
		return end, api.NotFound(kind, logID)
	}
	if err != nil {
		return end, fmt.Errorf("read how the log of %s stands: %w", logID, err)
	}
	return end, nil
}

// logEnd is how far a log goes.
type logEnd struct {
	seq    int64
	status api.SessionStatus
}

// isThread tells a log of a thread from that of a session.
func isThread(logID string) bool { return strings.HasPrefix(logID, api.PrefixThread+"_") }

// lastEvents are the types of event after which nothing follows in a log.
func lastEvents(logID string) []api.EventType {
	if isThread(logID) {
		return []api.EventType{api.EventThreadStatusTerminated, api.EventSessionDeleted}
	}
	return []api.EventType{api.EventSessionStatusTerminated, api.EventSessionDeleted}
}

func storedEvents(ctx context.Context, tx db.Tx, where string, args ...any) ([]StoredEvent, error) {
	rows, err := tx.Query(ctx, "SELECT seq, id, type, json FROM events WHERE "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	defer rows.Close()
	var events []StoredEvent
	for rows.Next() {
		var e StoredEvent
		var raw string
		if err := rows.Scan(&e.Seq, &e.ID, &e.Type, &raw); err != nil {
			return nil, err
		}
		e.JSON = json.RawMessage(raw)
		events = append(events, e)
	}
	return events, rows.Err()
}

// readEvents reads events decoded and with their private part.
func readEvents(ctx context.Context, tx db.Tx, where string, args ...any) ([]LogEvent, error) {
	rows, err := tx.Query(ctx, "SELECT seq, id, type, json, private FROM events WHERE "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	defer rows.Close()
	var events []LogEvent
	for rows.Next() {
		var e LogEvent
		var raw string
		var private sql.NullString
		if err := rows.Scan(&e.Seq, &e.ID, &e.Type, &raw, &private); err != nil {
			return nil, err
		}
		e.JSON = json.RawMessage(raw)
		if private.Valid {
			e.Private = json.RawMessage(private.String)
		}
		if err := json.Unmarshal(e.JSON, &e.Event); err != nil {
			return nil, fmt.Errorf("decode event %s: %w", e.ID, err)
		}
		events = append(events, e)
	}
	return events, rows.Err()
}
